"""What a watcher makes of troubles, with sessions that a test plays and a real Valkey."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.bed.installation import Installation
from worker.errand import Pulled
from worker.errors import (
    ConfigurationError,
    LoginRefused,
    MailquayError,
    NeedsSignIn,
    SessionExpired,
    Throttled,
    Unreachable,
)
from worker.mailbox import Mailbox
from worker.pace import Pace
from worker.quay import Quay
from worker.shares import Shares
from worker.sources import Credentials, NoPush
from worker.tasks import _heard_meanwhile
from worker.tokens import AccessToken, Grant
from worker.watch import Watcher, watched_folder

ACCOUNT = "robot@example.com"
NEWS, QUIET, OVER = "news", "quiet", "over"
"""What a session hears: mail, nothing for ever, and the end of the time that it was given."""
Step = str | MailquayError | Exception


@dataclass
class Played:
    """A session that hears what a test wrote down."""

    steps: list[Step]
    closed: list[bool] = field(default_factory=list)

    async def news(self, seconds: float) -> bool:
        step = self.steps.pop(0) if self.steps else QUIET
        if isinstance(step, Exception):
            raise step
        if step == QUIET:
            await asyncio.Event().wait()
        return step == NEWS

    def close(self) -> None:
        self.closed.append(True)


class Play:
    """One watcher whose sessions are played; its sleeps take no time and are kept."""

    def __init__(self, quay: Quay, monkeypatch: pytest.MonkeyPatch) -> None:
        self.quay = quay
        self.sessions: list[Step | Sequence[Step]] = []
        self.opened: list[Played] = []
        self.credentials: list[Credentials] = []
        self.rung: list[str] = []
        self.slept: list[float] = []
        self.most_asleep = self._asleep = 0
        monkeypatch.setattr(quay, "listen", self._listen)
        monkeypatch.setattr(quay, "jitter", lambda: 1.0)

    async def _listen(self, mailbox: Mailbox, folder: str, credentials: Credentials) -> Played:
        self.credentials.append(credentials)
        step = self.sessions.pop(0) if self.sessions else []
        if isinstance(step, Exception):
            raise step
        assert not isinstance(step, str)
        self.opened.append(Played(list(step)))
        return self.opened[-1]

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._asleep += 1
        self.most_asleep = max(self.most_asleep, self._asleep)
        await asyncio.sleep(0)
        self._asleep -= 1

    def _ring(self, mailbox: str) -> None:
        self.rung.append(mailbox)
        self.quay.news.taken(mailbox)

    def until(
        self, done: Callable[[], object], meanwhile: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Run until something is so."""

        async def run() -> None:
            shares = Shares(self.quay.client, "me", ttl=60)
            watcher = Watcher(self.quay, shares, self._ring, pace=Pace(self.quay.hosts), sleep=self._sleep)
            stop = asyncio.Event()
            running = asyncio.create_task(watcher.run(stop))
            async with asyncio.timeout(10):
                if meanwhile:
                    await meanwhile()
                while not done():
                    await asyncio.sleep(0.01)
            stop.set()
            await running
            assert watcher.listening == set()

        asyncio.run(run())


@pytest.fixture
def play(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Play]:
    """A mailbox `box` with a password."""
    password = "p" + str(time.time_ns())
    installation.mailbox(
        "box", address="box@example.com", host="localhost", password=password, outputs="lines", push="yes"
    )
    return Play(installation.quay(), monkeypatch)


