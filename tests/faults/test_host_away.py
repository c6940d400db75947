"""A mail server of many mailboxes that goes away and comes back: one event, one probe at a time, no crowd, no alarms."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.bed.dovecot import Dovecot
from tests.bed.errands import pulled
from tests.bed.installation import Installation, numbered
from tests.bed.proxy import Fault, FaultProxy
from tests.faults.conftest import Events, of
from worker.alert import alert
from worker.cli.status import lines
from worker.demo.certificates import Certificates
from worker.demo.harbour import BOB
from worker.errand import Pulled
from worker.errors import HostAway
from worker.pull import pull
from worker.quay import Quay
from worker.timetable import pull_entry

MAILBOXES = 24
NAMES = [f"box{number:02}" for number in range(MAILBOXES)]


@dataclass
class Crowd:
    """Many mailboxes behind one proxy, pulled by processes whose clock runs as a test says."""

    installation: Installation
    proxy: FaultProxy
    calls: list[str]
    ahead: float = 0.0
    quays: list[Quay] = field(default_factory=list)

    def quay(self) -> Quay:
        """One more process."""
        quay = self.installation.quay(clock=lambda: time.time() + self.ahead, HOST_LOGINS="1000")
        connect: Callable[..., Any] = quay.connect

        def counted(mailbox: Any, credentials: Any) -> Any:
            self.calls.append(mailbox.name)
            return connect(mailbox, credentials)

        quay.connect = counted  # type: ignore[method-assign]
        self.quays.append(quay)
        return quay

    def poll(self, *names: str) -> list[Pulled]:
        """Pull mailboxes one after the other."""
        return [pulled(self.quays[0], name) for name in names or NAMES]

    def go_away(self, how: str) -> None:
        if how == "refuses":
            self.proxy.stop()
        else:
            self.proxy.fault = Fault("hang up")

    def come_back(self, how: str) -> None:
        if how == "refuses":
            self.proxy.start()
        else:
            self.proxy.fault = None


@pytest.fixture
def crowd(installation: Installation, dovecot: Dovecot, certificates: Certificates) -> Iterator[Crowd]:
    """All pulled once, and on schedule."""
    proxy = FaultProxy(dovecot.imaps_port, trusted=certificates)
    proxy.start()
    dovecot.forget(BOB)
    dovecot.save(BOB, numbered(0))
    for name in NAMES:
        installation.on_dovecot(name, dovecot, BOB, port=str(proxy.port), every="5m")
    crowd = Crowd(installation, proxy, [])
    quay = crowd.quay()
    quay.timetable.sync(dict.fromkeys(map(pull_entry, NAMES), 300.0), quay.clock())
    quay.timetable.claim(quay.clock())
    assert [one.messages for one in crowd.poll()] == [1] * MAILBOXES
    crowd.calls.clear()
    yield crowd
    proxy.close()


HOW = ("refuses", "hangs up")


@pytest.mark.parametrize("how", HOW)
def test_a_server_that_goes_away_is_called_by_five_and_told_of_once(
    crowd: Crowd, events: Events, how: str
) -> None:
    """The others are not tried, not called failed, and keep their times; `status` says of each what it waits for."""
    quay = crowd.quays[0]
    dues = [quay.timetable.due(pull_entry(name)) for name in NAMES]
    crowd.go_away(how)

    polled = crowd.poll() + crowd.poll(*NAMES[5:])

    assert crowd.calls == NAMES[:5]
    assert all(one.trouble for one in polled[:5])
    assert all(isinstance(one.waits, HostAway) and not one.trouble for one in polled[5:])
    (away,) = of(events, "host.away")
    assert (away["mailboxes"], away["host"]) == (5, f"localhost:{crowd.proxy.port}")
    assert len(of(events, "pull.failed")) == 5
    assert [event["event"] for event in events if event["log_level"] in {"warning", "error"}] == [
        *["pull.failed"] * 4,
        "host.away",
        "pull.failed",
    ]
    assert [quay.timetable.due(pull_entry(name)) for name in NAMES[5:]] == dues[5:]
    assert {quay.standings.of(name).failures for name in NAMES[5:]} == {0}
    shown = lines(quay)
    assert {line.standing.state for line in shown} == {"host away"}
    assert all(f"localhost:{crowd.proxy.port} is away since" in line.standing.sentence for line in shown)


@pytest.mark.parametrize("how", HOW)
def test_while_it_is_away_one_mailbox_at_a_time_is_tried(crowd: Crowd, events: Events, how: str) -> None:
    """Of eight processes that come at the same moment one calls; in six hours of polls hardly anybody does."""
    crowd.go_away(how)
    crowd.poll()
    crowd.calls.clear()
    for _ in range(7):
        crowd.quay()
    crowd.ahead += 6
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(pulled, crowd.quays, NAMES[8:16]))
    assert len(crowd.calls) == 1

    events.clear()
    for _ in range(72):
        crowd.ahead += 300
        crowd.poll()
    assert 72 <= len(crowd.calls) <= 80
    assert events == [event for event in events if event["log_level"] == "debug"]
    assert {crowd.quays[0].standings.of(name).failures for name in NAMES[5:]} == {0}


@pytest.mark.parametrize("how", HOW)
def test_when_it_is_back_all_mailboxes_are_pulled_at_their_next_poll(
    crowd: Crowd, dovecot: Dovecot, events: Events, how: str
) -> None:
    """The first comes to find out, the others find it open; one event says so."""
    crowd.go_away(how)
    crowd.poll()
    dovecot.save(BOB, numbered(1))
    crowd.come_back(how)
    crowd.ahead += 300

    assert [one.messages for one in crowd.poll()] == [1] * MAILBOXES

    (back,) = of(events, "host.back")
    assert back["host"] == f"localhost:{crowd.proxy.port}"
    assert 299 <= back["seconds"] < 310
    assert {line.standing.state for line in lines(crowd.quays[0])} == {"ok"}


def test_it_is_open_to_all_before_the_pull_that_found_out_has_ended(crowd: Crowd, dovecot: Dovecot) -> None:
    """That one may go on for minutes; a folder that was opened is proof enough."""
    quay = crowd.quays[0]
    host = f"localhost:{crowd.proxy.port}"
    crowd.go_away("refuses")
    crowd.poll()
    dovecot.save(BOB, numbered(1))
    crowd.come_back("refuses")
    crowd.ahead += 300
    assert quay.hosts.away(host)

    found = []
    pull(quay, quay.settings.mailboxes[NAMES[9]], ring=lambda _: found.append(quay.hosts.away(host)))

    assert found == [None]


def test_people_hear_of_it_once_and_of_no_mailbox(crowd: Crowd, events: Events) -> None:
    """Not in the first minutes; in an outage of days one alert stands, and ends with it, and nobody is told to sign in."""
    quay = crowd.quays[0]

    def told() -> list[tuple[str, str]]:
        return [(one.id, one.state) for one in alert(quay)]

    crowd.go_away("refuses")
    crowd.poll()
    assert told() == []
    crowd.ahead += 301
    alerts = alert(quay)
    assert [(one.kind, one.who, one.mailboxes) for one in alerts] == [("host.away", "nobody", tuple(NAMES))]
    for _ in range(48):
        crowd.ahead += 3600
        crowd.poll()
        assert told() == []
    crowd.come_back("refuses")
    crowd.ahead += 300
    crowd.poll(NAMES[-1])
    assert told() == [(alerts[0].id, "cleared")]
    crowd.poll()
    assert told() == []


def test_one_mailbox_that_fails_beside_healthy_ones_is_its_own_matter(
    crowd: Crowd, certificates: Certificates, events: Events
) -> None:
    """Its failures are counted and told, and the others go on being pulled."""
    crowd.proxy.fault = Fault("hang up")
    for _ in range(9):
        assert crowd.poll(NAMES[0])[0].trouble
    crowd.proxy.fault = None

    assert all(not one.trouble and not one.waits for one in crowd.poll())
    assert of(events, "host.away") == []
