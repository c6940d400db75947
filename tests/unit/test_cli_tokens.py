"""`mailquay tokens` over a real Valkey: what is stored, who is forgotten, and new keys while everything runs."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
from cryptography.fernet import Fernet

from tests.bed.dovecot import Dovecot
from tests.bed.errands import pulled
from tests.bed.identity import Identity
from tests.bed.installation import Installation
from tests.bed.processes import wait_until
from worker.demo.harbour import ALICE, BOB
from worker.errors import MailquayError, TokensUnreadable
from worker.quay import Quay
from worker.tokens import AccessToken, Grant

STRANGER = "stranger@example.com"


@pytest.fixture
def ours(installation: Installation) -> Installation:
    """Alice signs in for two mailboxes."""
    installation.environ["ENTRA__CLIENT_ID"] = "client"
    for name in ("box", "desk"):
        installation.mailbox(
            name, address=f"{name}@harbour.example", account=ALICE, auth="delegated", host="localhost", outputs="lines"
        )  # fmt: skip
    return installation


def key_file(installation: Installation) -> Path:
    return installation.folder / "data" / "token_keys"


def keys(installation: Installation) -> list[str]:
    return key_file(installation).read_text().split()


def replace_keys(installation: Installation, *lines: str) -> None:
    """As an editor does: in one step."""
    unfinished = key_file(installation).with_suffix(".new")
    unfinished.write_text("".join(f"{line}\n" for line in lines))
    unfinished.replace(key_file(installation))


def sign_in(quay: Quay, account: str) -> None:
    grant = Grant("refresh-t0ken", {"scope": AccessToken("access-t0ken", 9e9, 8e9)})
    assert quay.token_store.swap(
        account, grant, read=0, now=1_800_000_000, client_id="client", signed_in=True
    )


# -- list and forget -------------------------------------------------------------------------------------------------


def test_list_shows_every_account_that_something_is_stored_for_and_no_token(ours: Installation) -> None:
    """Also one that no mailbox uses any more; no key is needed for it."""
    assert "no account has signed in yet" in ours.run("tokens", "list").stdout
    quay = ours.quay()
    sign_in(quay, ALICE)
    sign_in(quay, STRANGER)
    replace_keys(ours, Fernet.generate_key().decode())

    listed, table = ours.run("tokens", "list", "--json"), ours.run("tokens", "list")

    assert (listed.returncode, listed.stderr, table.returncode) == (0, "", 0)
    assert [orjson.loads(line) for line in listed.stdout.splitlines()] == [
        {
            "account": account,
            "client_id": "client",
            "signed_in_at": 1_800_000_000.0,
            "renewed_at": 1_800_000_000.0,
            "mailboxes": mailboxes,
        }
        for account, mailboxes in ((ALICE, ["box", "desk"]), (STRANGER, []))
    ]
    assert all(word in table.stdout for word in (ALICE, STRANGER, "box, desk", "none"))
    assert "t0ken" not in listed.stdout + table.stdout


def test_forget_asks_twice_and_then_nothing_is_left(ours: Installation) -> None:
    """However the account is written; one that is unknown is named."""
    quay = ours.quay()
    sign_in(quay, ALICE)

    # Nobody answers.
    assert ours.run("tokens", "forget", ALICE).returncode == 1
    assert quay.token_store.accounts() == [ALICE]
    assert ours.run("tokens", "forget", ALICE.upper(), "--yes").returncode == 0
    assert quay.token_store.accounts() == []
    unknown = ours.run("tokens", "forget", ALICE, "--yes")
    assert (unknown.returncode, ALICE in unknown.stderr) == (1, True)


# -- keys ------------------------------------------------------------------------------------------------------------


def test_a_new_key_comes_first_and_the_old_ones_still_open(ours: Installation) -> None:
    """What to do next is said, on standard error; the file stays its owner's alone."""
    quay = ours.quay()
    sign_in(quay, ALICE)
    before = keys(ours)

    done = ours.run("tokens", "new-key")

    assert (done.returncode, done.stdout) == (0, "")
    assert "mailquay tokens rotate" in done.stderr
    assert keys(ours)[1:] == before
    assert key_file(ours).stat().st_mode & 0o777 == 0o600
    assert quay.token_store.load(ALICE).grant


def test_a_key_can_be_printed_before_there_is_any_configuration(tmp_path: Path) -> None:
    """For a file that is kept elsewhere, and which a wrong configuration asks for. Nothing else is printed with it."""
    (tmp_path / ".env").write_text("TOKEN_KEYS_FILE=missing\n")
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", "tokens", "new-key", "--print"],
        cwd=tmp_path,
        env=Installation(tmp_path, redis_url=None).full_environ(),
        capture_output=True,
        text=True,
        check=True,
    )

    Fernet(done.stdout.strip())
    assert "first line of the file" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [".env"]


