"""Logs hold no secret where they say most (promise P7); the scan after the whole run looks for the rest."""

from __future__ import annotations

import base64
import os
import secrets
import subprocess
import sys

import pytest

from tests.bed.dovecot import Dovecot
from tests.bed.identity import Identity
from tests.bed.installation import Installation, numbered
from tests.bed.leaks import Leaks
from tests.bed.lookout import watching
from tests.bed.processes import wait_until
from tests.bed.valkey import Valkey
from tests.contract.receiver import receiving
from tests.integration.test_roles import log_of, up
from worker.demo.harbour import ALICE
from worker.demo.identity import Settings

UNFORESEEN = """
import logging, os
from worker import log
log.configure(level="info", form=os.environ["FORM"])
def sign_in(token):
    raise RuntimeError("nobody foresaw this")
try:
    sign_in(os.environ["TOKEN"])
except RuntimeError:
    logging.getLogger("celery.app.trace").exception("it broke")
"""

UNREADABLE = """
import logging, os
from worker import log
log.configure(level="debug", form=os.environ["FORM"])
logging.getLogger("msal.oauth2cli.oauth2").error("Token response is not in json format: %s", os.environ["TOKEN"])
logging.getLogger("worker").error("heard")
"""


def logged(script: str, token: str, form: str) -> str:
    """What a process logs that runs `script`."""
    environ = {**os.environ, "FORM": form, "TOKEN": token}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=environ, stderr=subprocess.PIPE, text=True, check=True).stderr


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_values(form: str) -> None:
    """Celery logs one for an error that nobody foresaw; functions that handle tokens and mail have them in variables."""
    token = secrets.token_urlsafe(48)
    said = logged(UNFORESEEN, token, form)

    assert "nobody foresaw this" in said
    assert token[:16] not in said


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_answer_that_msal_cannot_read_is_not_shown(form: str) -> None:
    """MSAL logs it as it is, and there may be a refresh token in it."""
    token = secrets.token_urlsafe(48)
    said = logged(UNREADABLE, token, form)

    assert "heard" in said
    assert token[:16] not in said


@pytest.mark.slow
def test_an_installation_that_logs_all_it_can_says_no_secret(
    installation: Installation, dovecot: Dovecot, fresh_identity: Identity, fresh_valkey: Valkey
) -> None:
    """At level debug: sign-in, refreshes, a refused password, signed webhooks, and a Redis with a password that dies."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, *map(numbered, range(5)))
    installation.signs_in_at(fresh_identity)
    fresh_identity.provider.settings = Settings(token_lifetime=5)
    with watching(Leaks(installation.folder)) as lookout, receiving() as receiver:
        wrong, password = secrets.token_urlsafe(), secrets.token_urlsafe()
        with fresh_valkey.client() as client:
            client.config_set("requirepass", password)
        installation.on_dovecot("own", dovecot, ALICE, auth="delegated", every="1s", outputs="lines,hook")
        installation.on_dovecot("wrong", dovecot, ALICE, password=wrong, every="1s")
        installation.environ |= {
            "REDIS_URL": fresh_valkey.url.replace("//", f"//:{password}@"),
            "OUTPUT__HOOK__TYPE": "webhook",
            "OUTPUT__HOOK__URL": receiver.url,
            "OUTPUT__HOOK__SECRET": f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}",
            "LOG_LEVEL": "debug",
            "LOG_FORMAT": "console",
        }
        installation.sign_in(installation.quay(), fresh_identity, ALICE)
        with up(installation):
            wait_until(lambda: len(receiver.calls) >= 5, timeout=40, what="the delivery")
            wait_until(lambda: "login refused" in log_of(installation), timeout=20, what="the refusal")
            for verb in ("check --connect", "status", "status --json"):
                installation.run(*verb.split())
            fresh_valkey.kill9()
            address = f"127.0.0.1:{fresh_valkey.port}"
            wait_until(lambda: address in log_of(installation), timeout=20, what="a complaint about Redis")
        installation.run("once")
        lookout.leaks.look_into(installation.folder)

        assert list(map(str, lookout.leaks.found())) == []
