"""A certificate authority for one run, and a server certificate signed by it.

Clients trust it by the authority's file alone, so that verification is never switched off, neither in the demo nor in a
test. Keys are readable by their owner only. Nothing is reused: every call makes a new authority.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trustme

from worker.demo.private_file import create_private

LOOPBACK = ("localhost", "127.0.0.1")


@dataclass(frozen=True, slots=True)
class Certificates:
    """Where the PEM files lie: the authority that clients trust, and what servers present."""

    ca_file: Path
    chain_file: Path
    key_file: Path


def write_certificates(folder: Path, *, names: Sequence[str] = LOOPBACK) -> Certificates:
    """Make an authority and a server certificate for `names`, and write them into `folder`.

    Args:
        folder: Made when it does not exist.
        names: DNS names and IP addresses that the certificate is good for.

    Returns:
        The three files; the authority's own key is not written anywhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA(organization_name="Mailquay demo")
    server = authority.issue_cert(*names)
    certificates = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    certificates.ca_file.write_bytes(authority.cert_pem.bytes())
    certificates.chain_file.write_bytes(b"".join(pem.bytes() for pem in server.cert_chain_pems))
    certificates.key_file.unlink(missing_ok=True)
    create_private(certificates.key_file, server.private_key_pem.bytes())
    return certificates
