"""How each mailbox stands: what a person sees in `status` and `demo`, and how often in a row it failed.

Nothing decides on it but parking. It lives in Redis and may be lost without harm; counters count what this
installation did, not what is in the outputs. A sentence in it names the remedy and holds no secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from worker import state
from worker.errors import AccountTrouble, MailquayError, Throttled


@dataclass(frozen=True, slots=True)
class Standing:
    """A mailbox as it stands. Times are Unix seconds, 0 for never; `failures` are those in a row and of one kind, `failing_since` is the first of any."""

    state: str = "new"
    sentence: str = ""
    failures: int = 0
    pulled_at: float = 0
    tried_at: float = 0
    pulled: int = 0
    delivered: int = 0
    dropped: int = 0
    failed: int = 0
    failing_since: float = 0


def parking(error: MailquayError, failures: int) -> float:
    """Seconds until a mailbox that failed `failures` times in a row is tried again; 0 is its next poll.

    What the server asked for is done; what a person has to mend is looked at ever more rarely, up to a quarter of an
    hour; everything else up to five minutes. An account without a token costs no request, so its mailboxes are polled as
    ever and go on as soon as somebody has signed in.
    """
    if isinstance(error, Throttled):
        return max(error.seconds, min(error.longest, error.seconds * 2.0 ** min(failures - 1, 10)))
    if isinstance(error, AccountTrouble):
        return 0.0
    return float(min(300.0 if error.retried else 900.0, 5.0 * 2 ** min(failures - 1, 10)))


class Standings:
    """The standings of all mailboxes."""

    def __init__(self, client: state.Client) -> None:
        self._client = client

    def of(self, mailbox: str) -> Standing:
        """How a mailbox stands."""
        found = cast("dict[str, str]", self._client.hgetall(state.standing_key(mailbox)))
        return Standing(
            state=found.get("state", "new"),
            sentence=found.get("sentence", ""),
            failures=int(found.get("failures", 0)),
            pulled_at=float(found.get("pulled_at", 0)),
            tried_at=float(found.get("tried_at", 0)),
            pulled=int(found.get("pulled", 0)),
            delivered=int(found.get("delivered", 0)),
            dropped=int(found.get("dropped", 0)),
            failed=int(found.get("failed", 0)),
            failing_since=float(found.get("failing_since", 0)),
        )

    def well(self, mailbox: str, now: float, *, but: MailquayError | None = None) -> None:
        """A pull went well, `but` for what a person should know: that neither counts as a failure nor parks."""
        state, sentence = (but.state, but.sentence) if but else ("ok", "")
        fields: dict[str, str | float] = {"state": state, "sentence": sentence, "failures": 0}
        self._set(mailbox, {**fields, "failing_since": 0, "pulled_at": now, "tried_at": now})

    def ill(self, mailbox: str, now: float, error: MailquayError) -> int:
        """A pull failed; returns how often in a row it did so in this way.

        A night without a token must not count against the first refused login of the morning.
        """
        before = self.of(mailbox)
        fields: dict[str, str | float] = {"state": error.state, "sentence": error.sentence, "tried_at": now}
        if before.state != error.state:
            fields["failures"] = 0
        self._set(mailbox, {**fields, "failing_since": before.failing_since or now})
        return self.count(mailbox, "failures", 1)

    def count(self, mailbox: str, counter: str, more: int) -> int:
        """Add to `pulled`, `delivered`, `dropped`, `failed` or `failures`; returns the sum."""
        return int(self._client.hincrby(state.standing_key(mailbox), counter, more))

    def _set(self, mailbox: str, fields: Mapping[str, str | float]) -> None:
        self._client.hset(state.standing_key(mailbox), mapping=fields)  # type: ignore[arg-type]  # redis-py wants its own union
