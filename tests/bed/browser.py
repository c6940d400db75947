"""A person's browser, as far as sign-in pages need one: it keeps cookies, follows redirects and fills in forms.

It runs no script. Where a page's script would submit the form, whoever drives the browser does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, urljoin, urlsplit

import requests


@dataclass
class Page:
    """What a browser shows. `location` is where the site sent it that is not the site itself; it does not go there."""

    address: str
    text: str = ""
    location: str | None = None
    action: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    """What the page's form sends when nothing is filled in."""
    buttons: set[str] = field(default_factory=set)


def answer_in(location: str) -> dict[str, str]:
    """What a provider sent along in the address to which it sent the browser back."""
    return dict(parse_qsl(urlsplit(location).query))


class Browser:
    """One person's window. Use it as a context manager."""

    def __init__(self, ca_file: Path) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = str(ca_file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def open(self, address: str) -> Page:
        """Go to an address.

        Raises:
            requests.HTTPError: The answer is an error.
        """
        return self._arrive(self._session.get(address, allow_redirects=False, timeout=5))

    def submit(self, page: Page, **filled: str) -> Page:
        """Send the page's form, with `filled` typed, chosen or clicked.

        Raises:
            LookupError: The form has no such field or button.
            requests.HTTPError: The answer is an error.
        """
        if unknown := filled.keys() - page.fields.keys() - page.buttons:
            msg = f"no {', '.join(sorted(unknown))} in the form of {urlsplit(page.address).path}"
            raise LookupError(msg)
        form = {**page.fields, **filled}
        return self._arrive(self._session.post(page.action, data=form, allow_redirects=False, timeout=5))

    def _arrive(self, answer: requests.Response) -> Page:
        """Follow redirects for as long as they stay on one site."""
        answer.raise_for_status()
        if not answer.is_redirect:
            return _read(answer)
        target = urljoin(answer.url, answer.headers["location"])
        if urlsplit(target).netloc != urlsplit(answer.url).netloc:
            return Page(answer.url, location=target)
        return self.open(target)


def _read(answer: requests.Response) -> Page:
    reader = _FormReader()
    reader.feed(answer.text)
    return Page(
        answer.url,
        answer.text,
        action=urljoin(answer.url, reader.action),
        fields=reader.fields,
        buttons=reader.buttons,
    )


class _FormReader(HTMLParser):
    """Reads the fields of a page's one form; buttons may stand outside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self.buttons: set[str] = set()
        self._select = ""
        self._option: bool | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {key: value or "" for key, value in attrs}
        name = said.get("name", "")
        if tag == "form":
            self.action = said.get("action", "")
        elif tag == "input" and name:
            self.fields[name] = said.get("value", "")
        elif tag == "button" and name:
            self.buttons.add(name)
        elif tag == "select":
            self._select = name
        elif tag == "option":
            # The first one counts until another one is the selected one.
            self._option = "selected" in said or self._select not in self.fields

    def handle_data(self, data: str) -> None:
        if self._option:
            self.fields[self._select] = data
        self._option = None
