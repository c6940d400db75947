"""Redis: clients, key names, and every Lua script with its documentation.

Redis coordinates; it never holds the only copy of a message. Losing a second of it, or all of it, costs repeats that
carry the same ids (DESIGN promise P3). Nothing else in `worker` builds a Redis client. Scripts are tested on a real
server, never on an imitation. Keys of one mailbox share a hash tag, so that they would stay together on a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from worker.errors import RedisUnavailable

PREFIX = "mailquay:"

DUE = PREFIX + "due"
"""Sorted set: schedule entry -> next due time in Unix milliseconds."""
EVERY = PREFIX + "every"
"""Hash: schedule entry -> `interval_ms:phase_ms`, or `cron`."""
RUNG = PREFIX + "rung"
"""Hash: schedule entry -> `first_ms:last_ms`, when its bell was rung; deleted when the work was done."""
FENCE = PREFIX + "fence"
"""Hash: leased thing -> the highest fence ever given out for it."""
NEWS = PREFIX + "news"
"""Set: mailboxes whose server announced new mail after the last pull began."""
WATCHERS = PREFIX + "watchers"
"""Sorted set: watcher -> Unix milliseconds at which it counts as dead, unless it shows itself before."""
WATCHED = PREFIX + "watched"
"""Hash: mailbox -> the watcher that watches it, if that one is alive."""
ALERTS = PREFIX + "alerts"
"""Hash: id of an alert that stands -> its JSON as it was raised."""
UNTOLD_ALERTS = PREFIX + "untold_alerts"
"""List: JSON of alerts, raised or cleared, that the webhook has not taken yet, oldest first."""


def lease_key(what: str) -> str:
    """String with a time to live: the fence of whoever holds the lease on `what`."""
    return f"{PREFIX}lease:{what}"


def mailbox_lease(mailbox: str) -> str:
    """What is leased by whoever works on a mailbox."""
    return f"mailbox:{mailbox}"


def checkpoint_key(mailbox: str) -> str:
    """Hash: `folder:NAME` -> JSON of the checkpoint of that folder; beside it what is known of the folders.

    `begun:NAME` -> JSON of the day before which nothing of it is wanted;
    `recognise:NAME` -> JSON of the UIDVALIDITY under which a renumbered folder is gone through for the first time;
    `backfill:NAME` -> JSON of what is still to be gone back over; `pattern:WORD` -> there once a word of FOLDERS was
    looked up; `gone:NAME` -> there while a folder is no longer listed and people have been told.
    """
    return f"{PREFIX}checkpoint:{{{mailbox}}}"


def uidls_key(mailbox: str) -> str:
    """Set: the UIDLs that a POP3 mailbox has handed over."""
    return f"{PREFIX}uidls:{{{mailbox}}}"


def backfilled_key(mailbox: str) -> str:
    """Set: the UIDLs that a backfill of a POP3 mailbox is done with; gone when it has ended."""
    return f"{PREFIX}backfilled:{{{mailbox}}}"


def handed_key(mailbox: str) -> str:
    """Sorted set: short digest of a message that was handed over -> when, in Unix seconds. Bounded, and it expires."""
    return f"{PREFIX}handed:{{{mailbox}}}"


def hurdles_key(mailbox: str) -> str:
    """Hash with a time to live: message id -> how often a session ended when that message should have come."""
    return f"{PREFIX}hurdles:{{{mailbox}}}"


def again_key(mailbox: str) -> str:
    """Set: JSON of messages to be pulled once more, because their copy in the spool was damaged."""
    return f"{PREFIX}again:{{{mailbox}}}"


def places_key(mailbox: str, batch: str) -> str:
    """String with a time to live: JSON of where the messages of a batch lie, in case its file loses its beginning."""
    return f"{PREFIX}places:{{{mailbox}}}:{batch}"


def bell_key(ticket: str) -> str:
    """String with a time to live: the bell of this batch was rung a moment ago."""
    return f"{PREFIX}bell:{ticket}"


def life_key(role: str, host: str) -> str:
    """String with a time to live: Unix milliseconds at which a role on a host last did a piece of work."""
    return f"{PREFIX}life:{role}@{host}"


def standing_key(mailbox: str) -> str:
    """Hash: how a mailbox stands: state, sentence, counters, times. For people; nothing decides on it but parking."""
    return f"{PREFIX}standing:{{{mailbox}}}"


def host_key(what: str, host: str) -> str:
    """What is known of a host, `name:port`, by all who call at it.

    `places` -> hash: mailbox -> fence of the lease under which it holds a place for its connection;
    `turn` -> string with a time to live: Unix milliseconds up to which logins are given out;
    `waiting`, `asked` -> sorted sets: who found no place or turn -> Unix milliseconds of his first and his last try;
    `failing` -> sorted set: mailbox -> Unix milliseconds at which it found the host not there, none having been opened since;
    `away` -> hash while the host is away: `since`, `probe_at` (Unix milliseconds), `probes`, `mailboxes`, `reason`.
    """
    return f"{PREFIX}host:{{{host}}}:{what}"


def circuit_key(output: str) -> str:
    """Hash while the circuit of an output is open: `since`, `probe_at` (Unix milliseconds), `probes`, `reason`."""
    return f"{PREFIX}circuit:{{{output}}}"


def failing_key(output: str) -> str:
    """Set with a time to live: the batches that an output took nothing of, one after the other."""
    return f"{PREFIX}failing:{{{output}}}"


def token_key(account: str) -> str:
    """Hash: what is stored for an account.

    `version`, `blob` (the sealed grant), `signed_in_at`, `renewed_at`, `ends_at` (Unix seconds), `client_id`, and
    `troubles` (JSON, by scopes) while it cannot be renewed. A forgotten account has a version alone.
    """
    return f"{PREFIX}token:{{{account}}}"


ACQUIRE_LEASE = """
-- Takes a lease that nobody holds and gives out a fence higher than every one before it.
-- KEYS: 1 lease (string), 2 fences (hash)      ARGV: 1 what is leased, 2 time to live in ms
-- Returns the fence, or 0 while somebody holds the lease.
-- The fence follows the server's clock in microseconds, so that it goes on rising after the database was flushed.
if redis.call('EXISTS', KEYS[1]) == 1 then return '0' end
local time = redis.call('TIME')
local fence = tonumber(time[1]) * 1000000 + tonumber(time[2])
local last = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
if fence <= last then fence = last + 1 end
local text = string.format('%.0f', fence)
redis.call('HSET', KEYS[2], ARGV[1], text)
redis.call('SET', KEYS[1], text, 'PX', ARGV[2])
return text
"""

RENEW_LEASE = """
-- Prolongs a lease that is still held under this fence.
-- KEYS: 1 lease (string)                       ARGV: 1 fence, 2 time to live in ms
-- Returns 1, or 0 when the lease ran out or somebody else took it.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""

