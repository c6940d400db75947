"""An object store as the spool sees it: whole objects by key, each request with a deadline, tried a few times.

What `put` and `swap` return from is durable: the store has answered. What is relied upon: whoever reads or lists after an
answer sees what was answered for, and `swap` replaces an object only if it is still the one that was read (If-Match of S3
and Azure, generations of Google), which is tried out before it is first relied upon.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import ObjectStore

from pipelines.store_client import explain
from worker.errors import Misconfigured, SpoolUnavailable

T = TypeVar("T")

Data = bytes | bytearray
Version = dict[str, str]
"""What tells one content of an object from another one, in the store's words."""

_PAUSES_SECONDS = (0.2, 1.0)
"""Before the second try, and before the third and last."""
_PAGE = 1000
"""Objects that stores list at once."""
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
"""Answers after which the same request may succeed; 409 is S3's when two writers meet."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object. `modified` is the store's time, in Unix seconds."""

    data: bytes
    version: Version
    modified: float


@dataclass(frozen=True, slots=True)
class Listed:
    """An object in a listing; `modified` as in `Found`."""

    key: str
    size: int
    modified: float


class Bucket:
    """A store and a prefix in it, which are in the client. `timeout` is how long it lets a request take, for people."""

    def __init__(
        self,
        client: ObjectStore,
        *,
        server: str,
        timeout: str,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = lambda: 1.0,
        name: Callable[[], uuid.UUID] = uuid.uuid4,
    ) -> None:
        self._client: Any = client
        self._server = server
        self._timeout = timeout
        self._sleep = sleep
        self._jitter = jitter
        self._name = name
        self._keeps_conditions = False

    def get(self, key: str) -> Found | None:
        """Read an object whole; None when there is none.

        Raises:
            SpoolUnavailable: as all methods here.
        """

        def read() -> Found:
            answer = obstore.get(self._client, key)
            meta = answer.meta
            return Found(answer.bytes().to_bytes(), _version(meta), meta["last_modified"].timestamp())

        try:
            return self._tried(read)
        except FileNotFoundError:
            return None

    def put(self, key: str, data: Data) -> Version:
        """Write an object, also in the place of another one. A repeat after a lost answer writes the same."""
        return _version(self._tried(lambda: obstore.put(self._client, key, data, use_multipart=False)))

    def create(self, key: str, data: bytes) -> Version:
        """Write an object under a name of our own, for the first time.

        Of a write that was given up and comes late nothing is to be feared: by then there is an object.
        """

        def write() -> Version:
            try:
                return _version(obstore.put(self._client, key, data, mode="create", use_multipart=False))
            except AlreadyExistsError as error:
                # Nobody else knows the name, so it was we, and the answer was lost.
                if found := self.get(key):
                    return found.version
                raise _Conflict(str(error)) from None

        return self._tried(write)

    def swap(self, key: str, data: bytes, version: Version) -> Version | None:
        """Replace an object if it is still of this version, else return None; of several that try, one succeeds.

        `data` must be unlike what anybody else writes there: that tells a write whose answer was lost from another's.

        Raises:
            Misconfigured: the store does not keep conditions.
        """
        if not self._keeps_conditions:
            self._try_conditions_out()
        return self._swap(key, data, version)

    def _swap(self, key: str, data: bytes, version: Version) -> Version | None:
        mode: Any = version

        def write() -> Any:
            try:
                return obstore.put(self._client, key, data, mode=mode, use_multipart=False)
            except AlreadyExistsError as error:
                # A conflict (409) of two that write at this moment. It says nothing of who has won.
                raise _Conflict(str(error)) from None

        try:
            return _version(self._tried(write))
        except (PreconditionError, FileNotFoundError):
            found = self.get(key)
            return found.version if found and found.data == data else None

    def _try_conditions_out(self) -> None:
        """Swap an object of our own for which the condition does not hold.

        Raises:
            Misconfigured: it was swapped all the same.
        """
        key = f"probe/{self._name().hex}"
        former = self.put(key, b"1")
        self.put(key, b"2")
        kept = bool(former) and self._swap(key, b"3", former) is None
        self.delete([key])
        if not kept:
            raise Misconfigured(
                f"{self._server} does not keep the condition If-Match of a PUT, so two processes could take the same batch. "
                "Use a store that does, or the spool in a folder (unset SPOOL_URL)."
            )
        self._keeps_conditions = True

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, in no order; those that are gone already are no error."""

        def delete(some: Sequence[str]) -> None:
            # Of one, every store knows how to delete it.
            obstore.delete(self._client, some[0] if len(some) == 1 else list(some))

        try:
            if keys:
                self._tried(lambda: delete(keys))
        except FileNotFoundError:
            # Some stores stop there.
            for key in keys:
                with suppress(FileNotFoundError):
                    self._tried(lambda key=key: delete([key]))  # type: ignore[misc]

    def listed(self, folder: str) -> Iterator[Listed]:
        """Every object below a folder, by key, a thousand a request as far as they are asked for."""
        behind: str | None = None
        pages: Any = None

        def page() -> Any:
            nonlocal pages
            try:
                if pages is None:
                    pages = obstore.list(self._client, folder, offset=behind, chunk_size=_PAGE)
                return next(pages, None)
            except BaseException:
                # What broke off in the middle is begun anew behind the last key that came.
                pages = None
                raise

        while found := self._tried(page):
            for one in found:
                yield Listed(one["path"], one["size"], one["last_modified"].timestamp())
            behind = found[-1]["path"]

    def folders(self, folder: str) -> list[str]:
        """The names of the folders in a folder, in order."""
        found = self._tried(lambda: obstore.list_with_delimiter(self._client, folder))
        return sorted(prefix.rpartition("/")[2] for prefix in found["common_prefixes"])

    def _tried(self, act: Callable[[], T]) -> T:
        """Do something, a few times when it fails in a way that may pass; what the object itself says is raised as it is.

        Raises:
            SpoolUnavailable: it went on failing, or would.
        """
        for pause in (*_PAUSES_SECONDS, None):
            try:
                return act()
            except (FileNotFoundError, PreconditionError):
                raise
            except (BaseError, ValueError, OSError) as error:
                failure = explain(str(error), server=self._server, timeout=self._timeout, prefix="SPOOL_")
                lasting = failure.status is not None and failure.status not in _AGAIN
                if pause is None or (lasting and not isinstance(error, _Conflict)):
                    raise SpoolUnavailable(
                        f"the spool's store {failure.sentence}. Mail waits on its server and in the spool; "
                        "everything goes on by itself when the store answers."
                    ) from None
            self._sleep(pause * self._jitter())
        raise AssertionError  # pragma: no cover


class _Conflict(OSError):
    """Another writer was at the same object."""


def _version(of: Any) -> Version:
    return {name: of[name] for name in ("e_tag", "version") if of.get(name)}
