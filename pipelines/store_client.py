"""Opens object stores through obstore, and says in a sentence what went wrong with one: for outputs and for the spool.

Its library reads the variables and files in which a provider's tools keep a machine's identity (`AWS_…`, `GOOGLE_…`,
`AZURE_…`), where no keys are given. It tries nothing again, follows no redirect of what it writes and uses no proxy of the environment. No
sentence holds the name of an object, a key or what the server wrote.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

# The process whose threads the library runs in; in one that is forked from it they are missing, and a request would wait
# for them for ever.
_home: list[int] = []
# The library cannot be told to leave HTTPS_PROXY of the environment alone, but a proxy that no address goes through
# takes its place.
_NO_PROXY = {"proxy_url": "http://127.0.0.1:9", "proxy_excludes": "*,0.0.0.0/0,::/0"}
_ANSWERED = re.compile(r"non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_SERVER = re.compile(r"Error performing [A-Z]+ (https?://[\w.:\[\]-]+)")

StoreClient = S3Store | GCSStore | AzureStore


@dataclass(frozen=True, slots=True)
class Address:
    """Where a store is and who asks. `url` is `s3://`, `gs://` or `az://`, with bucket and prefix."""

    url: str
    endpoint: str | None = None
    region: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)

    @property
    def kind(self) -> str:
        """The scheme of the URL."""
        return self.url.partition(":")[0]

    @property
    def server(self) -> str:
        """What people are told of the store, before it has answered."""
        return self.endpoint or f"the {self.kind} store"


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong with a request. `status` and `code` are the server's, None and empty without an answer.

    `unreachable`: the store takes nothing now, so others need not be tried.
    """

    sentence: str
    status: int | None = None
    code: str = ""
    unreachable: bool = False


def connect(address: Address, *, timeout: timedelta, root_certificate: bytes | None = None) -> StoreClient:
    """Make a client; nothing is asked of the store. A request may take `timeout`.

    Raises:
        OSError: the address does not make a store, or this process was forked from one that had a client.
    """
    if (_home or [os.getpid()])[0] != os.getpid():
        sentence = (
            "object stores were used before this process was forked, which their library does not survive"
        )
        raise OSError(errno.EINVAL, sentence)
    _home[:] = [os.getpid()]
    client: dict[str, Any] = {
        "timeout": timeout,
        "connect_timeout": timeout,
        "pool_idle_timeout": timedelta(seconds=3),
        "user_agent": "mailquay",
        "allow_http": (address.endpoint or "").startswith("http:"),
        **_NO_PROXY,
    }
    if root_certificate is not None:
        client["root_certificate"] = root_certificate
    make: Any = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[address.kind]
    try:
        store: StoreClient = make.from_url(
            address.url,
            config=_config(address),
            client_options=client,
            # Who tries again, and when, is not for a library to say.
            retry_config={"max_retries": 0, "retry_timeout": timeout},
        )
    except (BaseError, ValueError) as error:
        # The library's words may hold a key.
        sentence = f"URL, ENDPOINT and the keys do not make a store ({error.__class__.__name__})"
        raise OSError(errno.EINVAL, sentence) from None
    return store


def explain(said: str, *, server: str, timeout: str, prefix: str = "") -> Failure:
    """Make a sentence for people out of what the library says of a failed request.

    `said` also holds the name of the object and the server's words; of these only a status and a code are passed on.
    `prefix` stands before the names of the variables that a person may have to look at.
    """
    found = _SERVER.search(said)
    server = found[1] if found else server
    answered = _ANSWERED.search(said)
    if answered is None:
        return _unanswered(said, server=server, timeout=timeout, prefix=prefix)
    status = int(answered[1])
    code = next(iter(_CODE.findall(said, answered.end())), "")
    sentence = f"{server} answered {status}{code and f' ({code})'}{_advice(status, code, prefix)}"
    return Failure(sentence, status, code, unreachable=status in {429, 503})


def _advice(status: int, code: str, prefix: str) -> str:
    """Say what a person can do about an answer, where he can do something."""
    if 300 <= status < 400 or code == "AuthorizationHeaderMalformed":
        return f": the bucket is elsewhere; set {prefix}REGION or {prefix}ENDPOINT"
    if status in {401, 403}:
        return f": check {prefix}ACCESS_KEY, {prefix}SECRET_KEY, what they may do, and this machine's clock"
    return f": check the bucket in {prefix}URL" if status == 404 else ""


def _unanswered(said: str, *, server: str, timeout: str, prefix: str) -> Failure:
    if "redirect without LOCATION" in said:
        return Failure(f"{server} sends requests elsewhere{_advice(301, '', prefix)}")
    if "kind: Timeout" in said:
        return Failure(f"{server} did not answer within {timeout}", unreachable=True)
    if "kind: Connect" in said:
        return Failure(f"{server} cannot be reached", unreachable=True)
    return Failure(f"{server} broke the request off")


def _config(address: Address) -> Mapping[str, Any]:
    """Say where the store is and who asks, in the library's words; what is not said it finds out on the machine."""
    secret = None if address.secret_key is None else address.secret_key.strip()
    names = {
        "s3": {
            "endpoint": address.endpoint,
            "region": address.region,
            "access_key_id": address.access_key,
            "secret_access_key": secret,
        },
        "gs": {"base_url": address.endpoint, "service_account_key": secret},
        "az": {"endpoint": address.endpoint, "account_name": address.access_key, "account_key": secret},
    }
    return {name: value for name, value in names[address.kind].items() if value is not None}
