"""A certificate authority and a server certificate for development, created if the settings name no certificate.

They use P-256: a signature costs a tenth of RSA-2048's, and the handshake is the most expensive part of a reconnection.
"""

import ipaddress
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from comms_api.errors import ConfigurationError
from comms_api.private_files import PUBLIC, write_new
from comms_api.settings import Settings

LIFETIME = timedelta(days=825)
BOTH, KEY, AUTHORITY = "development.pem", "server.key", "ca.pem"
DEVELOPMENT_FILES = (BOTH, "server.pem", KEY, AUTHORITY)
"""The files of the development certificate in `certs_dir`; the first has all parts of the others."""


class Certificate(msgspec.Struct, frozen=True):
    """The files of the server's certificate chain and its key, in PEM."""

    chain: Path
    key: Path


def find_certificate(settings: Settings) -> Certificate:
    """Return the configured certificate, or one for development, which the first start creates."""
    if settings.tls_certificate is not None and settings.tls_key is not None:
        return _configured(settings.tls_certificate, settings.tls_key)
    made = Certificate(settings.certificate_path, settings.certs_dir / KEY)
    try:
        if not (made.chain.exists() and made.key.exists()):
            _make(settings.certs_dir, made)
        check_pair(made)
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"certs_dir: cannot serve with {made.chain} and {made.key}: {error}; move the files of {settings.certs_dir}"
            " away, and the next start makes new ones"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"certs_dir: {error}") from None
    return made


def check_pair(certificate: Certificate) -> None:
    """Raise `OSError` unless the files contain a chain and its key, without a password."""
    # Without this password, OpenSSL would ask for one at the terminal.
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate.chain, certificate.key, password="")


def _configured(chain: Path, key: Path) -> Certificate:
    for name, path in (("tls_certificate", chain), ("tls_key", key)):
        if not path.is_file():
            raise ConfigurationError(f"{name}: no such file: {path}")
    certificate = Certificate(chain, key)
    try:
        check_pair(certificate)
    except OSError as error:  # errors of TLS are OSErrors
        raise ConfigurationError(f"tls_certificate, tls_key: cannot serve with them: {error}") from None
    return certificate


def _make(folder: Path, made: Certificate) -> None:
    # One file holds both, so that two nodes that start at once cannot mix one's key with the other's certificate.
    both = folder / BOTH
    if not both.exists():
        write_new(both, _new_authority_and_server())
    server_key, server, authority = both.read_bytes().split(b"\n\n")
    write_new(made.key, server_key + b"\n")
    # The chain includes the authority, so that a client can pin it on first use.
    write_new(made.chain, server + b"\n" + authority + b"\n")
    write_new(folder / AUTHORITY, authority + b"\n", PUBLIC)  # every client needs it


def _new_authority_and_server() -> bytes:
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority_name = _name("comms-api development CA")
    authority = (
        _builder(authority_name, authority_name, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    server = (
        _builder(_name("comms-api"), authority_name, server_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_host_names()), critical=False)
        .add_extension(issuer, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    key = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return b"\n".join((key, server.public_bytes(pem), authority.public_bytes(pem).rstrip()))


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host_names() -> list[x509.GeneralName]:
    names = dict.fromkeys(("localhost", socket.gethostname()))
    addresses = (ipaddress.ip_address(address) for address in ("127.0.0.1", "::1"))
    return [*map(x509.DNSName, filter(None, map(_dns_name, names))), *map(x509.IPAddress, addresses)]


def _dns_name(name: str) -> str | None:
    """Return a host name in the form of DNS, with umlauts encoded (RFC 3490), or None if it has no such form."""
    try:
        return name.encode("idna").decode()
    except UnicodeError:
        return None
