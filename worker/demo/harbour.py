"""Who exists in the demo: the tenant harbour.example, its people, shared mailboxes and applications.

Only names; no secret is written here. Tests use the same cast.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.x509 import Certificate

from worker.demo.identity import Application, FederatedCredential, IdentityProvider

TENANT = "harbour.example"
ALICE = "alice@harbour.example"
BOB = "bob@harbour.example"
SUPPORT = "support@harbour.example"
ORDERS = "orders@harbour.example"
MAILBOXES = (ALICE, BOB, SUPPORT, ORDERS)
FULL_ACCESS = {SUPPORT: (ALICE,), ORDERS: (BOB,)}

# The public application that people sign in to, and the confidential one that signs in on its own.
CLIENT_ID = "3f0c9a52-5a0e-4d0b-9a6e-3d1f1c7f2b10"
ROBOT_ID = "7b1d6c1e-2f4a-4c8e-8f55-0a9c1e6d4e21"
ROBOT_ROLES = ("IMAP.AccessAsApp", "POP.AccessAsApp", "SMTP.SendAsApp")
ROBOT_MAILBOXES = frozenset({SUPPORT, ORDERS})


def harbour(
    *,
    clock: Callable[[], float],
    robot_secret: str,
    robot_certificates: tuple[Certificate, ...] = (),
    robot_federated: tuple[FederatedCredential, ...] = (),
) -> IdentityProvider:
    """The demo's identity provider.

    Alice has Full Access to support@, Bob to orders@. The confidential application, which proves itself by `robot_secret`,
    by one of `robot_certificates` or by the token of a federated issuer, may open both shared mailboxes over IMAP and
    POP3, and send from them.
    """
    robot = Application(
        ROBOT_ID,
        secret=robot_secret,
        certificates=robot_certificates,
        federated=robot_federated,
        roles=ROBOT_ROLES,
        mailboxes=ROBOT_MAILBOXES,
    )
    return IdentityProvider(
        tenant=TENANT,
        accounts=(ALICE, BOB),
        full_access=FULL_ACCESS,
        applications=(Application(CLIENT_ID), robot),
        clock=clock,
    )
