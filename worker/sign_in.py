"""Signing an account in, so that any program can do it too: begin, show the person an address, finish, store what came.

By device code, or by authorization code with PKCE. What is begun in one process may be finished in another: `Begun` is
plain data, and it is a secret. Tokens are kept per account: one sign-in serves every mailbox that names it. Mailboxes that
waited for it are due again at once. It speaks to a person through its caller only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from worker.errors import Misconfigured
from worker.mailbox import Mailbox
from worker.quay import Quay
from worker.signer import Signer
from worker.timetable import pull_entry
from worker.tokens import Granted

PASTE_REDIRECT = "http://localhost"
"""Where the browser is sent when nobody listens: the person copies the address out of it."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A sign-in that waits for a person. `address` is where he has to go; a device code wants `user_code` there.

    `flow` holds what the answer is checked with (the PKCE verifier, or the device code). It can be stored as JSON.
    """

    account: str
    address: str
    flow: dict[str, Any] = field(repr=False)
    user_code: str = ""


def signers_of(quay: Quay, account: str) -> list[Signer]:
    """The mailboxes and outputs that sign in as this person, without regard to case."""
    return [
        signer
        for signer in quay.settings.signers
        if signer.auth == "delegated" and signer.account.casefold() == account.casefold()
    ]


def usual_way(quay: Quay, account: str) -> Literal["device", "code"]:
    """How an account is best signed in: by device code where the provider and the app registration have it.

    Raises:
        Misconfigured: no mailbox signs in as this account.
    """
    registration = quay.settings.registration(_signers(quay, account)[0])
    # Google has no device code flow for mail, and MSAL none for confidential clients.
    return "device" if registration.credential is None and registration.name != "google" else "code"


def begin_device_code(quay: Quay, account: str) -> Begun:
    """Ask the provider for a code that the person types in at `address` (RFC 8628).

    Raises:
        Misconfigured: no mailbox signs in as this account, or this registration has no such flow.
        MailquayError: the provider refuses, or does not answer.
    """
    flow = quay.entra(_signers(quay, account)[0]).begin_device_flow(account, _scopes(quay, account))
    return Begun(account, str(flow["verification_uri"]), flow, str(flow["user_code"]))


def finish_device_code(quay: Quay, begun: Begun, *, give_up: Callable[[], bool] = lambda: False) -> None:
    """Wait until the person has approved, and store what came.

    Raises:
        NeedsSignIn: declined, too late, given up, or somebody else signed in; nothing was stored.
        MailquayError: the provider refuses, or does not answer.
    """
    entra = quay.entra(_signers(quay, begun.account)[0])
    scopes = _scopes(quay, begun.account)
    _keep(quay, begun, entra.finish_device_flow(begun.flow, begun.account, scopes, give_up=give_up))


def begin_code(
    quay: Quay, account: str, *, redirect_uri: str = PASTE_REDIRECT, form_post: bool = False
) -> Begun:
    """Make the address at which the person signs in (RFC 6749 section 4.1 with PKCE, RFC 7636).

    The provider sends the browser to `redirect_uri` afterwards, which has to be registered with it; with `form_post` as a
    form instead of in the address. Raises as `begin_device_code`.
    """
    entra = quay.entra(_signers(quay, account)[0])
    flow = entra.begin_code_flow(
        account, _scopes(quay, account), redirect_uri=redirect_uri, form_post=form_post
    )
    return Begun(account, str(flow["auth_uri"]), flow)


def finish_code(quay: Quay, begun: Begun, answer: Mapping[str, str]) -> None:
    """Redeem what the provider sent to the redirect URI, and store what came. Raises as `finish_device_code`."""
    entra = quay.entra(_signers(quay, begun.account)[0])
    _keep(
        quay, begun, entra.finish_code_flow(begun.flow, answer, begun.account, _scopes(quay, begun.account))
    )


def by_device_code(quay: Quay, account: str, *, show: Callable[[str, str], None]) -> None:
    """Begin and finish by device code; `show` gets the address and the code that the person needs. Raises as both."""
    begun = begin_device_code(quay, account)
    show(begun.address, begun.user_code)
    finish_device_code(quay, begun)


def _signers(quay: Quay, account: str) -> list[Signer]:
    signers = signers_of(quay, account)
    if not signers:
        raise Misconfigured(
            f"no configured mailbox signs in as {account}, nor an output; check ACCOUNT and ADDRESS"
        )
    return signers


def _scopes(quay: Quay, account: str) -> list[str]:
    """What all its mailboxes and outputs need together: consent is given once."""
    return sorted({scope for signer in _signers(quay, account) for scope in signer.scopes})


def _keep(quay: Quay, begun: Begun, granted: Granted) -> None:
    """Store a sign-in, also when a worker has just refreshed the one before: this one is newer."""
    signers = _signers(quay, begun.account)
    client_id = quay.settings.registration(signers[0]).client_id
    store = quay.token_store

    def swap() -> bool:
        return store.swap(
            begun.account,
            granted.grant,
            read=store.glance(begun.account).version,
            now=quay.clock(),
            ends_at=granted.ends_at,
            client_id=client_id,
            signed_in=True,
        )

    while not store.outlasting(swap, clock=quay.clock, sleep=time.sleep):
        continue
    for signer in signers:
        if isinstance(signer, Mailbox):
            quay.timetable.park(pull_entry(signer.name), quay.clock())
