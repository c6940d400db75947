"""What a confidential client proves itself with: a secret, a certificate, or a token of its platform.

Reads the files; what comes of them goes to MSAL and nowhere else. It knows when a certificate ends, so that people hear
of it in time; when a secret ends only the operator knows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
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
            return {"client_assertion": lambda: _assertion(token_file)}


def ends_at(credential: Certificate) -> float:
    """When a certificate ends, in Unix seconds.

    Raises:
        Misconfigured: as `for_msal`.
    """
    return _opened(credential).not_valid_after_utc.timestamp()


def _assertion(token_file: str) -> str:
    text = _read(token_file).decode("latin-1").strip()
    if not text or not text.isascii():
        raise Misconfigured(
            f"the file {token_file} of the app registration must hold a token and nothing else"
        )
    return text


def _certificate(credential: Certificate) -> dict[str, Any]:
    # Opened here first, because MSAL's own errors would not say which variable is meant.
    _opened(credential)
    if _is_pfx(credential):
        return {
            "private_key_pfx_path": credential.file,
            "passphrase": credential.password,
            "public_certificate": True,
        }
    # Between its blocks a PEM file may hold names in any charset (RFC 7468 section 2).
    text = _read(credential.file).decode("latin-1")
    return {"private_key": text, "public_certificate": text, "passphrase": credential.password}


def _opened(credential: Certificate) -> x509.Certificate:
    """The certificate, once it is sure that its private key is there and can be used."""
    data, password = _read(credential.file), _octets(credential.password)
    try:
        if _is_pfx(credential):
            key, found, _ = pkcs12.load_key_and_certificates(data, password)
        else:
            key, found = load_pem_private_key(data, password), x509.load_pem_x509_certificate(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(credential) from error
    # MSAL signs with RSA and nothing else.
    if not isinstance(key, RSAPrivateKey) or found is None or key.public_key() != found.public_key():
        raise _unusable(credential)
    return found


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
        f"{credential.file} must be a PEM file with a private RSA key and its certificate, or a PFX file (.pfx, .p12), "
        "and CERTIFICATE_PASSWORD must open it when it is encrypted"
    )
