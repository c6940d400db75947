"""An object store on the other side of a network, through obstore.

Its library reads the variables and files in which a provider's tools keep a machine's identity (`AWS_…`, `GOOGLE_…`,
`AZURE_…`), where no keys are given. It tries nothing again, follows no redirect, and uses no proxy of the environment.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from pipelines.options import write_duration
from pipelines.outputs.http_client import trust
from pipelines.outputs.stores import PART_BYTES, Content, ObjectStore, StoreError
from pipelines.outputs.stores.options import StoreOptions

_PARTS_AT_ONCE = 2
# The process whose threads the library runs in; in one that is forked from it they are missing, and a request would wait
# for them for ever.
_home: list[int] = []
# The library cannot be told to leave HTTPS_PROXY of the environment alone, but a proxy that no address goes through
# takes its place.
_NO_PROXY = {"proxy_url": "http://127.0.0.1:9", "proxy_excludes": "*,0.0.0.0/0,::/0"}
_ANSWERED = re.compile(r"non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_SERVER = re.compile(r"Error performing [A-Z]+ (https?://[\w.:\[\]-]+)")
# What S3 says of the object itself: the same request would meet the same answer. A person can mend all else.
_REFUSED_CODES = frozenset({"EntityTooLarge", "KeyTooLongError"})


class Remote(ObjectStore):
    """A store on the other side of a network."""

    def __init__(self, options: StoreOptions) -> None:
        if (_home or [os.getpid()])[0] != os.getpid():
            sentence = (
                "object stores were used before this process was forked, which their library does not survive"
            )
            raise OSError(errno.EINVAL, sentence)
        _home[:] = [os.getpid()]
        kind = options.url.partition(":")[0]
        self._timeout = options.timeout
        self._server = options.endpoint or f"the {kind} store"
        client: dict[str, Any] = {
            "timeout": options.timeout,
            "connect_timeout": options.timeout,
            "pool_idle_timeout": timedelta(seconds=3),
            "user_agent": "mailquay",
            "allow_http": (options.endpoint or "").startswith("http:"),
            **_NO_PROXY,
        }
        if options.ca_file is not None:
            # The library would find out at the first request only.
            trust(options.ca_file)
            client["root_certificate"] = options.ca_file.read_bytes()
        make: Any = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[kind]
        try:
            self._store = make.from_url(
                options.url,
                config=_config(kind, options),
                client_options=client,
                # Who tries again, and when, is not for a library to say.
                retry_config={"max_retries": 0, "retry_timeout": options.timeout},
            )
        except (BaseError, ValueError) as error:
            # The library's words may hold a key.
            sentence = f"URL, ENDPOINT and the keys do not make a store ({error.__class__.__name__})"
            raise OSError(errno.EINVAL, sentence) from None

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
                data,  # type: ignore[arg-type]
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
        return explain(str(error), server=self._server, timeout=write_duration(self._timeout))


def explain(said: str, *, server: str, timeout: str) -> StoreError:
    """Make a sentence for people out of what the library says of a failed request.

    `said` also holds the name of the object and the server's words; of these only a status and a code are passed on.
    """
    found = _SERVER.search(said)
    server = found[1] if found else server
    answered = _ANSWERED.search(said)
    if answered is None:
        return _unanswered(said, server=server, timeout=timeout)
    status = int(answered[1])
    code = next(iter(_CODE.findall(said, answered.end())), "")
    return StoreError(
        f"{server} answered {status}{code and f' ({code})'}{_advice(status, code)}",
        refused=status == 413 or code in _REFUSED_CODES,
        unreachable=status in {429, 503},
        status=status,
    )


def _advice(status: int, code: str) -> str:
    """Say what a person can do about an answer, where he can do something."""
    if 300 <= status < 400 or code == "AuthorizationHeaderMalformed":
        return ": the bucket is elsewhere; set REGION or ENDPOINT"
    if status in {401, 403}:
        return ": check ACCESS_KEY, SECRET_KEY, what they may do, and this machine's clock"
    return ": check the bucket in URL" if status == 404 else ""


def _unanswered(said: str, *, server: str, timeout: str) -> StoreError:
    if "kind: Timeout" in said:
        return StoreError(f"{server} did not answer within {timeout}", unreachable=True)
    if "kind: Connect" in said:
        return StoreError(f"{server} cannot be reached", unreachable=True)
    return StoreError(f"{server} broke the request off")


def _config(kind: str, options: StoreOptions) -> Mapping[str, Any]:
    """Say where the store is and who asks, in the library's words; what is not said it finds out on the machine."""
    secret = None if options.secret_key is None else options.secret_key.get_secret_value().strip()
    names = {
        "s3": {
            "endpoint": options.endpoint,
            "region": options.region,
            "access_key_id": options.access_key,
            "secret_access_key": secret,
        },
        "gs": {"base_url": options.endpoint, "service_account_key": secret},
        "az": {"endpoint": options.endpoint, "account_name": options.access_key, "account_key": secret},
    }
    return {name: value for name, value in names[kind].items() if value is not None}
