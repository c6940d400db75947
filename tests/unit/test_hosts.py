"""Hosts on a real server: places and turns that all processes share, and hosts that are away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest
from structlog.testing import capture_logs

from tests.bed.installation import Installation
from tests.bed.processes import wait_until
from tests.bed.valkey import Valkey
from worker import hosts as module
from worker import state
from worker.errors import (
    HostAway,
    HostBusy,
    LoginRefused,
    MailquayError,
    Misconfigured,
    NeedsSignIn,
    SpoolFull,
    Throttled,
    Unreachable,
)
from worker.hosts import Hosts, Visit, host_of, judged, needed, pause
from worker.lease import held
from worker.mailbox import Mailbox
from worker.sources import Endpoint

HOST = "mail.example:993"
NOW = 1_900_000_000.0
GONE = Unreachable("cannot connect to mail.example port 993: Connection refused.")


class Bed:
    """Mailboxes of one host, and processes that each have a client of their own. The breaker's clock is a test's."""

    def __init__(self, installation: Installation, url: str) -> None:
        self._installation = installation
        self._clients = ExitStack()
        self._url = url
        self.now = NOW
        self.slept: list[float] = []

    def mailboxes(self, count: int) -> list[Mailbox]:
        for number in range(count):
            self._installation.mailbox(
                f"box{number}", address=f"box{number}@example.com", host="Mail.Example", password="p" * 9,
                outputs="lines",
            )  # fmt: skip
        return list(self._installation.quay().settings.mailboxes.values())

    def client(self) -> state.Client:
        client = state.connect(self._url)
        self._clients.callback(client.close)
        return client

    def hosts(self, *, mailboxes: int = 20, connections: int = 50, logins: int = 1000) -> Hosts:
        return Hosts(
            self.client(), {HOST: mailboxes}, connections=connections, logins=logins,
            clock=lambda: self.now, jitter=lambda: 1.0, sleep=self.slept.append,
        )  # fmt: skip

    @contextmanager
    def lease(self, mailbox: Mailbox, *, ttl: float = 5.0) -> Iterator[int]:
        with held(self.client(), state.mailbox_lease(mailbox.name), ttl=ttl) as lease:
            assert lease
            yield lease.fence

    def close(self) -> None:
        self._clients.close()


@pytest.fixture
def bed(installation: Installation, fresh_valkey: Valkey) -> Iterator[Bed]:
    bed = Bed(installation, fresh_valkey.url)
    yield bed
    bed.close()


def fails(hosts: Hosts, mailbox: Mailbox, error: MailquayError = GONE, *, called: bool = True) -> None:
    """A visit of a mailbox that ends so."""
    visit = hosts.ask(mailbox)
    visit.called = called
    hosts.ended(visit, error)


def opens(hosts: Hosts, mailbox: Mailbox) -> None:
    """A visit of a mailbox that ends well."""
    visit = hosts.ask(mailbox)
    visit.called = True
    hosts.ended(visit, None)


def is_away(hosts: Hosts) -> bool:
    return hosts.away(HOST) is not None


# -- deciding --------------------------------------------------------------------------------------------------------


def test_a_host_is_a_name_and_a_port() -> None:
    """Names know no case; another port is another server until it is known better."""
    assert host_of(Endpoint("Mail.Example", 993, "implicit")) == HOST
    assert host_of(Endpoint("mail.example", 995, "implicit")) != HOST


def test_it_takes_several_mailboxes_and_never_all_of_a_crowd() -> None:
    """Five; all of four or three; a host of one or two mailboxes is never away: nothing could be saved there."""
    assert [needed(count) for count in (1, 2, 3, 4, 5, 1000)] == [3, 3, 3, 4, 5, 5]


def test_probes_become_rarer_up_to_five_minutes() -> None:
    """The first after five seconds, for a server that was started anew."""
    assert [pause(probes) for probes in (0, 1, 2, 5, 6, 99)] == [5, 10, 20, 160, 300, 300]


@pytest.mark.parametrize(
    ("error", "says", "as_probe"),
    [
        (None, "there", "there"),
        (GONE, "failed", "failed"),
        (LoginRefused("no"), "unknown", "there"),
        (Throttled("slow down", seconds=300), "unknown", "there"),
        (Misconfigured("no such folder"), "unknown", "there"),
        (NeedsSignIn("sign in"), "unknown", "unknown"),
        (SpoolFull("no room"), "unknown", "unknown"),
    ],
)
def test_what_a_visit_says_of_its_host(error: MailquayError | None, says: str, as_probe: str) -> None:
    """One mailbox that is refused says nothing of others, but a server that refuses is there: enough for a probe."""
    assert judged(Visit(HOST, "box", called=True), error) == says
    assert judged(Visit(HOST, "box", called=True, probe=0), error) == as_probe
    assert judged(Visit(HOST, "box", probe=0), error) == "unknown"
    assert judged(Visit(HOST, "box", called=True, arrived=True), error) == "unknown"


# -- places ----------------------------------------------------------------------------------------------------------


def test_no_more_than_so_many_have_a_place_whatever_their_process(bed: Bed) -> None:
    """Eight clients want two places; who leaves makes room."""
    boxes = bed.mailboxes(8)
    with ExitStack() as leases:
        fences = [leases.enter_context(bed.lease(box)) for box in boxes]
        asking = [(bed.hosts(connections=2), box, fence) for box, fence in zip(boxes, fences, strict=True)]

        def attempt(one: tuple[Hosts, Mailbox, int]) -> Visit | None:
            hosts, box, fence = one
            try:
                return hosts.ask(box, fence)
            except HostBusy:
                return None

        with ThreadPoolExecutor(8) as threads:
            visits = list(threads.map(attempt, asking))
        inside = [visit for visit in visits if visit]
        assert len(inside) <= 2
        while len(inside) < 2:
            inside += [visit for visit in map(attempt, asking) if visit][: 2 - len(inside)]
        assert not any(
            map(attempt, [one for one in asking if one[1].name not in {v.mailbox for v in inside}])
        )

        asking[0][0].ended(inside[0], None)
        others = [one for one in asking if one[1].name not in {visit.mailbox for visit in inside}]
        assert len([visit for visit in [*map(attempt, others), *map(attempt, others)] if visit]) == 1


CHILD = """
import sys, time
from worker import state
from worker.lease import held
from worker.quay import quay

