"""Circuits: which outputs are known to be away, so that ten thousand batches do not find it out one by one.

An output that fails for different batches, one after the other and without a success, has its circuit *opened*: it is
asked no more, but for one *probe* at a time, ever more rarely. The first success closes it. What waits for it is parked
meanwhile (`parking.py`). A single message that an output cannot take opens nothing. All of it lies in Redis and may be
flushed: then it is found out anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import structlog

from worker import state

log = structlog.get_logger("circuit")

_NEEDED, _NEEDED_SLOW = 5, 2
"""Different batches that have to fail; fewer when each holds a process up, as an output does that hangs."""
_SLOW_SECONDS = 5.0
_FAILURE_COUNTS_SECONDS = 900
_FIRST_PROBE_SECONDS, _LAST_PROBE_SECONDS = 5.0, 60.0
_PROBE_TAKES_SECONDS = 60.0
"""The next probe may come then, should the process of this one have died."""

_PROBE = """
-- Whether an output whose circuit is open may be probed now; of any number of callers exactly one gets a yes.
-- KEYS: 1 circuit (hash)
-- ARGV: 1 the caller's clock in ms, 2 ms that a probe may take
local probe_at = redis.call('HGET', KEYS[1], 'probe_at')
if not probe_at then return 1 end
local ahead = probe_at - ARGV[1]
-- No probe is put off for longer: then the clock was wrong.
if ahead > 0 and ahead <= 2 * ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'probe_at', string.format('%.0f', ARGV[1] + ARGV[2]))
return 1
"""

_FAILED = """
-- Counts a failure; opens the circuit when enough different batches have failed, and puts the next probe off when it is open.
-- KEYS: 1 circuit (hash), 2 failing (set)
-- ARGV: 1 the caller's clock in ms, 2 batch, 3 reason, 4 how many are needed, 5 ms for which a failure counts,
--       6 ms to the first probe, 7 longest ms between two, 8 a factor from 0.5 to 1.0
-- Returns 1 when this opened it.
local probes = redis.call('HGET', KEYS[1], 'probes')
if not probes then
  redis.call('SADD', KEYS[2], ARGV[2])
  redis.call('PEXPIRE', KEYS[2], ARGV[5])
  if redis.call('SCARD', KEYS[2]) < tonumber(ARGV[4]) then return 0 end
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'since', ARGV[1])
end
local n = tonumber(probes or '0')
local wait = math.min(tonumber(ARGV[7]), ARGV[6] * 2 ^ n) * ARGV[8]
redis.call('HSET', KEYS[1], 'probes', n + 1, 'probe_at', string.format('%.0f', ARGV[1] + wait), 'reason', ARGV[3])
return probes and 0 or 1
"""

_UNUSED = """
-- Gives a probe back with which nothing was asked: the next one may come at once.
-- KEYS: 1 circuit (hash)
-- ARGV: 1 the caller's clock in ms
if redis.call('HEXISTS', KEYS[1], 'probe_at') == 1 then redis.call('HSET', KEYS[1], 'probe_at', ARGV[1]) end
"""

_SUCCEEDED = """
-- Closes a circuit, and forgets what had failed.
-- KEYS: 1 circuit (hash), 2 failing (set)
-- Returns since when it was open, in ms, or '' when it was not.
local since = redis.call('HGET', KEYS[1], 'since')
redis.call('DEL', KEYS[1], KEYS[2])
return since or ''
"""


@dataclass(frozen=True, slots=True)
class OpenCircuit:
    """An output that is not asked: since when, when it is probed next (Unix seconds), and why."""

    output: str
    since: float
    probe_at: float
    reason: str


class Circuits:
    """The circuits of all outputs, shared by all processes."""

    def __init__(
        self, client: state.Client, *, clock: Callable[[], float], jitter: Callable[[], float]
    ) -> None:
        self._client = client
        self._clock = clock
        self._jitter = jitter

    def opened(self, outputs: Iterable[str]) -> Mapping[str, OpenCircuit]:
        """Those of these outputs whose circuit is open."""
        names = list(outputs)
        if not names:
            return {}
        pipeline = self._client.pipeline(transaction=False)
        for name in names:
            pipeline.hgetall(state.circuit_key(name))
        found = cast("list[dict[str, str]]", pipeline.execute())
        return {
            name: OpenCircuit(name, float(said["since"]) / 1000, self._probe_at(said), said["reason"])
            for name, said in zip(names, found, strict=True)
            if "reason" in said
        }

    def _probe_at(self, said: Mapping[str, str]) -> float:
        """When the next probe may come: at once, when the time was written under a clock that was far ahead."""
        probe_at = float(said["probe_at"]) / 1000
        return probe_at if probe_at <= self._clock() + 2 * _PROBE_TAKES_SECONDS else 0.0

    def admits(self, output: str) -> bool:
        """Whether an output may be asked now: always while its circuit is closed; else it is this caller's probe."""
        return bool(
            self._client.register_script(_PROBE)(
                keys=[state.circuit_key(output)],
                args=[int(self._clock() * 1000), int(_PROBE_TAKES_SECONDS * 1000)],
            )
        )

    def unused(self, output: str) -> None:
        """Nothing was asked of an output that might have been probed: its messages were not meant for it after all."""
        self._client.register_script(_UNUSED)(
            keys=[state.circuit_key(output)], args=[int(self._clock() * 1000)]
        )

    def failed(self, output: str, batch: str, reason: str, *, seconds: float = 0.0) -> None:
        """An output took nothing of a batch, and `seconds` to say so."""
        opened = self._client.register_script(_FAILED)(
            keys=[state.circuit_key(output), state.failing_key(output)],
            args=[
                int(self._clock() * 1000),
                batch,
                reason,
                _NEEDED if seconds < _SLOW_SECONDS else _NEEDED_SLOW,
                _FAILURE_COUNTS_SECONDS * 1000,
                int(_FIRST_PROBE_SECONDS * 1000),
                int(_LAST_PROBE_SECONDS * 1000),
                self._jitter(),
            ],
        )
        if opened:
            log.warning("output.away", output=output, reason=reason)

    def succeeded(self, output: str) -> None:
        """An output took something."""
        since = self._client.register_script(_SUCCEEDED)(
            keys=[state.circuit_key(output), state.failing_key(output)]
        )
        if since:
            away = self._clock() - float(since) / 1000
            log.info("output.back", output=output, seconds=round(away))
