"""Finds the link to an online meeting in an event: Teams, Google Meet and Zoom by their hosts, others by their property.

The host of a link is compared as a whole, so a link that only looks like one of them is none. No link is opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

_LINK = re.compile(r"https://[^\s<>\"'\\|^`{}]{1,2000}+")
_LINKS = 200
# By host: the service, and how the path of a meeting begins.
_SERVICES = {
    "teams.microsoft.com": ("teams", ("/l/meetup-join/", "/meet/")),
    "teams.microsoft.us": ("teams", ("/l/meetup-join/", "/meet/")),
    "teams.live.com": ("teams", ("/meet/",)),
    "meet.google.com": ("meet", ("/",)),
}
_ZOOM = ("zoom.us", "zoom.com", "zoomgov.com")
_ZOOM_PATHS = ("/j/", "/my/", "/s/", "/w/")


def find_conference(declared: Iterable[str], texts: Iterable[str]) -> dict[str, str] | None:
    """Return `{"service": "teams", "url": …}` (or meet, zoom, other), or None without a link.

    `declared` are links whose property says that they are a conference's; they count also when their service is
    unknown. `texts` are looked through for the links of services that are known.
    """
    declared = list(declared)
    for text in (*declared, *texts):
        for match, _ in zip(_LINK.finditer(text), range(_LINKS), strict=False):
            url = match[0].rstrip(".,;:!?)]")
            service = _service(url)
            if service is not None:
                return {"service": service, "url": url}
    for text in declared:
        link = _LINK.match(text.strip())
        if link is not None:
            return {"service": "other", "url": link[0]}
    return None


def _service(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
    except ValueError:
        return None
    service, paths = _SERVICES.get(host, ("zoom", _ZOOM_PATHS))
    if host not in _SERVICES and not any(host == name or host.endswith("." + name) for name in _ZOOM):
        return None
    is_meeting = len(parts.path) > 1 and any(parts.path.startswith(path) for path in paths)
    return service if is_meeting else None
