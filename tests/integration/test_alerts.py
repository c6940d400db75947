"""People hear of lost access in time, once, and of its end: over a real Valkey, a real provider and a real receiver."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import standardwebhooks
from structlog.testing import capture_logs

from tests.bed.dovecot import Dovecot
from tests.bed.errands import pulled
from tests.bed.identity import Identity, self_signed
from tests.bed.installation import Installation
from tests.bed.processes import free_port
from tests.contract.receiver import Answer, Call, Receiver, receiving
from worker.alert import alert
from worker.demo.harbour import ALICE, BOB, ORDERS, SUPPORT
from worker.demo.receiver import signed
from worker.errors import LoginRefused
from worker.quay import Quay
from worker.timetable import ALERT
from worker.tokens.verdict import DOUBT_SECONDS

HOUR, DAY = 3600.0, 86400.0
LOST = f"account.lost:{ALICE}"


class Told:
    """The calls that a receiver got and took: each checked, and as (id, state)."""

    def __init__(self, receiver: Receiver, secret: str, identity: Identity) -> None:
        self.receiver = receiver
        self._secret, self._identity = secret, identity

    def bodies(self) -> list[dict[str, Any]]:
        for call in self.receiver.calls:
            assert signed(call.headers, call.body, secret=self._secret, now=self._identity.now())
        return [json.loads(call.body) for call in self.receiver.calls]

    def __call__(self) -> list[tuple[str, str]]:
        return [(body["id"], body["state"]) for body in self.bodies()]


@pytest.fixture
def told(installation: Installation, fresh_identity: Identity) -> Iterator[Told]:
    """An installation whose alerts go to a receiver."""
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
    with receiving() as receiver:
        installation.environ |= {"ALERT__URL": receiver.url, "ALERT__SECRET": secret}
        yield Told(receiver, secret, fresh_identity)


@pytest.fixture
def ours(installation: Installation, dovecot: Dovecot, fresh_identity: Identity) -> Installation:
    """One mailbox of Alice's, and one that she shares; the clock is the provider's."""
    installation.signs_in_at(fresh_identity)
    installation.on_dovecot("box", dovecot, ALICE, auth="delegated")
    installation.on_dovecot("desk", dovecot, SUPPORT, account=ALICE, auth="delegated")
    return installation


@pytest.fixture
def quay(ours: Installation, told: Told, fresh_identity: Identity) -> Quay:
    """Alice has signed in."""
    quay = ours.quay(clock=fresh_identity.now)
    ours.sign_in(quay, fresh_identity, ALICE)
    return quay


def refuse(quay: Quay, mailbox: str) -> None:
    """As if the server had refused the mailbox three times."""
    for _ in range(3):
        quay.standings.ill(mailbox, quay.clock(), LoginRefused("look at the mailbox"))


def poll(quay: Quay, *, times: int = 1) -> None:
    """What the workers do in so many minutes."""
    for _ in range(times):
        pulled(quay, "box")
        pulled(quay, "desk")
        alert(quay)


def aged(quay: Quay, days: float) -> None:
    """As if Alice's sign-in had last been renewed so long ago."""
    store = quay.token_store
    stored = store.load(ALICE)
    assert stored.grant
    renewed_at = quay.clock() - days * DAY
    assert store.swap(ALICE, stored.grant, read=stored.version, now=renewed_at, client_id=stored.client_id)


def test_a_revoked_account_is_told_of_once_after_its_grace_and_again_when_somebody_signed_in(
    ours: Installation, quay: Quay, told: Told, fresh_identity: Identity
) -> None:
    """Ten looks are one alert for all its mailboxes; the person who has to act finds his command in it."""
    poll(quay)
    fresh_identity.provider.revoke(ALICE)
    fresh_identity.offset += HOUR
    poll(quay, times=2)
    assert told() == []

    fresh_identity.offset += DOUBT_SECONDS
    with capture_logs() as logs:
        poll(quay, times=10)
        (body,) = told.bodies()
        ours.sign_in(quay, fresh_identity, ALICE)
        poll(quay, times=10)

    assert (body["id"], body["kind"], body["subject"]) == (LOST, "account.lost", ALICE)
    assert (body["mailboxes"], f"mailquay login {ALICE}" in body["sentence"]) == (["box", "desk"], True)
    assert told() == [(LOST, "raised"), (LOST, "cleared")]
    events = [(line["event"], line["log_level"]) for line in logs if line["event"].startswith("alert.")]
    assert events == [("alert.raised", "warning"), ("alert.cleared", "info")]


def test_the_same_trouble_a_second_time_is_a_new_alert(
    ours: Installation, quay: Quay, told: Told, fresh_identity: Identity
) -> None:
    """Its calls have ids of their own: a receiver that drops repetitions must not drop it."""
    for _ in range(2):
        aged(quay, 80)
        alert(quay)
        ours.sign_in(quay, fresh_identity, ALICE)
        fresh_identity.offset += 60
        alert(quay)

    assert [state for _, state in told()] == ["raised", "cleared", "raised", "cleared"]
    assert len({call.headers["webhook-id"] for call in told.receiver.calls}) == 4


