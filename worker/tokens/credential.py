"""What a confidential client proves itself with: a secret, a certificate, or a token of its platform.

Reads the files; what comes of them goes to MSAL and nowhere else. It knows when a certificate ends, so that people hear
of it in time; when a secret ends only the operator knows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs12

from worker.errors import Misconfigured
from worker.tokens import Certificate, Credential, Federated, Secret

_PFX_SUFFIXES = {".pfx", ".p12"}


def for_msal(credential: Credential) -> Any:
    """The credential in MSAL's own form; files are read now, because they are replaced while the process runs.

    Raises:
        Misconfigured: a file cannot be read, or holds something else.
    """
    match credential:
        case Secret(text):
            return text
        case Certificate():
            return _certificate(credential)
        case Federated(token_file):
            # A callable, because the platform writes a fresh token every hour.
            return {"client_assertion": lambda: _read(token_file).decode().strip()}


def ends_at(credential: Certificate) -> float:
    """When a certificate ends, in Unix seconds.

    Raises:
        Misconfigured: as `for_msal`.
    """
    data = _read(credential.file)
    found: x509.Certificate | None
    try:
        if _is_pfx(credential):
            found = pkcs12.load_key_and_certificates(data, _octets(credential.password))[1]
        else:
            found = x509.load_pem_x509_certificate(data)
    except (ValueError, TypeError) as error:
        raise _unusable(credential) from error
    if found is None:
        raise _unusable(credential)
    return found.not_valid_after_utc.timestamp()


def _certificate(credential: Certificate) -> dict[str, Any]:
    # Read here first, because MSAL's own errors would not say which variable is meant.
    ends_at(credential)
    if _is_pfx(credential):
        return {
            "private_key_pfx_path": credential.file,
            "passphrase": credential.password,
            "public_certificate": True,
        }
    text = _read(credential.file)
    try:
        load_pem_private_key(text, _octets(credential.password))
    except (ValueError, TypeError) as error:
        raise _unusable(credential) from error
    return {
        "private_key": text.decode(),
        "public_certificate": text.decode(),
        "passphrase": credential.password,
    }


def _is_pfx(credential: Certificate) -> bool:
    return Path(credential.file).suffix.lower() in _PFX_SUFFIXES


def _octets(password: str | None) -> bytes | None:
    return password.encode() if password else None


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise Misconfigured(
            f"the file {file} of the app registration cannot be read ({error.strerror})"
        ) from error


def _unusable(credential: Certificate) -> Misconfigured:
    return Misconfigured(
        f"{credential.file} must be a PEM file with a private key and its certificate, or a PFX file (.pfx, .p12), and "
        "CERTIFICATE_PASSWORD must open it when it is encrypted"
    )
