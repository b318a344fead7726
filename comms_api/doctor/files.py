"""Check the files of a node: its certificate, its secrets, and the disk."""

import shutil
import stat
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from comms_api.app.certificates import BOTH, KEY, Certificate, check_pair
from comms_api.app.secret_files import ADMINISTRATOR_PASSWORD
from comms_api.doctor.model import Finding
from comms_api.health.certificates import EXPIRES_SOON, expiry_of, read_chain
from comms_api.health.checks import find_lack_of_space
from comms_api.settings import Settings

RENEW = "renew the certificate, and send SIGHUP to the node"


def examine_files(settings: Settings, config: Path | None) -> Iterator[Finding]:
    """Check the files that the settings name."""
    yield _examine_certificate(settings)
    yield from _examine_permissions(_secret_files(settings, config))
    yield _examine_disk(settings.data_dir)


def _examine_certificate(settings: Settings) -> Finding:
    path, key = settings.certificate_path, settings.tls_key or settings.certs_dir / KEY
    if settings.tls_certificate is None and not path.exists():
        return Finding(
            "certificate", str(path), "warning", "there is none yet", "start the node, which makes one for development"
        )
    try:
        check_pair(Certificate(path, key))
        chain = read_chain(path)
    except (OSError, ValueError) as error:
        return Finding(
            "certificate",
            str(path),
            "error",
            f"a node cannot serve it with the key {key}: {error}",
            "set tls_certificate to a chain and tls_key to its key, both in PEM and without a password",
        )
    for number, (signed, issuer) in enumerate(pairwise(chain), 2):
        if not _has_signed(issuer, signed):
            return Finding(
                "certificate",
                str(path),
                "error",
                f"certificate {number} of the file has not signed the certificate before it",
                "order the file: the server's certificate, then each intermediate certificate after the one it signed",
            )
    return _examine_validity(path, expiry_of(chain), max(found.not_valid_before_utc for found in chain))


def _has_signed(issuer: x509.Certificate, signed: x509.Certificate) -> bool:
    try:
        signed.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _examine_validity(path: Path, expires_at: datetime, begins_at: datetime) -> Finding:
    now, subject = datetime.now(UTC), f"{path}, valid until {expires_at:%Y-%m-%d}"
    if begins_at > now:
        return Finding("certificate", subject, "error", f"it is not valid before {begins_at:%Y-%m-%dT%H:%M:%SZ}", RENEW)
    if expires_at <= now:
        return Finding("certificate", subject, "error", "it has expired", RENEW)
    if expires_at - now < EXPIRES_SOON:
        return Finding("certificate", subject, "warning", f"it expires in {(expires_at - now).days} days", RENEW)
    return Finding("certificate", subject)


def _secret_files(settings: Settings, config: Path | None) -> Mapping[str, Path]:
    """Return the files with secrets, by the settings that name them; without a setting, the file may be missing."""
    named = {
        "secret_file": settings.secret_file,
        "previous_secret_file": settings.previous_secret_file,
        "admin_password_file": settings.admin_password_file,
        "tls_key": settings.tls_key,
        "nats_credentials": settings.nats_credentials,
        "key_request_header_file": settings.key_request_header_file,
        "--config": config,
    }
    unnamed = {
        "the node secret": settings.data_dir / "secret",
        "the administrator's password": settings.data_dir / ADMINISTRATOR_PASSWORD,
        "the key of the certificate": settings.certs_dir / KEY,
        "the development certificate": settings.certs_dir / BOTH,
    }
    return {name: path for name, path in named.items() if path} | {
        name: path for name, path in unnamed.items() if path.exists()
    }


def _examine_permissions(files: Mapping[str, Path]) -> Iterator[Finding]:
    for name, path in files.items():
        subject = f"{path} ({name})"
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError as error:
            yield Finding("permissions", subject, "error", f"{error.strerror}", f"create the file, or correct {name}")
            continue
        if mode & (stat.S_IRWXO | stat.S_IWGRP):
            problem = f"mode {mode:04o} lets others read or change a secret"
            yield Finding("permissions", subject, "error", problem, f"chmod 600 {path}")
        else:
            yield Finding("permissions", subject)


def _examine_disk(folder: Path) -> Finding:
    try:
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("disk", str(folder), "error", f"{error.strerror}", "start the node once, or correct data_dir")
    subject = f"{folder}, {free_bytes >> 20} MiB left"
    if trouble := find_lack_of_space(folder, free_bytes):
        return Finding("disk", subject, "warning", trouble, "free space, or move data_dir to a larger file system")
    return Finding("disk", subject)
