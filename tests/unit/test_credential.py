"""What a confidential client proves itself with: the files that operators have, and those that they have got wrong."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

from worker.errors import Misconfigured
from worker.tokens import Certificate, Credential, Federated, Secret
from worker.tokens.credential import ends_at, for_msal

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

ENDS = datetime(2031, 5, 4, 3, 2, 1, tzinfo=UTC)
AUTHORITY_ENDS = ENDS + timedelta(days=1000)


class Held:
    """A key and its certificate, as an operator holds them, and a password of his. `secrets` is where files go."""

    def __init__(self, folder: Path, *, key: Key, other: Key, authority: Key) -> None:
        self.folder = folder / "secrets"
        self.folder.mkdir()
        self.key, self.other = key, other
        self.password = secrets.token_urlsafe(24)
        self.sealed = BestAvailableEncryption(self.password.encode())
        self.certificate = signed(key.public_key(), "robot", by=authority, ends=ENDS)
        self.chain = signed(authority.public_key(), "authority", by=authority, ends=AUTHORITY_ENDS)

    def file(self, name: str, *content: bytes) -> str:
        """Write a file; its parts follow each other."""
        path = self.folder / name
        path.write_bytes(b"".join(content))
        return str(path)

    def pfx(self, encryption: KeySerializationEncryption) -> bytes:
        """All in one PKCS #12 file, as Windows and key vaults give it out."""
        return pkcs12.serialize_key_and_certificates(
            b"robot", self.key, self.certificate, [self.chain], encryption
        )


def signed(
    public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, name: str, *, by: Key, ends: datetime
) -> x509.Certificate:
    called = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(called)
        .issuer_name(called)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(ENDS - timedelta(days=730))
        .not_valid_after(ends)
        .sign(by, SHA256())
    )