def test_an_alert_that_nobody_took_is_told_again_under_the_same_id_until_somebody_does(
    quay: Quay, told: Told
) -> None:
    """A receiver that is in trouble, or says no, has not been told; what is over by then is told in order."""
    answers = iter([Answer(status=503), Answer(status=410), Answer(broken=True)])
    told.receiver.answer = lambda _: next(answers, Answer())
    aged(quay, 80)
    with capture_logs() as logs:
        for _ in range(6):
            alert(quay)

    ending = (f"account.ending:{ALICE}", "raised")
    assert told() == [ending] * 4
    assert len({call.headers["webhook-id"] for call in told.receiver.calls}) == 1
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("alert.raised", "warning"),
        ("alert.delayed", "warning"),
        ("alert.delayed", "info"),
        ("alert.delayed", "info"),
    ]


def test_what_began_and_ended_while_the_receiver_was_down_is_told_in_its_order(
    ours: Installation, quay: Quay, told: Told, fresh_identity: Identity
) -> None:
    """Cleared before raised would leave an alarm on for ever. Another alert is not kept back by it."""
    ending = f"account.ending:{ALICE}"
    told.receiver.answer = lambda call: Answer(status=503 if b"account.ending" in call.body else 204)
    aged(quay, 80)
    alert(quay)
    ours.sign_in(quay, fresh_identity, ALICE)
    refuse(quay, "box")
    alert(quay)
    assert set(told()) == {(ending, "raised"), (f"mailbox.lost:{ALICE}", "raised")}

    told.receiver.answer = lambda _: Answer()
    told.receiver.calls.clear()
    alert(quay)
    alert(quay)

    assert told() == [(ending, "raised"), (ending, "cleared")]


def test_a_receiver_that_cannot_be_reached_stops_nothing_and_hears_of_it_later(
    ours: Installation, quay: Quay, told: Told, fresh_identity: Identity
) -> None:
    """The log has it at once."""
    away = ours.quay(clock=fresh_identity.now, ALERT__URL=f"http://127.0.0.1:{free_port()}/")
    aged(quay, 80)
    with capture_logs() as logs:
        assert [one.kind for one in alert(away)] == ["account.ending"]
    assert [line["event"] for line in logs] == ["alert.raised", "alert.delayed"]

    assert alert(quay) == []

    assert told() == [(f"account.ending:{ALICE}", "raised")]


def test_without_a_webhook_the_log_has_it_and_one_that_is_named_later_hears_what_still_stands(
    ours: Installation, quay: Quay, told: Told, fresh_identity: Identity
) -> None:
    """And nothing of what is over."""
    url = ours.environ.pop("ALERT__URL")
    silent = ours.quay(clock=fresh_identity.now)
    refuse(quay, "box")
    aged(quay, 80)
    alert(silent)
    ours.sign_in(quay, fresh_identity, ALICE)
    with capture_logs() as logs:
        alert(silent)
        alert(silent)
    assert [line["event"] for line in logs] == ["alert.cleared"]
    assert told() == []

    alert(ours.quay(clock=fresh_identity.now, ALERT__URL=url))

    assert told() == [(f"mailbox.lost:{ALICE}", "raised")]


TELL = "from worker.alert import alert; from worker.quay import quay; raise SystemExit(len(alert(quay())))"


def test_of_two_processes_that_look_at_once_one_tells(ours: Installation, quay: Quay, told: Told) -> None:
    """The other one finds it at work, and leaves it alone."""
    aged(quay, 80)
    begun, go_on = threading.Event(), threading.Event()

    def answer(_: Call) -> Answer:
        begun.set()
        go_on.wait(20)
        return Answer()

    told.receiver.answer = answer
    with _python(ours, TELL) as one:
        try:
            assert begun.wait(20)
            with _python(ours, TELL) as other:
                assert other.wait(20) == 0
        finally:
            go_on.set()
        assert one.wait(20) == 1

    assert told() == [(f"account.ending:{ALICE}", "raised")]


def _python(ours: Installation, program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program], cwd=ours.folder, env=ours.full_environ())


def test_an_account_that_nobody_renewed_for_eighty_days_is_announced_until_it_is_renewed(
    quay: Quay, told: Told
) -> None:
    """Microsoft forgets it after 90; the alert says when."""
    aged(quay, 80)
    alert(quay)
    quay.keeper(quay.settings.mailboxes["box"]).renew(ALICE, quay.settings.mailboxes["box"].scopes)
    alert(quay)

    raised, cleared = told.bodies()
    assert (raised["kind"], raised["state"], cleared["state"]) == ("account.ending", "raised", "cleared")
    assert raised["ends_at"] == pytest.approx(quay.clock() + 10 * DAY, abs=60)


