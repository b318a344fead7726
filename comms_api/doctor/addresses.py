"""Connect to both APIs of each node as a client does, by real TLS."""

import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from urllib.parse import urlsplit

import msgspec
from cryptography import x509

from comms_api.doctor.files import RENEW
from comms_api.doctor.model import Finding, Severity
from comms_api.health.certificates import EXPIRES_SOON

CONNECT_SECONDS = 5.0
_EXPIRED, _WRONG_NAME, _WRONG_ADDRESS = 10, 62, 64  # X509_V_ERR_… of OpenSSL
_REQUEST = b"GET /health/ready HTTP/1.1\r\nHost: doctor\r\nConnection: close\r\n\r\n"


class Target(msgspec.Struct, frozen=True):
    """A URL, and a name that agents use for it, which the certificate must contain."""

    url: str
    name: str
    chain: Sequence[bytes] = ()
    """The certificates of this machine's file (DER), if its node should serve them."""

    demands_certificate: bool = False
    """Whether clients without a certificate are refused."""

    @property
    def title(self) -> str:
        """Return the URL, with the name if the URL has another one."""
        return self.url if urlsplit(self.url).hostname == self.name else f"{self.url} as {self.name}"


def examine_target(target: Target, tls: ssl.SSLContext) -> Finding:
    """Connect, verify the certificate, and ask for the health; this blocks for some seconds at most."""
    url = urlsplit(target.url)
    try:
        with (
            socket.create_connection((url.hostname or "", url.port or 443), CONNECT_SECONDS) as plain,
            tls.wrap_socket(plain, server_hostname=target.name) as connection,
        ):
            served = connection.getpeercert(binary_form=True)
            if target.chain and served != target.chain[0]:
                return _finding(target, "warning", "the node serves another certificate than its file has", RENEW)
            left = x509.load_der_x509_certificate(served or b"").not_valid_after_utc - datetime.now(UTC)
            if left < EXPIRES_SOON:
                return _finding(target, "warning", f"its certificate expires in {left.days} days", RENEW)
            return _examine_answer(target, connection)
    except ssl.SSLCertVerificationError as error:
        return _explain(target, error)
    except (OSError, HTTPException, ValueError) as error:
        return _finding(
            target, "error", f"no connection: {error}", "start the node, and open the port in firewalls; check the name"
        )


def _examine_answer(target: Target, connection: ssl.SSLSocket) -> Finding:
    try:
        connection.sendall(_REQUEST)
        answer = HTTPResponse(connection)
        answer.begin()
    except (ssl.SSLError, ConnectionError):
        if target.demands_certificate:
            return _finding(target)  # it has shown its certificate, and refuses clients without one
        raise
    if answer.status == HTTPStatus.OK:
        return _finding(target)
    if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
        remedy = "see the reason: GET /health/ready at the management API, with a token"
        return _finding(target, "warning", "it is not ready for agents", remedy)
    problem = f"it answers {answer.status} to GET /health/ready"
    return _finding(target, "error", problem, "upgrade the node, or see whether another program uses the port")


def _explain(target: Target, error: ssl.SSLCertVerificationError) -> Finding:
    if error.verify_code == _EXPIRED:
        return _finding(target, "error", "the certificate that it serves has expired", RENEW)
    if error.verify_code in {_WRONG_NAME, _WRONG_ADDRESS}:
        remedy = f"get a certificate with the name {target.name}; if agents use another name, pass it: --url"
        return _finding(target, "error", f"its certificate is not valid for {target.name}", remedy)
    remedy = "pass the CA that agents trust (--ca); serve the intermediate certificates in tls_certificate"
    return _finding(target, "error", f"its certificate is not trusted: {error.verify_message}", remedy)


def _finding(target: Target, status: Severity = "ok", problem: str = "", remedy: str = "") -> Finding:
    return Finding("addresses", target.title, status, problem, remedy)