def private(key: Key, encryption: KeySerializationEncryption | None = None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def public(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


@pytest.fixture(scope="module")
def keys() -> list[Key]:
    """Three, because making one takes its time."""
    return [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(3)]


@pytest.fixture
def held(tmp_path: Path, keys: list[Key]) -> Held:
    key, other, authority = keys
    return Held(tmp_path, key=key, other=other, authority=authority)


# -- files that are right ------------------------------------------------------------------------------------------------

Making = Callable[[Held], Certificate]


def a_pem_file(held: Held) -> Certificate:
    return Certificate(held.file("robot.pem", private(held.key), public(held.certificate)))


def a_pem_file_the_other_way_round(held: Held) -> Certificate:
    return Certificate(held.file("robot.pem", public(held.certificate), private(held.key)))


def a_pem_file_with_a_chain(held: Held) -> Certificate:
    parts = private(held.key), public(held.certificate), public(held.chain)
    return Certificate(held.file("robot.pem", *parts))


def a_pem_file_with_a_password(held: Held) -> Certificate:
    parts = private(held.key, held.sealed), public(held.certificate)
    return Certificate(held.file("robot.pem", *parts), held.password)


def a_pem_file_of_old_openssl(held: Held) -> Certificate:
    key = held.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, held.sealed)
    return Certificate(held.file("robot.pem", key, public(held.certificate)), held.password)


def a_pem_file_with_windows_line_ends(held: Held) -> Certificate:
    content = (private(held.key) + public(held.certificate)).replace(b"\n", b"\r\n")
    return Certificate(held.file("robot.pem", content))


def a_pem_file_with_names_in_latin_1(held: Held) -> Certificate:
    head = "Bag Attributes\n    friendlyName: Schlüssel\n".encode("latin-1")
    return Certificate(held.file("robot.pem", head, private(held.key), head, public(held.certificate)))


def a_pfx_file(held: Held) -> Certificate:
    return Certificate(held.file("robot.pfx", held.pfx(held.sealed)), held.password)


def a_p12_file_without_a_password(held: Held) -> Certificate:
    return Certificate(held.file("ROBOT.P12", held.pfx(NoEncryption())))


RIGHT: list[Making] = [
    a_pem_file,
    a_pem_file_the_other_way_round,
    a_pem_file_with_a_chain,
    a_pem_file_with_a_password,
    a_pem_file_of_old_openssl,
    a_pem_file_with_windows_line_ends,
    a_pem_file_with_names_in_latin_1,
    a_pfx_file,
    a_p12_file_without_a_password,
]


@pytest.mark.parametrize("making", RIGHT, ids=lambda making: making.__name__)
def test_a_certificate_and_its_key_are_taken_from(held: Held, making: Making) -> None:
    """In MSAL's own form, with the end of the certificate itself and not that of the authority behind it."""
    credential = making(held)
    found = for_msal(credential)

    assert ends_at(credential) == ENDS.timestamp()
    assert found["passphrase"] == credential.password
    if credential.file.lower().endswith(".pem"):
        text = Path(credential.file).read_bytes().decode("latin-1")
        assert found["private_key"] == found["public_certificate"] == text
    else:
        assert found["private_key_pfx_path"] == credential.file
        assert found["public_certificate"] is True
    assert held.password not in repr(credential)


def test_a_certificate_that_was_replaced_counts_at_once(held: Held) -> None:
    """Renewed under the same name while workers run, as every two years."""
    credential = a_pem_file(held)
    before = for_msal(credential)
    later = signed(held.other.public_key(), "robot", by=held.other, ends=AUTHORITY_ENDS)
    held.file("robot.pem", private(held.other), public(later))

    assert for_msal(credential) != before
    assert ends_at(credential) == AUTHORITY_ENDS.timestamp()


def test_a_secret_goes_to_msal_as_it_is() -> None:
    """And nowhere else."""
    secret = Secret(secrets.token_urlsafe(24))

    assert for_msal(secret) == secret.text
    assert secret.text not in repr(secret)


# -- files that are wrong ------------------------------------------------------------------------------------------------


def nothing_but_a_key(held: Held) -> Certificate:
    return Certificate(held.file("robot.pem", private(held.key)))


def nothing_but_a_certificate(held: Held) -> Certificate:
    return Certificate(held.file("robot.pem", public(held.certificate)))


def nothing_but_a_key_in_pfx(held: Held) -> Certificate:
    content = pkcs12.serialize_key_and_certificates(b"robot", held.key, None, None, held.sealed)
    return Certificate(held.file("robot.pfx", content), held.password)


def nothing_but_a_certificate_in_pfx(held: Held) -> Certificate:
    content = pkcs12.serialize_key_and_certificates(b"robot", None, held.certificate, None, held.sealed)
    return Certificate(held.file("robot.pfx", content), held.password)


def the_key_of_another_certificate(held: Held) -> Certificate:
    return Certificate(held.file("robot.pem", private(held.other), public(held.certificate)))


def a_key_that_msal_cannot_sign_with(held: Held) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = signed(key.public_key(), "robot", by=key, ends=ENDS)
    return Certificate(held.file("robot.pem", private(key), public(certificate)))


def a_key_that_nobody_knows(held: Held) -> Certificate:
    # On a curve whose number was never given out.
    der = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
    )
    known = bytes.fromhex("2a8648ce3d030107")
    assert known in der
    lines = base64.encodebytes(der.replace(known, known[:-1] + b"\x7f"))
    label = b"PRIVATE KEY-----\n"
    pem = b"-----BEGIN " + label + lines + b"-----END " + label
    return Certificate(held.file("robot.pem", pem, public(held.certificate)))


def the_wrong_password(held: Held) -> Certificate:
    return Certificate(a_pem_file_with_a_password(held).file, secrets.token_urlsafe(24))


def the_wrong_password_of_old_openssl(held: Held) -> Certificate:
    return Certificate(a_pem_file_of_old_openssl(held).file, secrets.token_urlsafe(24))


def the_wrong_password_of_a_pfx_file(held: Held) -> Certificate:
    return Certificate(a_pfx_file(held).file, secrets.token_urlsafe(24))


def no_password(held: Held) -> Certificate:
    return Certificate(a_pem_file_with_a_password(held).file)


def no_password_of_a_pfx_file(held: Held) -> Certificate:
    return Certificate(a_pfx_file(held).file)