def test_a_secret_that_ends_in_ten_days_is_announced_and_one_that_has_ended_as_well(
    ours: Installation, quay: Quay, told: Told, fresh_identity: Identity
) -> None:
    """Each in its time; a new one clears it. No provider tells: the operator has."""
    day = datetime.fromtimestamp(fresh_identity.now(), UTC).date() + timedelta(days=10)
    secret = secrets.token_urlsafe(24)
    said = {"ENTRA__CLIENT_SECRET": secret, "ENTRA__CLIENT_SECRET_EXPIRES": day.isoformat()}
    alert(ours.quay(clock=fresh_identity.now, **said))
    fresh_identity.offset += 11 * DAY
    alert(ours.quay(clock=fresh_identity.now, **said))
    later = {**said, "ENTRA__CLIENT_SECRET_EXPIRES": (day + timedelta(days=365)).isoformat()}
    alert(ours.quay(clock=fresh_identity.now, **later))

    subject = f"secret of {fresh_identity.client_id}"
    fresh_identity.offset = 0  # The first calls were signed at their time.
    bodies = [json.loads(call.body) for call in told.receiver.calls]
    assert [(body["id"], body["state"]) for body in bodies] == [
        (f"credential.ending:{subject}", "raised"),
        (f"credential.ended:{subject}", "raised"),
        (f"credential.ending:{subject}", "cleared"),
        (f"credential.ended:{subject}", "cleared"),
    ]
    assert day.isoformat() in bodies[0]["sentence"]
    assert secret not in "".join(body["sentence"] for body in bodies)


def test_a_certificate_that_ends_in_ten_days_is_announced_until_its_file_is_replaced(
    ours: Installation, quay: Quay, told: Told, fresh_identity: Identity
) -> None:
    """It says so itself; nobody has to write it down."""
    file = ours.folder / "robot.pem"
    file.write_text(self_signed(days=10)[0])
    careful = ours.quay(clock=fresh_identity.now, ENTRA__CERTIFICATE_FILE=str(file))
    alert(careful)
    file.write_text(self_signed(days=365)[0])
    alert(careful)

    subject = f"certificate of {fresh_identity.client_id}"
    assert told() == [
        (f"credential.ending:{subject}", "raised"),
        (f"credential.ending:{subject}", "cleared"),
    ]
    (mailboxes,) = {tuple(body["mailboxes"]) for body in told.bodies()}
    assert mailboxes == ("box", "desk")


def test_mailboxes_that_the_server_does_not_open_are_one_alert_until_they_were_pulled(
    installation: Installation, dovecot: Dovecot, told: Told, fresh_identity: Identity
) -> None:
    """Bob may not open Alice's mailboxes; his account is well, so this is told apart from it."""
    installation.signs_in_at(fresh_identity)
    installation.on_dovecot("box", dovecot, ALICE, account=BOB, auth="delegated")
    installation.on_dovecot("desk", dovecot, SUPPORT, account=BOB, auth="delegated")
    quay = installation.quay(clock=fresh_identity.now)
    installation.sign_in(quay, fresh_identity, BOB)
    poll(quay, times=2)
    assert told() == []
    poll(quay, times=2)
    assert told() == [(f"mailbox.lost:{BOB}", "raised")]

    installation.on_dovecot("box", dovecot, BOB, account=BOB, auth="delegated")
    installation.on_dovecot("desk", dovecot, ORDERS, account=BOB, auth="delegated")
    poll(installation.quay(clock=fresh_identity.now))

    assert told() == [(f"mailbox.lost:{BOB}", "raised"), (f"mailbox.lost:{BOB}", "cleared")]


def test_a_mailbox_that_fails_the_same_way_again_does_not_alarm_every_minute(
    quay: Quay, fresh_identity: Identity
) -> None:
    """One warning when it begins and one when it becomes something else; in between it is told quietly."""
    fresh_identity.provider.revoke(ALICE)
    fresh_identity.offset += HOUR
    with capture_logs() as logs:
        for _ in range(3):
            pulled(quay, "box")
        fresh_identity.offset += DOUBT_SECONDS
        for _ in range(3):
            pulled(quay, "box")

    assert [(line["log_level"], line["state"], line["failures"]) for line in logs] == [
        ("warning", "sign-in doubtful", 1),
        ("info", "sign-in doubtful", 2),
        ("info", "sign-in doubtful", 3),
        ("warning", "needs sign-in", 1),
        ("info", "needs sign-in", 2),
        ("info", "needs sign-in", 3),
    ]


def test_the_workers_task_tells_and_answers_its_bell(ours: Installation, quay: Quay, told: Told) -> None:
    """As beat rings it every minute."""
    quay.timetable.sync({ALERT: 60.0}, quay.clock())
    assert quay.timetable.claim(quay.clock()) == [ALERT]
    aged(quay, 80)

    with _python(ours, "from worker.tasks import alert; alert()") as process:
        assert process.wait(20) == 0

    assert told() == [(f"account.ending:{ALICE}", "raised")]
    assert quay.timetable.unanswered() == []


def test_mailquay_once_tells_at_its_end_and_any_library_verifies_it(ours: Installation, told: Told) -> None:
    """From cron there is nobody else to tell; a mailbox that was polled before anybody signed in has no access."""
    ours.run("once")
    ours.run("once")

    (call,) = told.receiver.calls
    standardwebhooks.Webhook(ours.environ["ALERT__SECRET"]).verify(call.body, dict(call.headers))
    assert told() == [(LOST, "raised")]
