"""Reads an OAuth scope the way Entra does: permissions of one resource, and the OpenID words beside them.

`https://outlook.office.com/IMAP.AccessAsUser.All offline_access` means one permission of the resource
`https://outlook.office.com`, and a wish for a refresh token. The module knows the permissions that mail needs, no others.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.demo.identity.refusals import UNKNOWN_RESOURCE, WRONG_SCOPE, EntraRefusal

OPENID = frozenset({"openid", "profile", "email", "offline_access"})
_MAIL = ("IMAP.AccessAsUser.All", "POP.AccessAsUser.All", "SMTP.Send")
_GRAPH = ("User.Read", "Mail.Read", "Mail.ReadWrite", "Mail.Send")
PERMISSIONS = {
    "https://outlook.office.com": _MAIL,
    "https://outlook.office365.com": _MAIL,
    "https://graph.microsoft.com": _GRAPH,
}


@dataclass(frozen=True, slots=True)
class Scopes:
    """What a client asked for: permissions of one resource, and the OpenID words."""

    resource: str
    permissions: tuple[str, ...]
    openid: frozenset[str]

    @property
    def text(self) -> str:
        """The scope as a token response names it: full permission names, without the OpenID words."""
        return " ".join(f"{self.resource}/{permission}" for permission in self.permissions)


def read_scopes(text: str) -> Scopes:
    """Read a scope parameter (RFC 6749 section 3.3); `/.default` stands for every permission of its resource.

    Raises:
        EntraRefusal: An unknown resource or permission, two resources at once, or none.
    """
    words = text.split()
    openid = frozenset(words) & OPENID
    pairs = [word.rpartition("/")[::2] for word in words if word not in OPENID]
    resources = {resource for resource, _ in pairs}
    if len(resources) != 1:
        raise EntraRefusal(WRONG_SCOPE)
    (resource,) = resources
    known = PERMISSIONS.get(resource)
    if known is None:
        raise EntraRefusal(UNKNOWN_RESOURCE)
    asked = [permission for _, permission in pairs]
    if ".default" in asked:
        return Scopes(resource, known, openid)
    if not set(asked) <= set(known):
        raise EntraRefusal(WRONG_SCOPE)
    return Scopes(resource, tuple(asked), openid)