RELEASE_LEASE = """
-- Gives a lease back, if it is still held under this fence.
-- KEYS: 1 lease (string)                       ARGV: 1 fence
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""

MOVE_CHECKPOINT = """
-- Moves the checkpoint of a folder, while the lease on its mailbox is held under this fence.
-- KEYS: 1 checkpoint (hash), 2 uidls (set), 3 lease of the mailbox (string)
-- ARGV: 1 fence, 2 field of the folder, 3 its new value as JSON, 4... UIDLs to add
-- Returns 1, or 0 when the lease ran out, was flushed, or is somebody else's: nothing was written.
-- A holder that outlived a flush must not write either: what it knows of is less than what was flushed, and the next
-- holder would take it for the whole.
if redis.call('GET', KEYS[3]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
for i = 4, #ARGV, 1000 do
  redis.call('SADD', KEYS[2], unpack(ARGV, i, math.min(i + 999, #ARGV)))
end
return 1
"""

FORGET_UIDLS = """
-- Forgets UIDLs that the server no longer lists, while the lease on the mailbox is held under this fence.
-- KEYS: 1 uidls (set), 2 lease of the mailbox (string)     ARGV: 1 fence, 2... UIDLs to forget
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
for i = 2, #ARGV, 1000 do
  redis.call('SREM', KEYS[1], unpack(ARGV, i, math.min(i + 999, #ARGV)))
end
return 1
"""

NOTE_HANDED = """
-- Keeps digests of messages that were handed over, for a while and up to a number, the newest.
-- KEYS: 1 handed (sorted set)      ARGV: 1 now in seconds, 2 seconds to keep them, 3 how many, 4... digests
for i = 4, #ARGV do redis.call('ZADD', KEYS[1], ARGV[1], ARGV[i]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1] - ARGV[2])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -ARGV[3] - 1)
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
"""

CLAIM_DUE = """
-- Takes up to N due entries and re-arms each in the same instant, so that of any number of beats exactly one gets it.
-- KEYS: 1 due (sorted set), 2 every (hash), 3 rung (hash)      ARGV: 1 now in ms, 2 N
-- Returns the entries taken. An entry without an interval has been removed from the schedule and is dropped.
-- A cron entry is re-armed a minute ahead; its beat then sets the exact time, and if it dies the entry is late, not lost.
local now = tonumber(ARGV[1])
local ready = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
local taken = {}
for _, entry in ipairs(ready) do
  local every = redis.call('HGET', KEYS[2], entry)
  if not every then
    redis.call('ZREM', KEYS[1], entry)
  else
    local due = now + 60000
    local interval, phase = string.match(every, '^(%d+):(%d+)$')
    if interval then
      interval, phase = tonumber(interval), tonumber(phase)
      due = now - ((now - phase) % interval) + interval
    end
    redis.call('ZADD', KEYS[1], string.format('%.0f', due), entry)
    local rung = redis.call('HGET', KEYS[3], entry)
    local first = rung and string.match(rung, '^(%d+):') or ARGV[1]
    redis.call('HSET', KEYS[3], entry, first .. ':' .. ARGV[1])
    taken[#taken + 1] = entry
  end
end
return taken
"""

SYNC_SCHEDULE = """
-- Makes the entries of the schedule exactly these, in one instant, so that beats that start together ring once.
-- KEYS: 1 due (sorted set), 2 every (hash), 3 rung (hash)
-- ARGV: 1 now in ms, then for each entry its name and its `interval_ms:phase_ms`, or `cron`
-- A new entry is due at once; one whose interval became shorter is due within the new one; others keep their time.
local now, wanted = tonumber(ARGV[1]), {}
for i = 2, #ARGV, 2 do
  local entry, every = ARGV[i], ARGV[i + 1]
  wanted[entry] = true
  local due = redis.call('ZSCORE', KEYS[1], entry)
  local changed = redis.call('HGET', KEYS[2], entry) ~= every
  local latest = now + tonumber(string.match(every, '^(%d+):') or '0')
  if changed then redis.call('HSET', KEYS[2], entry, every) end
  if not due or (changed and tonumber(due) > latest) then redis.call('ZADD', KEYS[1], ARGV[1], entry) end
end
for _, entry in ipairs(redis.call('HKEYS', KEYS[2])) do
  if not wanted[entry] then
    redis.call('HDEL', KEYS[2], entry)
    redis.call('ZREM', KEYS[1], entry)
    redis.call('HDEL', KEYS[3], entry)
  end
end
"""

NOTE_NEWS = """
-- Notes that a server announced new mail, and says whether that needs a bell.
-- KEYS: 1 news (set), 2 standing of the mailbox (hash), 3 rung (hash)
-- ARGV: 1 mailbox, 2 its entry in the schedule, 3 now in ms
-- Returns 1, or 0 when a bell is on its way already, or the mailbox failed: its schedule knows when it may be tried again.
-- The bell is noted like every other one, so that the sweep rings again when it gets lost.
if (redis.call('HGET', KEYS[2], 'failures') or '0') ~= '0' then return 0 end
if redis.call('SADD', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('HSETNX', KEYS[3], ARGV[2], ARGV[3] .. ':' .. ARGV[3])
return 1
"""

SHARE_WATCH = """
-- Divides mailboxes evenly among the watchers that are alive, and says which of them are this one's from now on.
-- KEYS: 1 watchers (sorted set), 2 watched (hash)
-- ARGV: 1 watcher, 2 its time to live in ms, 3... the mailboxes, those that it watches already first
-- A watcher that comes later makes the others give up what is more than their share when they ask next; what a dead one
-- watched is free as soon as its time is up. So each mailbox is one watcher's, at the cost of one command for all of them.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[1])
local alive, watchers = {}, redis.call('ZRANGE', KEYS[1], 0, -1)
for _, watcher in ipairs(watchers) do alive[watcher] = true end
local share = math.ceil((#ARGV - 2) / #watchers)
local owners, found = {}, redis.call('HGETALL', KEYS[2])
for i = 1, #found, 2 do owners[found[i]] = found[i + 1] end
local mine = {}
for i = 3, #ARGV do
  local mailbox = ARGV[i]
  local owner = owners[mailbox]
  owners[mailbox] = nil
  if owner == ARGV[1] or not alive[owner or ''] then
    if #mine < share then
      mine[#mine + 1] = mailbox
      if owner ~= ARGV[1] then redis.call('HSET', KEYS[2], mailbox, ARGV[1]) end
    else
      redis.call('HDEL', KEYS[2], mailbox)
    end
  end
end
for mailbox in pairs(owners) do redis.call('HDEL', KEYS[2], mailbox) end
return mine
"""

SWAP_TOKEN = """
-- Stores a sealed grant if nobody stored a newer one meanwhile: compare and set on the version.
-- KEYS: 1 token (hash)      ARGV: 1 version that was read ('0' for none), 2... fields and their values
-- Returns the new version, or 0 when the stored version is another one: nothing was written.
-- The version follows the server's clock in microseconds, so that none comes twice, also after a flush.
local version = redis.call('HGET', KEYS[1], 'version') or '0'
if version ~= ARGV[1] then return '0' end
local time = redis.call('TIME')
local new = tonumber(time[1]) * 1000000 + tonumber(time[2])
if new <= tonumber(version) then new = tonumber(version) + 1 end
local text = string.format('%.0f', new)
redis.call('HSET', KEYS[1], 'version', text, unpack(ARGV, 2))
redis.call('PERSIST', KEYS[1])
return text
"""  # noqa: S105  (a script)

NOTE_TOKEN_TROUBLES = """
-- Notes why a grant could not be renewed, while it is still this version of it.
-- KEYS: 1 token (hash)      ARGV: 1 version that was read ('0' for none), 2 JSON of the troubles
if (redis.call('HGET', KEYS[1], 'version') or '0') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'troubles', ARGV[2])
return 1
"""  # noqa: S105  (a script)

FORGET_TOKEN = """
-- Deletes what is stored for an account, and leaves a version newer than every copy of it.
-- KEYS: 1 token (hash)      ARGV: 1 seconds for which it is known to be forgotten
local version = tonumber(redis.call('HGET', KEYS[1], 'version') or '0')
local time = redis.call('TIME')
local new = tonumber(time[1]) * 1000000 + tonumber(time[2])
if new <= version then new = version + 1 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'version', string.format('%.0f', new))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
"""  # noqa: S105  (a script)

RESEAL_TOKEN = """
-- Puts the same grant under another key in place, while it is still this version of it.
-- KEYS: 1 token (hash)      ARGV: 1 version that was read, 2 blob
if redis.call('HGET', KEYS[1], 'version') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'blob', ARGV[2])
return 1
"""  # noqa: S105  (a script)

NOTE_ALERT = """
-- Notes that an alert was raised or cleared and queues it for the webhook, once, whoever else notes the same.
-- KEYS: 1 alerts (hash), 2 untold (list)
-- ARGV: 1 id, 2 JSON of the alert, 3 '1' when it is raised, '0' when it is cleared, 4 how many may wait in the list
-- Returns 1, or 0 when it was noted before. The list keeps its newest, for a webhook that never answers.
local new
if ARGV[3] == '1' then
  new = redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
else
  new = redis.call('HDEL', KEYS[1], ARGV[1])
end
if new == 1 then
  redis.call('RPUSH', KEYS[2], ARGV[2])
  redis.call('LTRIM', KEYS[2], -tonumber(ARGV[4]), -1)
end
return new
"""


class Client(redis.Redis):
    """A Redis client whose connection failures are `RedisUnavailable`, in one place for all callers."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command.

        Raises:
            RedisUnavailable: the server does not answer, is loading, is read-only or is out of memory.
        """
        with answering():
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


@contextmanager
def answering() -> Iterator[None]:
    """Turn every way in which Redis can be away into one error that says what it means.

    Raises:
        RedisUnavailable: instead of redis-py's connection, time-out, read-only, memory and disk errors.
    """
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise RedisUnavailable(
            f"Redis does not answer ({type(error).__name__}). Nothing is pulled or delivered until it is back; "
            "check REDIS_URL and the server."
        ) from error
    except redis.ResponseError as error:
        # The server's own disk is full or broken; redis-py has no class for it.
        disk = str(error).startswith("MISCONF")
        if not (disk or isinstance(error, redis.ReadOnlyError | redis.OutOfMemoryError)):
            raise
        raise RedisUnavailable(
            f"Redis refuses writes ({'MISCONF' if disk else type(error).__name__}). Nothing is pulled until it takes them again; "
            "check its memory, its disk and maxmemory-policy (it must be noeviction)."
        ) from error


def connect(url: str, *, name: str = "mailquay") -> Client:
    """A client for `url` (redis, rediss or unix scheme); no connection is made yet.

    Every command has 10 seconds. A command whose answer was lost is sent again, so all writes here are idempotent or
    compare-and-set. Five retries cover a Redis restart without parking anything.
    """
    if url.startswith("redis+socket://"):
        # Celery's spelling of a socket; redis-py says unix.
        url = url.replace("redis+socket://", "unix://").replace("virtual_host=", "db=")
    # A socket in the file system knows no keep-alive, and redis-py refuses the option there.
    keepalive = {} if url.startswith("unix://") else {"socket_keepalive": True}
    return Client.from_url(  # type: ignore[return-value]  # redis-py declares its base class
        url,
        decode_responses=True,
        socket_timeout=10,
        socket_connect_timeout=5,
        health_check_interval=30,
        client_name=name,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), 5),
        **keepalive,
    )


def celery_url(url: str) -> str:
    """The same server in Celery's spelling: kombu says `redis+socket` where redis-py says `unix`."""
    if not url.startswith("unix://"):
        return url
    path, _, query = url.removeprefix("unix://").partition("?")
    database = dict(pair.partition("=")[::2] for pair in query.split("&") if pair).get("db", "0")
    return f"redis+socket://{path}?virtual_host={database}"
