"""The expiry of the server's certificate chain."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

EXPIRES_SOON = timedelta(days=14)


def read_chain(path: Path) -> Sequence[x509.Certificate]:
    """Return the certificates of a file in PEM, the server's first; raises `OSError` and `ValueError`."""
    return x509.load_pem_x509_certificates(path.read_bytes())


def expiry_of(chain: Sequence[x509.Certificate]) -> datetime:
    """Return the time at which the first certificate of a chain expires."""
    return min(certificate.not_valid_after_utc for certificate in chain)


class ServedCertificate:
    """The certificate chain that this process serves, which is that of the file at the time of the last loading."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.chain: Sequence[x509.Certificate] = ()
        self.expires_at: datetime | None = None
        self.trouble = ""
        self.load()

    def load(self) -> None:
        """Note that the server has loaded the file. OpenSSL accepts some certificates that cannot be read here."""
        try:
            self.chain = read_chain(self._path)
            self.expires_at, self.trouble = expiry_of(self.chain), ""
        except (OSError, ValueError) as error:
            self.chain = ()
            self.expires_at, self.trouble = None, f"the expiry of {self._path} cannot be read: {error}"