def a_password_for_nothing(held: Held) -> Certificate:
    return Certificate(a_pem_file(held).file, held.password)


def pfx_by_the_name_of_pem(held: Held) -> Certificate:
    return Certificate(held.file("robot.pem", held.pfx(held.sealed)), held.password)


def pem_by_the_name_of_pfx(held: Held) -> Certificate:
    return Certificate(held.file("robot.pfx", private(held.key), public(held.certificate)))


def an_empty_file(held: Held) -> Certificate:
    return Certificate(held.file("robot.pem"))


def garbage(held: Held) -> Certificate:
    return Certificate(held.file("robot.pem", secrets.token_bytes(3000)))


def garbage_by_the_name_of_pfx(held: Held) -> Certificate:
    return Certificate(held.file("robot.pfx", secrets.token_bytes(3000)), held.password)


def a_file_that_was_cut_short(held: Held) -> Certificate:
    return Certificate(held.file("robot.pem", private(held.key)[:400], public(held.certificate)))


WRONG: list[Making] = [
    nothing_but_a_key,
    nothing_but_a_certificate,
    nothing_but_a_key_in_pfx,
    nothing_but_a_certificate_in_pfx,
    the_key_of_another_certificate,
    a_key_that_msal_cannot_sign_with,
    a_key_that_nobody_knows,
    the_wrong_password,
    the_wrong_password_of_old_openssl,
    the_wrong_password_of_a_pfx_file,
    no_password,
    no_password_of_a_pfx_file,
    a_password_for_nothing,
    pfx_by_the_name_of_pem,
    pem_by_the_name_of_pfx,
    an_empty_file,
    garbage,
    garbage_by_the_name_of_pfx,
    a_file_that_was_cut_short,
]


@pytest.mark.parametrize("making", WRONG, ids=lambda making: making.__name__)
def test_a_file_that_cannot_be_used_is_named_and_nothing_in_it_is_shown(held: Held, making: Making) -> None:
    """Here, where it is known which variable is meant; and before an expiry is announced that nobody needs."""
    credential = making(held)

    for read in (for_msal, ends_at):
        with pytest.raises(
            Misconfigured, match="CERTIFICATE_PASSWORD must open it when it is encrypted"
        ) as caught:
            read(credential)
        assert caught.value.sentence.startswith(f"{credential.file} must be a PEM file")
        for shown in (str(caught.value), repr(caught.value), repr(caught.value.__cause__)):
            assert held.password not in shown
            assert (credential.password or held.password) not in shown
            assert "PRIVATE KEY-----" not in shown


# -- the platform's token ------------------------------------------------------------------------------------------------


def test_the_token_of_a_platform_is_read_whenever_it_is_needed(held: Held) -> None:
    """Kubernetes writes a fresh one every hour, into the same file."""
    first, second = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    file = held.file("workload.jwt", f"  {first}\n".encode())
    assertion = for_msal(Federated(file))["client_assertion"]
    assert assertion() == assertion() == first

    held.file("workload.jwt", second.encode())

    assert assertion() == second


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe\x00", "tökén".encode()], ids=repr)
def test_a_file_that_holds_no_token_is_named(held: Held, content: bytes) -> None:
    """The provider's refusal would not say so, and one of characters that no token has would look like an outage."""
    file = held.file("workload.jwt", content)
    assertion = for_msal(Federated(file))["client_assertion"]

    with pytest.raises(Misconfigured, match="must hold a token and nothing else") as caught:
        assertion()

    assert file in caught.value.sentence


@pytest.mark.parametrize("name", ["missing", "."])
@pytest.mark.parametrize("kind", [Certificate, Federated])
def test_a_file_that_cannot_be_read_is_named(
    held: Held, kind: type[Certificate | Federated], name: str
) -> None:
    """It was there when the settings were read, and a platform's need not be there yet."""
    credential: Credential = kind(str(held.folder / name))

    with pytest.raises(Misconfigured, match="cannot be read") as caught:
        for_msal(credential)["client_assertion"]()

    assert str(held.folder / name) in caught.value.sentence