here = quay()
mailbox = here.settings.mailboxes[sys.argv[1]]
with held(here.client, state.mailbox_lease(mailbox.name), ttl=1) as lease:
    here.hosts.ask(mailbox, lease.fence)
    print("inside", flush=True)
    time.sleep(60)
"""


def test_the_place_of_a_killed_process_is_free_when_its_lease_is(
    bed: Bed, installation: Installation
) -> None:
    """Nobody gave it back; as long as the process lives, its lease and its place are renewed."""
    killed, other = bed.mailboxes(2)
    hosts = bed.hosts(connections=1)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, killed.name],
        cwd=installation.folder,
        env=installation.full_environ(HOST_CONNECTIONS="1"),
        stdout=subprocess.PIPE,
    )
    assert child.stdout
    with child, bed.lease(other) as fence:
        try:
            assert child.stdout.readline() == b"inside\n"
            ends = time.monotonic() + 1.5
            while time.monotonic() < ends:
                with pytest.raises(HostBusy):
                    hosts.ask(other, fence)
                time.sleep(0.05)
        finally:
            os.kill(child.pid, signal.SIGKILL)

        def lets_in() -> bool:
            try:
                return bool(hosts.ask(other, fence))
            except HostBusy:
                return False

        wait_until(lets_in, timeout=3, what="the free place")


def test_whoever_has_waited_longest_is_next(bed: Bed) -> None:
    """A place that becomes free is kept for him until he asks again; the one behind him comes then."""
    inside, early, late = bed.mailboxes(3)
    hosts = bed.hosts(connections=1)
    with bed.lease(inside) as first, bed.lease(early) as second, bed.lease(late) as third:
        visit = hosts.ask(inside, first)
        for box, fence in ((early, second), (late, third)):
            with pytest.raises(HostBusy):
                hosts.ask(box, fence)
        hosts.ended(visit, None)

        with pytest.raises(HostBusy):
            hosts.ask(late, third)
        visit = hosts.ask(early, second)
        hosts.ended(visit, None)
        assert hosts.ask(late, third)


def test_one_that_never_asks_again_is_not_waited_for(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """His process died, or his mailbox was disabled."""
    monkeypatch.setattr(module, "_WAITED_FOR_SECONDS", 0.2)
    inside, gone, late = bed.mailboxes(3)
    hosts = bed.hosts(connections=1)
    with bed.lease(inside) as first, bed.lease(gone) as second, bed.lease(late) as third:
        visit = hosts.ask(inside, first)
        with pytest.raises(HostBusy):
            hosts.ask(gone, second)
        hosts.ended(visit, None)

        def lets_in() -> bool:
            try:
                return bool(hosts.ask(late, third))
            except HostBusy:
                return False

        wait_until(lets_in, timeout=3, what="the place of one that is gone")


def test_a_pull_waits_two_seconds_and_then_goes_elsewhere(bed: Bed) -> None:
    """Its process has mailboxes of other hosts to pull; it says for how long it is put back, and `status` says why."""
    inside, other = bed.mailboxes(2)
    hosts = bed.hosts(connections=1)
    with bed.lease(inside) as first, bed.lease(other) as second:
        hosts.ask(inside, first)
        with pytest.raises(HostBusy) as busy, hosts.visiting(other, second):
            pytest.fail("it was let in")

    assert sum(bed.slept) == pytest.approx(2, abs=0.15)
    assert busy.value.seconds == 4
    waits = hosts.waits(other)
    assert waits
    assert (waits.state, waits.sentence) == ("waiting", busy.value.sentence)
    assert f"{HOST} is asked for no more than 1 connections" in waits.sentence
    assert "HOST_CONNECTIONS" in waits.sentence
    assert hosts.waits(inside) is None


def test_a_watchers_connection_takes_no_place(bed: Bed) -> None:
    """Two thousand sessions that wait for news would lock out every pull."""
    pulled, *watched = bed.mailboxes(5)
    hosts = bed.hosts(connections=1)
    for box in watched:
        hosts.ask(box)

    with bed.lease(pulled) as fence:
        assert hosts.ask(pulled, fence)


def test_a_flushed_redis_costs_nothing(bed: Bed) -> None:
    """Places, turns and hosts that are away are counted anew."""
    boxes = bed.mailboxes(5)
    hosts, client = bed.hosts(connections=1), bed.client()
    with bed.lease(boxes[0]) as fence:
        visit = hosts.ask(boxes[0], fence)
        for box in boxes:
            fails(hosts, box)
        assert is_away(hosts)
        client.flushall()
        hosts.ended(visit, None)

    with bed.lease(boxes[1]) as fence:
        assert hosts.ask(boxes[1], fence).probe is None


# -- turns -----------------------------------------------------------------------------------------------------------


def test_logins_a_second_are_counted_over_all_processes(bed: Bed) -> None:
    """Ten at once after a rest, then ten a second; who would have to wait for more than a second asks again."""
    boxes = bed.mailboxes(40)
    processes = [bed.hosts(logins=10) for _ in range(2)]
    begun = time.monotonic()
    waits = []
    refused = 0
    for number, box in enumerate(boxes):
        try:
            waits.append(processes[number % 2].ask(box).wait)
        except HostBusy:
            refused += 1
    passed = time.monotonic() - begun

    assert waits[:9] == [0] * 9
    assert waits[11:] == sorted(waits[11:])
    assert 20 <= len(waits) <= 21 + 10 * passed
    assert max(waits) <= 1.01
    assert refused == 40 - len(waits)


def test_everybody_gets_a_turn_in_the_order_of_asking(bed: Bed) -> None:
    """While newcomers ask all the time: one that waits is let in before them."""
    patient, *others = bed.mailboxes(30)
    hosts = bed.hosts(logins=10)

    def lets_in(box: Mailbox) -> bool:
        try:
            return bool(hosts.ask(box))
        except HostBusy:
            return False

    for box in others:
        lets_in(box)
    asked = 0
    while not lets_in(patient):
        asked += 1
        for box in others:
            lets_in(box)
        assert asked < 200, "it never had its turn"


# -- hosts that are away ---------------------------------------------------------------------------------------------


def test_five_mailboxes_in_a_row_make_a_host_away_and_one_never_does(bed: Bed) -> None:
    """However often the one fails: it may be the mailbox's own matter."""
    boxes = bed.mailboxes(6)
    hosts = bed.hosts()
    with capture_logs() as logged:
        for _ in range(100):
            fails(hosts, boxes[0])
        for box in boxes[:4]:
            fails(hosts, box)
        assert not is_away(hosts)
        fails(bed.hosts(), boxes[4])

        away = hosts.away(HOST)
        assert away
        assert (away.since, away.mailboxes) == (NOW, 5)
        with pytest.raises(HostAway, match=r"mail\.example:993 is away since 2030-03-17 17:46 UTC") as told:
            hosts.ask(boxes[5])
        assert told.value.seconds == 5

    assert [(line["event"], line["host"], line["mailboxes"]) for line in logged] == [("host.away", HOST, 5)]
    assert "Connection refused" in logged[0]["reason"]


