"""The commands that a new agent's host runs, with the certificate that it must trust."""

import shlex
from collections.abc import Sequence

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding


class Authority(msgspec.Struct, frozen=True):
    """The last certificate that the server sends: its subject, its SHA-256 fingerprint, and its PEM."""

    subject: str
    fingerprint: str
    pem: str
    is_private: bool
    """Whether it signed itself, so that hosts do not trust it unless they have the file."""


def authority_of(chain: Sequence[x509.Certificate]) -> Authority | None:
    """Return the last certificate of a chain; None if the chain is empty."""
    if not chain:
        return None
    last = chain[-1]
    return Authority(
        last.subject.rfc4514_string(),
        last.fingerprint(SHA256()).hex(":").upper(),
        last.public_bytes(Encoding.PEM).decode(),
        last.subject == last.issuer,
    )


def enrollment_commands(agent_url: str, token: str, authority: Authority | None) -> str:
    """Return the shell commands that enroll and run an agent, to be copied and pasted on its host."""
    lines = ["mkdir -p comms-agent && cd comms-agent && umask 077"]
    trusted = ""
    if authority is not None and authority.is_private:
        lines.append(f"cat > ca.pem <<'END'\n{authority.pem}END")
        trusted = " --ca ca.pem"
    lines += [
        f"printf %s {shlex.quote(token)} > token",
        f"comms-api agent --url {shlex.quote(agent_url)}{trusted} --enrollment-token-file token",
    ]
    return "\n".join(lines)
