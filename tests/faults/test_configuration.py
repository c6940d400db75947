"""A configuration that is wrong, and token keys that do not fit: said at once, and nothing is lost by it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from tests.bed.dovecot import Dovecot
from tests.bed.errands import flow
from tests.bed.identity import Identity
from tests.bed.installation import Installation, numbered
from tests.faults.conftest import Events, delivered_once, of
from worker.demo.harbour import ALICE, BOB
from worker.errors import ConfigurationError


def test_check_prints_every_problem_at_once_and_exits_with_2(tmp_path: Path) -> None:
    """Unknown and missing keys, two mailboxes with one name, an unreadable secret file: a line each, no value shown."""
    secret = "hunter2-hunter2"
    unreadable = tmp_path / "secret"
    unreadable.mkdir()
    (tmp_path / "mailboxes").mkdir()
    (tmp_path / "mailboxes" / "twice.env").write_text("HOST=a.example\n")
    (tmp_path / "mailboxes" / "TWICE.env").write_text("HOST=b.example\n")
    installation = Installation(tmp_path, redis_url=None)
    installation.mailbox("box", adress=secret, host="mail.example", outputs="lines")
    installation.mailbox("other", address=BOB, host="mail.example", password_file=str(unreadable))
    installation.environ |= {"MAILBOX_DIR": str(tmp_path / "mailboxes"), "SWEEP_EVRY": secret}

    checked = installation.run("check")

    assert checked.returncode == 2
    lines = checked.stderr.splitlines()
    for variable, word in (
        ("MAILBOX__BOX__ADRESS", "ADDRESS"),
        ("MAILBOX__BOX__ADDRESS", "required"),
        ("MAILBOX__OTHER__PASSWORD_FILE", "read"),
        ("MAILBOX__OTHER__OUTPUTS", "required"),
        ("MAILBOX_DIR", "are one mailbox"),
    ):
        assert any(variable in line and word in line for line in lines), (variable, word, lines)
    assert secret not in checked.stdout + checked.stderr
    assert "Traceback" not in checked.stderr


def test_a_wrong_token_key_stops_its_mailboxes_only_until_the_right_one_is_back(
    installation: Installation, dovecot: Dovecot, fresh_identity: Identity, events: Events
) -> None:
    """The line names the variable and the remedy; a mailbox with a password goes on; the stored token is not harmed."""
    keys = installation.folder / "keys"
    keys.write_bytes(Fernet.generate_key() + b"\n")
    installation.signs_in_at(fresh_identity)
    for name, address in (("box", ALICE), ("other", BOB)):
        dovecot.forget(address)
        dovecot.save(address, *(numbered(n) for n in range(3)))
        auth = "delegated" if name == "box" else "password"
        installation.on_dovecot(name, dovecot, address, auth=auth)
    installation.environ["TOKEN_KEYS_FILE"] = str(keys)
    installation.sign_in(installation.quay(), fresh_identity, ALICE)
    right = keys.read_bytes()
    keys.write_bytes(Fernet.generate_key() + b"\n")

    quay = installation.quay()
    flow(quay, "box")
    flow(quay, "other")

    (event,) = of(events, "pull.failed")
    assert event["mailbox"] == "box"
    assert event["state"] == "misconfigured"
    assert "TOKEN_KEYS_FILE" in event["reason"]
    assert f"mailquay login {ALICE}" in event["reason"]
    assert delivered_once(installation, range(3), mailbox="other")
    keys.write_bytes(right)
    flow(installation.quay(), "box")
    assert delivered_once(installation, range(3), mailbox="box")


def test_a_key_file_without_a_key_is_named(
    installation: Installation, dovecot: Dovecot, fresh_identity: Identity, events: Events
) -> None:
    """Nothing starts with it; put in place of a good one it stops the mailbox with a sentence, and heals without a restart."""
    keys = installation.folder / "keys"
    keys.write_text("no key at all\n")
    dovecot.forget(ALICE)
    dovecot.save(ALICE, numbered(0))
    installation.signs_in_at(fresh_identity)
    installation.on_dovecot("box", dovecot, ALICE, auth="delegated")
    installation.environ["TOKEN_KEYS_FILE"] = str(keys)
    with pytest.raises(ConfigurationError, match="TOKEN_KEYS_FILE: the file must hold Fernet keys"):
        installation.quay()
    keys.write_bytes(Fernet.generate_key() + b"\n")
    quay = installation.quay()
    installation.sign_in(quay, fresh_identity, ALICE)
    keys.write_text("no key at all\n")

    flow(quay, "box")

    (event,) = of(events, "pull.failed")
    assert "TOKEN_KEYS_FILE" in event["reason"]
    keys.write_bytes(Fernet.generate_key() + b"\n")
    installation.sign_in(quay, fresh_identity, ALICE)
    flow(quay, "box")
    assert delivered_once(installation, range(1))
