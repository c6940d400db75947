"""Adds each message to a Redis stream, once for each id as long as the id is remembered.

One script looks the id up, adds the entry and remembers the id, in one step that nothing can come between. Ids are kept
in a sorted set beside the stream, `STREAM:ids`, for WINDOW. What "accepted" is worth is what that Redis is worth: it
answers before its append-only file is on the disk unless it has `appendfsync always`, or FSYNC=yes waits for it. The
stream is not read, and without MAXLEN not trimmed: that is the reader's business. Redis Cluster is not supported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal

import redis
from pydantic import Field, SecretStr, ValidationInfo, field_validator
from redis.backoff import NoBackoff
from redis.retry import Retry as RedisRetry

from pipelines.message import Message
from pipelines.options import ByteSize, CaFile, Duration, Flag, write_duration
from pipelines.output import Accepted, Output, OutputOptions, Receipt, Retry
from pipelines.outputs.destination import check_trust, check_url, host_and_port

# KEYS: the stream, the ids. ARGV: the id, how long it is remembered (ms), how many entries to keep (0: all), then the fields.
#
# All that can fail for what the keys are comes before the entry is added, because a script is not rolled back. The time is
# the server's. A repetition is remembered anew: that also makes it wait for its turn on the disk with FSYNC. A thousand
# ids at most are forgotten a call, so that no call is long.
ADD = """
local known = redis.call('ZSCORE', KEYS[2], ARGV[1])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if known and now - known < tonumber(ARGV[2]) then
  redis.call('ZADD', KEYS[2], now, ARGV[1])
  return 0
