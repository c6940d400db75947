"""Header fields on request, as JMAP names them: `header:List-Post:asURLs`, `header:Received:asText:all`.

Follows RFC 8621 section 4.1.3 and its forms of section 4.1.2, without the RFC's list of which form a well-known
header may be asked for: a form that makes no sense for a header gives null or as much as could be read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime

from pipelines.addresses import Address
from pipelines.dates import to_json
from pipelines.headers import Headers

_PROPERTY = re.compile(r"header:([!-9;-~]+?)(?::as(\w+))?(:all)?")


def header_property(headers: Headers, name: str) -> object:
    """Return the value of a property `header:{name}[:as{Form}][:all]` as JSON; the form is Raw unless named.

    Without `:all` it is the last field of that name, or None without one; with it, a list of all.

    Raises:
        ValueError: `name` is no such property, or names a form that RFC 8621 does not know.
    """
    match = _PROPERTY.fullmatch(name)
    form = _FORMS.get(match[2] or "Raw") if match else None
    if match is None or form is None:
        raise ValueError(f"{name!r} is no header property such as 'header:List-Post:asURLs'")
    field = match[1]
    if match[3]:
        return [form(single, field) for single in headers.singly(field)]
    return form(headers, field) if field in headers else None


def _addresses(addresses: Iterable[Address] | None) -> list[dict[str, str | None]] | None:
    return None if addresses is None else [{"name": name, "email": email} for name, email in addresses]


def _groups(headers: Headers, name: str) -> object:
    groups = headers.grouped_addresses(name)
    return groups and [{"name": group.name, "addresses": _addresses(group.addresses)} for group in groups]


def _date(headers: Headers, name: str) -> str | None:
    moment: datetime | None = headers.date(name)
    return None if moment is None else to_json(moment)


def _list(values: Iterable[str] | None) -> list[str] | None:
    return None if values is None else list(values)


_FORMS: dict[str, Callable[[Headers, str], object]] = {
    "Raw": lambda headers, name: headers.raw(name),
    "Text": lambda headers, name: headers.text(name),
    "Addresses": lambda headers, name: _addresses(headers.addresses(name)),
    "GroupedAddresses": _groups,
    "MessageIds": lambda headers, name: _list(headers.message_ids(name)),
    "Date": _date,
    "URLs": lambda headers, name: _list(headers.urls(name)),
}
