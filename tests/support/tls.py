"""Certificates for servers that tests run."""

import ssl
from pathlib import Path

import trustme


def server_tls(ca: Path, host: str = "localhost") -> ssl.SSLContext:
    """Return the context of a server with a new certificate for `host`, and write its authority to `ca`."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.cert_pem.write_to_path(ca)
    authority.issue_cert(host).configure_cert(context)
    return context