end
local bound = {}
if ARGV[3] ~= '0' then bound = {'MAXLEN', '~', ARGV[3]} end
local entry = {}
for _, word in ipairs(bound) do entry[#entry + 1] = word end
entry[#entry + 1] = '*'
for at = 4, #ARGV do entry[#entry + 1] = ARGV[at] end
redis.call('XADD', KEYS[1], unpack(entry))
redis.call('ZADD', KEYS[2], now, ARGV[1])
local old = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[2], 'LIMIT', 0, 1000)
if #old > 0 then redis.call('ZREM', KEYS[2], unpack(old)) end
return 1
"""

# So much is on its way before the answers are read: a client keeps all of it in memory.
WIRE_BYTES = 4 << 20
# Redis has this share of TIMEOUT for its disk and its replicas; the rest is for its answer.
CONFIRM_SHARE = 0.8

# What an error's code (its first word, the only one that is shown) means for whoever has to act.
HINTS = {
    "WRONGTYPE": "STREAM or STREAM:ids is a key of another kind",
    "OOM": "it has no memory left (maxmemory)",
    "READONLY": "it is a replica; set URL to its primary",
    "MISCONF": "it cannot write its own files; see its log",
    "NOAUTH": "it wants a password",
    "WRONGPASS": "user or password are wrong",
    "NOPERM": "this user may not use STREAM and STREAM:ids, or their commands",
    "NOREPLICAS": "too few replicas are connected (min-replicas-to-write)",
    "MOVED": "it is a cluster, which is not supported",
}
# Errors from which the client has taken the code away.
CODES: dict[type[Exception], str] = {
    redis.exceptions.NoPermissionError: "NOPERM",
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.ReadOnlyError: "READONLY",
}


class RedisStreamOptions(OutputOptions):
    """Which stream, what of a message, and when it is accepted."""

    url: SecretStr = Field(
        description="Address of the server: `redis://` or, with TLS, `rediss://`, then host, port and database.",
        examples=["redis://redis:6379/1"],
    )
    username: str | None = Field(
        default=None, description="User to sign in as, if it is not in URL.", examples=["mailquay"]
    )
    password: SecretStr | None = Field(default=None, description="Password, if it is not in URL.")
    stream: str = Field(
        default="mailquay",
        min_length=1,
        description="Key of the stream. The ids are in a second key, `STREAM:ids`.",
    )
    content: Literal["json", "json+raw"] = Field(
        default="json",
        description="What an entry holds: `json`, or also `raw`, the bytes as the mail server sent them.",
    )
    max_size: ByteSize = Field(
        default=16 << 20,
        ge=0,
        le=500_000_000,
        description="A larger message is added without `raw`; its `json` says its size.",
    )
    window: Duration = Field(
        default=timedelta(days=7),
        ge=timedelta(minutes=1),
        description="How long an id is remembered: longer than messages are tried again.",
    )
    maxlen: int | None = Field(
        default=None,
        ge=1,
        description="About how many entries the stream keeps; older ones go, read or not. Without it, all stay.",
        examples=["100000"],
    )
    fsync: Flag = Field(
        default=False,
        description="Whether a message is accepted only when it is on the server's disk (WAITAOF: Redis 7.2 or Valkey, "
        "with an append-only file).",
    )
    replicas: int = Field(
        default=0, ge=0, description="How many replicas have to hold a message before it is accepted."
    )
    timeout: Duration = Field(
        default=timedelta(seconds=10),
        ge=timedelta(milliseconds=100),
        le=timedelta(hours=1),
        description="How long to wait for the connection and for each answer.",
    )
    ca_file: CaFile = None

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: SecretStr) -> SecretStr:
        return check_url(url, schemes={"redis", "rediss"})

    @field_validator("ca_file")
    @classmethod
    def _is_used(cls, ca_file: Path | None, info: ValidationInfo) -> Path | None:
        return check_trust(ca_file, info, tls="rediss")


class RedisStreamOutput(Output):
    """Adds entries to STREAM, many in one round trip."""

    type_name: ClassVar[str] = "redis_stream"
    Options: ClassVar[type[OutputOptions]] = RedisStreamOptions
    dedupes: ClassVar[bool] = True

    options: RedisStreamOptions
    _client: redis.Redis | None = None

    def __init__(self, name: str, options: RedisStreamOptions) -> None:
        """Remember the options."""
        super().__init__(name, options)
        self._server = host_and_port(options.url, port=6379)

    def open(self) -> None:
        """Make the client; it connects when it is used."""
        seconds = self.options.timeout.total_seconds()
        self._client = redis.Redis.from_url(
            self.options.url.get_secret_value(),
            **self._credentials(),
            **self._trust(),
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            max_connections=1,
            # A kept connection may be gone, and asking twice is harmless; whoever is silent is not asked again.
            retry=RedisRetry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Add the messages that the stream was not given yet."""
        receipts: list[Receipt] = []
        try:
            for group in _grouped(messages, raw=self.options.content == "json+raw"):
                receipts.extend(self._add(group))
        except redis.TimeoutError:
            failure = f"{self._server} did not answer within {write_duration(self.options.timeout)}"
        except redis.AuthenticationError:
            failure = f"{self._server} does not let us in: check URL, USERNAME and PASSWORD"
        except redis.ConnectionError as error:
            failure = f"{self._server} cannot be reached, or broke off ({type(error.__cause__ or error.__context__ or error).__name__})"
        except redis.ResponseError as error:
            failure = self._explain(error)
        else:
            return receipts
        return [*receipts, *[Retry(failure)] * (len(messages) - len(receipts))]

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()

    def _add(self, messages: Sequence[Message]) -> list[Receipt]:
        assert self._client is not None
        stream = self.options.stream
        window = round(self.options.window.total_seconds() * 1000)
        # Neither a transaction nor a promise: each script is whole, and the order does not matter.
        with self._client.pipeline(transaction=False) as line:
            add = self._client.register_script(ADD)
            for message in messages:
                fields = [word for field in self._entry(message).items() for word in field]
                add([stream, f"{stream}:ids"], [message.id, window, self.options.maxlen or 0, *fields], line)
            confirm = self._confirmation()
            if confirm:
                line.execute_command(*confirm)  # type: ignore[no-untyped-call]
            answers = line.execute(raise_on_error=False)
        doubt = self._doubt(answers.pop()) if confirm else None
        return [
            Retry(self._explain(answer)) if isinstance(answer, Exception) else doubt or Accepted()
            for answer in answers
        ]

    def _entry(self, message: Message) -> dict[str, bytes | memoryview | str]:
        entry: dict[str, bytes | memoryview | str] = {
            "id": message.id,
            "mailbox": message.mailbox,
            "json": message.to_json(),
        }
        if self.options.content == "json+raw" and message.size <= self.options.max_size:
            entry["raw"] = message.raw
        return entry

    def _confirmation(self) -> tuple[str | int, ...]:
        """The command, on the same connection, that waits until what was written before is safe."""
        limit = round(self.options.timeout.total_seconds() * 1000 * CONFIRM_SHARE)
        if self.options.fsync:
            return ("WAITAOF", 1, self.options.replicas, limit)
        return ("WAIT", self.options.replicas, limit) if self.options.replicas else ()

    def _doubt(self, answer: Any) -> Retry | None:
        """Say what the confirmation lacks: the number of replicas that answered, behind that of disks with FSYNC."""
        if isinstance(answer, Exception):
            return Retry(
                self._explain(answer, wanted="FSYNC needs its append-only file, and Redis 7.2 or Valkey")
            )
        disks, replicas = answer if self.options.fsync else (1, answer)
        if disks and replicas >= self.options.replicas:
            return None
        missing = "its replicas have" if disks else "its disk has"
        return Retry(f"{self._server} added the message, but {missing} not confirmed it within TIMEOUT")

    def _explain(self, error: Exception, *, wanted: str = "see its log") -> str:
        # The rest of an error may quote what was sent.
        code = CODES.get(type(error)) or str(error).partition(" ")[0]
        code = code if code.isupper() and code.isalpha() else "an error"
        return f"{self._server} answered {code}: {HINTS.get(code, wanted)}"

    def _credentials(self) -> Mapping[str, str]:
        """What is set beside URL. A URL's own words come first."""
        given: dict[str, str] = {}
        if self.options.username is not None:
            given["username"] = self.options.username
        if self.options.password is not None:
            given["password"] = self.options.password.get_secret_value()
        return given

    def _trust(self) -> Mapping[str, str]:
        return {} if self.options.ca_file is None else {"ssl_ca_certs": str(self.options.ca_file)}


def _grouped(messages: Sequence[Message], *, raw: bool) -> Iterator[Sequence[Message]]:
    """Cut a call into pieces of some WIRE_BYTES, each at least one message."""
    group: list[Message] = []
    size = 0
    for message in messages:
        group.append(message)
        size += len(message.to_json()) + (message.size if raw else 0)
        if size >= WIRE_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