def test_a_mailbox_that_is_opened_in_between_begins_the_count_anew(bed: Bed) -> None:
    """A server that gives some mailboxes is there."""
    boxes = bed.mailboxes(9)
    hosts = bed.hosts()
    for box in boxes[:4]:
        fails(hosts, box)
    opens(hosts, boxes[8])
    for box in boxes[4:8]:
        fails(hosts, box)

    assert not is_away(hosts)


@pytest.mark.parametrize(
    ("error", "called"),
    [
        (LoginRefused("no"), True),
        (NeedsSignIn("sign in"), True),
        (Throttled("slow down", seconds=300), True),
        (Unreachable("the provider of tokens does not answer"), False),
    ],
    ids=["refused", "no token", "throttled", "provider away"],
)
def test_other_troubles_of_many_mailboxes_are_not_the_hosts(
    bed: Bed, error: MailquayError, *, called: bool
) -> None:
    """What a person has to mend must be said of each mailbox, and not be hidden behind an incident."""
    hosts = bed.hosts()
    for box in bed.mailboxes(9):
        fails(hosts, box, error, called=called)

    assert not is_away(hosts)


def test_old_failures_do_not_count(bed: Bed) -> None:
    """Those of a mailbox that is not tried any more: its removal must not help to find a host away."""
    boxes = bed.mailboxes(5)
    hosts = bed.hosts()
    for box in boxes[:4]:
        fails(hosts, box)
    bed.now += 901
    fails(hosts, boxes[4])

    assert not is_away(hosts)


