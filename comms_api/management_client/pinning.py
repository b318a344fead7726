"""Trust a server's certificate on first use, when no known authority has signed it."""

import re
import ssl
from hashlib import sha256
from typing import Any

from comms_api.client.transport.endpoint import Endpoint
from comms_api.errors import CommsError
from comms_api.management_client.client import TIMEOUT_SECONDS, Untrusted, faults_of

PUBLIC_PATH = "/ready"
_PEM = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def is_trusted(endpoint: Endpoint) -> bool:
    """Return whether the endpoint's authorities have signed the server's certificate, for its name."""
    try:
        with faults_of(endpoint.url), endpoint.client(TIMEOUT_SECONDS) as client:
            client.get(PUBLIC_PATH)
    except Untrusted:
        return False
    return True


def fetch_last_certificate(endpoint: Endpoint) -> bytes:
    """Return the last certificate of the server's chain, in PEM: the authority's, if the server sends it.

    Nothing is verified, so only a request for a public path is sent.
    """
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    with (
        faults_of(endpoint.url),
        endpoint.client(TIMEOUT_SECONDS, tls) as client,
        client.stream("GET", PUBLIC_PATH) as answer,
    ):
        return _last_certificate(answer.extensions["network_stream"].get_extra_info("ssl_object"))


def _last_certificate(connection: Any) -> bytes:
    # Python 3.13 made the method public; before, only the inner object has it.
    chain = getattr(connection, "get_unverified_chain", None) or connection._sslobj.get_unverified_chain  # noqa: SLF001
    certificates = chain()
    if not certificates:
        raise CommsError("the server sent no certificate")
    last = certificates[-1]
    pem = ssl.DER_cert_to_PEM_cert(last) if isinstance(last, bytes) else last.public_bytes()
    return str(pem).encode()


def fingerprint(certificates: bytes) -> str:
    """Return the SHA-256 fingerprint of each certificate in a PEM file, as OpenSSL writes it."""
    return ", ".join(
        _fingerprint(ssl.PEM_cert_to_DER_cert(found)) for found in _PEM.findall(certificates.decode(errors="replace"))
    )


def _fingerprint(certificate: bytes) -> str:
    digest = sha256(certificate).hexdigest().upper()
    return ":".join(digest[start : start + 2] for start in range(0, len(digest), 2))
