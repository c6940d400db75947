"""An object store on the other side of a network, through obstore.

Its library reads the variables and files in which a provider's tools keep a machine's identity (`AWS_…`, `GOOGLE_…`,
`AZURE_…`), where no keys are given. It tries nothing again, follows no redirect, and uses no proxy of the environment.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError

from pipelines.options import write_duration
from pipelines.outputs.http_client import trust
from pipelines.outputs.stores import PART_BYTES, Content, ObjectStore, StoreError
from pipelines.outputs.stores.options import StoreOptions
from pipelines.store_client import Address, connect, explain

_PARTS_AT_ONCE = 2
# What S3 says of the object itself: the same request would meet the same answer. A person can mend all else.
_REFUSED_CODES = frozenset({"EntityTooLarge", "KeyTooLongError"})


class Remote(ObjectStore):
    """A store on the other side of a network."""

    def __init__(self, options: StoreOptions) -> None:
        secret = None if options.secret_key is None else options.secret_key.get_secret_value()
        address = Address(options.url, options.endpoint, options.region, options.access_key, secret)
        self._timeout = options.timeout
        self._server = address.server
        certificate = None
        if options.ca_file is not None:
            # The library would find out at the first request only.
            trust(options.ca_file)
            certificate = options.ca_file.read_bytes()
        self._store = connect(address, timeout=options.timeout, root_certificate=certificate)

    def add(self, key: str, content: Content, *, media_type: str) -> bool:
        """Put an object under the condition that none is there, or look first when it goes in parts."""
        if content.size > PART_BYTES:
            if self.holds(key):
                return False
            # Parts cannot be put together under a condition; a key says whose bytes it holds, so they are the same ones.
            self.replace(key, content, media_type=media_type)
            return True
        try:
            self._put(key, b"".join(content.pieces()), media_type, mode="create")
        except AlreadyExistsError:
            # S3's answer also when two writers meet (409 ConditionalRequestConflict), and the other one may fail yet.
            if not self.holds(key):
                sentence = f"{self._server} takes the same object from somebody else at this moment"
                raise StoreError(sentence) from None
            return False
        except StoreError as error:
            if error.status != 501:
                raise
            # A store that knows no conditions (501 NotImplemented) gets the same bytes under the same key.
            self.replace(key, content, media_type=media_type)
        return True

    def replace(self, key: str, content: Content, *, media_type: str) -> None:
        """Put an object, whatever is there; in parts when it is large."""
        large = content.size > PART_BYTES
        self._put(key, content.pieces() if large else b"".join(content.pieces()), media_type, mode=None)

    def holds(self, key: str) -> bool:
        """Ask for its head alone."""
        try:
            obstore.head(self._store, key)
        except FileNotFoundError:
            return False
        except (BaseError, ValueError, OSError) as error:
            raise self._explained(error) from None
        return True

    def _put(self, key: str, data: bytes | Iterable[bytes], media_type: str, *, mode: Any) -> None:
        try:
            obstore.put(
                self._store,
                key,
                data,
                attributes={"Content-Type": media_type},
                mode=mode,
                use_multipart=not isinstance(data, bytes),
                chunk_size=PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
            )
        except AlreadyExistsError:
            raise
        except (BaseError, ValueError, OSError) as error:
            raise self._explained(error) from None

    def _explained(self, error: Exception) -> StoreError:
        """Make a sentence of the library's error, which also holds the object's name and the server's words."""
        failure = explain(str(error), server=self._server, timeout=write_duration(self._timeout))
        return StoreError(
            failure.sentence,
            refused=failure.status == 413 or failure.code in _REFUSED_CODES,
            unreachable=failure.unreachable,
            status=failure.status,
        )