def test_a_host_of_three_mailboxes_needs_all_and_one_of_two_is_never_away(bed: Bed) -> None:
    """There is no crowd to be kept away."""
    boxes = bed.mailboxes(3)
    for box in boxes[:2]:
        fails(bed.hosts(mailboxes=3), box)
        fails(bed.hosts(mailboxes=2), box)
    assert not is_away(bed.hosts())
    fails(bed.hosts(mailboxes=3), boxes[2])
    assert is_away(bed.hosts())


@pytest.fixture
def away(bed: Bed) -> Hosts:
    """A host that went away now."""
    hosts = bed.hosts()
    for box in bed.mailboxes(5):
        fails(hosts, box)
    return hosts


def probe(hosts: Hosts, mailbox: Mailbox) -> Visit | None:
    try:
        return hosts.ask(mailbox)
    except HostAway:
        return None


def test_one_of_many_is_the_probe(bed: Bed, away: Hosts) -> None:
    """Whoever comes first when it is time; the others are told so."""
    boxes = bed.mailboxes(8)
    assert not any(probe(away, box) for box in boxes)
    bed.now += 5
    processes = [bed.hosts() for _ in boxes]

    with ThreadPoolExecutor(8) as threads:
        probes = [visit for visit in threads.map(probe, processes, boxes) if visit]

    assert [visit.probe for visit in probes] == [0]
    # The probe of a process that was killed is over after three minutes.
    bed.now += 179
    assert not probe(away, boxes[0])
    bed.now += 1
    assert probe(away, boxes[0])