@pytest.fixture
def signed_in(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Play:
    """The mailboxes `box` and `shared` of one account, which has a token."""
    for name in ("box", "shared"):
        installation.mailbox(
            name,
            address=f"{name}@example.com",
            host="localhost",
            auth="delegated",
            account=ACCOUNT,
            outputs="lines",
            push="yes",
        )
    installation.environ |= {"ENTRA__CLIENT_ID": "app", "ENTRA__TENANT": "example.com"}
    return Play(installation.quay(), monkeypatch)


def sign_in(quay: Quay, secret: str, *, life: float = 3600.0) -> None:
    """Store a token as if somebody had signed in."""
    now = quay.clock()
    scopes = " ".join(sorted(quay.settings.mailboxes["box"].scopes))
    grant = Grant("{}", {scopes: AccessToken(secret, now + life, now)})
    read = quay.token_store.glance(ACCOUNT).version
    assert quay.token_store.swap(ACCOUNT, grant, read=read, now=now, client_id="app")


def test_each_announcement_rings(play: Play) -> None:
    """One session is enough for any number of them."""
    play.sessions = [[NEWS, OVER, NEWS]]

    play.until(lambda: len(play.rung) == 2)

    assert play.rung == ["box", "box"]
    assert play.slept == []
    assert [one.closed for one in play.opened] == [[True]]


def test_pauses_grow_while_nothing_lasts(play: Play) -> None:
    """Up to five minutes; people are told by the pull."""
    play.sessions = [Unreachable("gone"), [Unreachable("cut")], *[Unreachable("gone")] * 7, [NEWS]]

    with capture_logs() as logged:
        play.until(lambda: play.rung)

    assert play.slept == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    said = [line for line in logged if line["event"] == "watch.interrupted"]
    assert [line["log_level"] for line in said] == ["info"] + ["debug"] * 8


def test_a_server_that_asks_for_a_pause_gets_it(play: Play) -> None:
    """Not less; jitter only adds."""
    play.sessions = [Throttled("slow down", seconds=299.0), [NEWS]]

    play.until(lambda: play.rung)

    assert play.slept == [299.0]


def test_a_mistake_with_one_session_leaves_nothing_unwatched(play: Play) -> None:
    """What nobody foresaw is logged whole, and tried again."""
    play.sessions = [[ZeroDivisionError()], [NEWS]]

    with capture_logs() as logged:
        play.until(lambda: play.rung)

    assert [line["event"] for line in logged if line["log_level"] == "error"] == ["watch.failed"]
    assert play.slept == [5]


def test_a_server_without_idle_is_said_once_and_left_alone(play: Play) -> None:
    """Its mailbox goes on by the schedule."""
    play.sessions = [NoPush("no IDLE here")]

    with capture_logs() as logged:
        play.until(lambda: any(line["event"] == "watch.impossible" for line in logged))

    assert len(play.credentials) == 1
    assert play.slept == []


def test_a_session_that_ends_with_its_token_is_begun_anew_at_once_but_not_for_ever(signed_in: Play) -> None:
    """A server that ends every session would else be called without a pause."""
    sign_in(signed_in.quay, "t1")
    signed_in.quay.settings.mailboxes.pop("shared")  # type: ignore[attr-defined]
    signed_in.sessions = [[SessionExpired("over")], [SessionExpired("over")], [NEWS]]

    signed_in.until(lambda: signed_in.rung)

    assert signed_in.slept == [0.0, 10.0]


def test_a_refused_token_is_asked_to_be_replaced(signed_in: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same rule as the pull: another one when there is one, and no loop of refreshes."""
    sign_in(signed_in.quay, "t1")
    signed_in.quay.settings.mailboxes.pop("shared")  # type: ignore[attr-defined]
    signed_in.sessions = [LoginRefused("no"), [NEWS]]
    real, refused = signed_in.quay.keeper, []

    def keeper(mailbox: Mailbox) -> Any:
        found = real(mailbox)
        another = found.another
        monkeypatch.setattr(
            found, "another", lambda *said: (refused.append(said[2].secret), another(*said))[1]
        )
        return found

    monkeypatch.setattr(signed_in.quay, "keeper", keeper)

    signed_in.until(lambda: signed_in.rung)

    assert refused == ["t1"]


def test_a_session_ends_before_its_token_does(signed_in: Play) -> None:
    """By up to five minutes, or a quarter of its life; an old token that has to serve is not asked about in a loop."""
    shares = Shares(signed_in.quay.client, "me", ttl=60)
    watcher = Watcher(signed_in.quay, shares, print)
    now = signed_in.quay.clock()

    def lasts(left: float, *, life: float = 3600.0) -> float:
        return watcher._ends_at(AccessToken("t", now + left, now + left - life)) - now

    assert watcher._ends_at(None) == float("inf")
    assert lasts(3600) == pytest.approx(3300, abs=2)
    assert lasts(400, life=400) == pytest.approx(300, abs=2)
    assert lasts(60) == pytest.approx(30, abs=2)
    asyncio.run(watcher._end())


def test_an_account_without_a_token_is_waited_for_and_not_asked_about(
    signed_in: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mailboxes share one look into Redis; as soon as somebody has signed in, all of them are watched."""
    asked = 0
    real = signed_in.quay.keeper

    def keeper(mailbox: Mailbox) -> Any:
        nonlocal asked
        asked += 1
        return real(mailbox)

    monkeypatch.setattr(signed_in.quay, "keeper", keeper)
    signed_in.sessions = [[NEWS], [NEWS]]

    async def meanwhile() -> None:
        while len(signed_in.slept) < 20:
            await asyncio.sleep(0.01)
        assert asked == 2
        assert signed_in.credentials == []
        sign_in(signed_in.quay, "t1")

    with capture_logs() as logged:
        signed_in.until(lambda: len(signed_in.rung) == 2, meanwhile)

    assert sorted(signed_in.rung) == ["box", "shared"]
    assert {one.secret for one in signed_in.credentials} == {"t1"}
    assert set(signed_in.slept) == {5.0}
    assert signed_in.most_asleep == 1
    states = [line["state"] for line in logged if line["event"] == "watch.interrupted"]
    assert states == [NeedsSignIn.state] * 2


@pytest.mark.parametrize(
    ("pulled", "rings"),
    [
        (Pulled("box"), True),
        (Pulled("other"), False),
        (Pulled("box", busy=True), False),
        (Pulled("box", trouble=Unreachable("gone")), False),
    ],
    ids=["news meanwhile", "nothing new", "another one pulls", "it failed"],
)
def test_what_is_announced_during_a_pull_is_pulled_behind_it(play: Play, pulled: Pulled, rings: bool) -> None:
    """Its own bell finds the mailbox leased. The one that holds the lease looks again, unless it is parked now."""
    assert play.quay.news.noted("box", play.quay.clock())

    assert _heard_meanwhile(play.quay, pulled) is rings


def test_pop3_has_no_push(installation: Installation) -> None:
    """It is said before anything runs, with the variable."""
    installation.mailbox(
        "box", address="box@example.com", host="localhost", password="p" * 9, outputs="lines", push="yes"
    )
    installation.mailbox("box", protocol="pop3")

    with pytest.raises(ConfigurationError) as caught:
        installation.quay()

    assert [problem.variable for problem in caught.value.problems] == ["MAILBOX__BOX__PUSH"]


@pytest.mark.parametrize(
    ("folders", "watched"),
    [("Orders,INBOX", "Orders"), ("Projects/*,!Projects/Old", "INBOX"), ("*,!INBOX,Orders", "Orders")],
)
def test_the_first_folder_that_has_a_name_is_watched(
    installation: Installation, folders: str, watched: str
) -> None:
    """IDLE sees one folder; the others are pulled with it, and on schedule."""
    installation.mailbox(
        "box", address="box@example.com", host="localhost", password="p" * 9, outputs="lines", folders=folders
    )

    assert watched_folder(installation.quay().settings.mailboxes["box"]) == watched
