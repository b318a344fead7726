"""Server certificates of an authority of the tests."""

from datetime import datetime
from pathlib import Path
from typing import Any

import trustme


def write_certificate(
    folder: Path, authority: trustme.CA, *names: str, expires_at: datetime | None = None
) -> dict[str, Any]:
    """Write a certificate for these names and its key, and return the settings that name them."""
    issued = authority.issue_cert(*names, not_after=expires_at)
    folder.mkdir(exist_ok=True)
    chain, key = folder / "chain.pem", folder / "chain.key"
    chain.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    key.chmod(0o600)
    return {"tls_certificate": chain, "tls_key": key}