def test_probes_that_fail_come_ever_later_and_say_nothing(bed: Bed, away: Hosts) -> None:
    """The host is told to be away once; since then nothing new has happened."""
    (box, *_) = bed.mailboxes(5)
    pauses = []
    with capture_logs() as logged:
        for _ in range(8):
            pauses.append(bed.now)
            while not (visit := probe(away, box)):
                bed.now += 1
            pauses[-1] = bed.now - pauses[-1]
            visit.called = True
            assert away.ended(visit, GONE)

    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300]
    assert logged == []


def test_a_probe_that_did_not_get_as_far_is_left_to_the_next(bed: Bed, away: Hosts) -> None:
    """A mailbox without a token finds nothing out about its server."""
    box, other, *_ = bed.mailboxes(5)
    bed.now += 5
    visit = probe(away, box)
    assert visit
    away.ended(visit, NeedsSignIn("sign in"))

    assert probe(away, other)


def test_a_host_that_is_back_is_said_once_and_open_to_all(bed: Bed, away: Hosts) -> None:
    """As soon as the probe has opened a folder: it may go on for minutes."""
    boxes = bed.mailboxes(8)
    bed.now += 60
    visit = probe(away, boxes[0])
    assert visit
    visit.called = True
    with capture_logs() as logged:
        away.arrived(visit)
        assert all(probe(away, box) for box in boxes[1:])
        away.ended(visit, Unreachable("the connection broke later on"))
        opens(away, boxes[1])

    assert [(line["event"], line["host"], line["seconds"]) for line in logged] == [("host.back", HOST, 60)]
    assert not is_away(away)


def visited(hosts: Hosts, mailbox: Mailbox, fence: int | None) -> None:
    """A visit that finds the host gone."""
    with hosts.visiting(mailbox, fence) as visit:
        visit.called = True
        raise GONE


def test_a_visit_that_found_the_host_still_away_is_no_failure_of_its_mailbox(bed: Bed, away: Hosts) -> None:
    """It hears what all the others hear."""
    (box, *_) = bed.mailboxes(5)
    bed.now += 5
    with bed.lease(box) as fence, pytest.raises(HostAway):
        visited(away, box, fence)


def test_a_person_is_let_in_and_told(bed: Bed, away: Hosts) -> None:
    """`check --connect` waits for no place and no probe, and says that it is not this mailbox alone."""
    (box, *_) = bed.mailboxes(5)
    with pytest.raises(Unreachable, match=r"Connection refused.*is away since"):
        visited(away, box, None)
    with away.visiting(box, None) as visit:
        visit.called = True
    assert not is_away(away)


def test_what_nobody_foresaw_gives_the_place_back(bed: Bed) -> None:
    """A pull that takes too long is ended by an exception that is not ours."""
    box, other = bed.mailboxes(2)
    hosts = bed.hosts(connections=1)
    with bed.lease(box) as fence, pytest.raises(ZeroDivisionError), hosts.visiting(box, fence):
        raise ZeroDivisionError
    with bed.lease(other) as fence, bed.lease(box):
        assert hosts.ask(other, fence)


def test_without_redis_the_end_of_a_visit_raises_nothing(bed: Bed, valkey: Valkey) -> None:
    """What a pull ended with is the news, not that it cannot be noted; the place is free with its lease."""
    (box,) = bed.mailboxes(1)
    hosts = bed.hosts()
    visit = hosts.ask(box)
    visit.called = True
    valkey.stop()
    assert hosts.ended(visit, GONE) is None
    valkey.start()