def test_rotate_seals_everything_anew_and_names_what_it_cannot_open(ours: Installation) -> None:
    """One that was sealed with a lost key does not keep the others from it."""
    quay = ours.quay()
    sign_in(quay, STRANGER)
    lost = keys(ours)
    replace_keys(ours, Fernet.generate_key().decode())
    sign_in(quay, ALICE)
    sign_in(quay, BOB)
    ours.run("tokens", "new-key")

    done = ours.run("tokens", "rotate")

    assert done.returncode == 1
    assert done.stdout == "2 sealed with the newest key, 1 cannot be opened\n"
    assert (STRANGER in done.stderr, done.stderr.count("\n")) == (True, 1)
    newest, *_ = keys(ours)
    replace_keys(ours, newest)
    assert all(quay.token_store.load(account).grant for account in (ALICE, BOB))
    replace_keys(ours, newest, *lost)
    again = ours.run("tokens", "rotate")
    assert (again.returncode, again.stdout) == (0, "3 sealed with the newest key, 0 cannot be opened\n")


def test_there_is_nothing_to_rotate_where_tokens_lie_in_clear(ours: Installation) -> None:
    """Else somebody would believe that they are sealed now."""
    done = ours.run("tokens", "rotate", DANGEROUSLY_STORE_TOKENS_IN_CLEAR="yes")

    assert (done.returncode, "DANGEROUSLY_STORE_TOKENS_IN_CLEAR" in done.stderr) == (1, True)


Loop = Callable[[Quay, str], MailquayError | None]


class Loops:
    """Threads that go on pulling and renewing, each with a quay of its own, as workers have it."""

    def __init__(self) -> None:
        self.rounds: Counter[str] = Counter()
        self.troubles: list[MailquayError] = []
        self._stop = threading.Event()

    @contextmanager
    def running(self, installation: Installation) -> Iterator[Loops]:
        loops = {
            "pull box": self._pull,
            "pull yard": self._pull,
            "renew box": self._renew,
            "renew yard": self._renew,
        }
        threads = [
            threading.Thread(target=self._go_on, args=(name, loop, installation.quay()))
            for name, loop in loops.items()
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def went_on(self, *, rounds: int = 2) -> None:
        """Wait until each has done so many rounds that began after now."""
        before = dict(self.rounds)
        wait_until(
            lambda: (
                len(self.rounds) == 4
                and all(self.rounds[name] > before.get(name, 0) + rounds for name in self.rounds)
            ),
            timeout=30,
            what="pulls and refreshes",
        )

    def _go_on(self, name: str, loop: Loop, quay: Quay) -> None:
        while not self._stop.is_set():
            if trouble := loop(quay, name.split()[1]):
                self.troubles.append(trouble)
            self.rounds[name] += 1

    def _pull(self, quay: Quay, mailbox: str) -> MailquayError | None:
        return pulled(quay, mailbox).trouble

    def _renew(self, quay: Quay, name: str) -> MailquayError | None:
        mailbox = quay.settings.mailboxes[name]
        try:
            quay.keeper(mailbox).renew(mailbox.account, mailbox.scopes)
        except MailquayError as error:
            return error
        return None


def test_keys_are_changed_while_mailboxes_are_pulled_and_tokens_renewed(
    installation: Installation, dovecot: Dovecot, fresh_identity: Identity
) -> None:
    """Three commands and nobody notices; afterwards the new key opens everything and the old one nothing."""
    installation.signs_in_at(fresh_identity)
    installation.on_dovecot("box", dovecot, ALICE, auth="delegated")
    installation.on_dovecot("yard", dovecot, BOB, auth="delegated")
    quay = installation.quay()
    for account in (ALICE, BOB):
        installation.sign_in(quay, fresh_identity, account)
    (old,) = keys(installation)

    with Loops().running(installation) as loops:
        loops.went_on()
        assert installation.run("tokens", "new-key").returncode == 0
        loops.went_on()
        rotated = installation.run("tokens", "rotate")
        loops.went_on()
        new, _ = keys(installation)
        replace_keys(installation, new)
        loops.went_on()

    assert rotated.stdout == "2 sealed with the newest key, 0 cannot be opened\n"
    assert loops.troubles == []
    assert all(quay.token_store.load(account).grant for account in (ALICE, BOB))
    replace_keys(installation, old)
    for account in (ALICE, BOB):
        with pytest.raises(TokensUnreadable):
            quay.token_store.load(account)
