"""A stream behind TLS and accounts admits only the user of the settings."""

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nkeys
import pytest
import trustme
from support.duties import performing
from support.events import batch_of
from support.nats import NatsServer, nats_servers
from support.server import new_id
from support.waiting import PATIENCE

from comms_api.errors import ConfigurationError, Unavailable
from comms_api.events.jetstream.connection import STREAM, JetStream
from comms_api.events.jetstream.messages import encode_message
from comms_api.settings import Settings

pytestmark = pytest.mark.anyio

OPERATOR, ACCOUNT, USER = nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_USER
UNLIMITED = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1) | {"wildcards": True}
STORAGE = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)


class Key:
    """A key in the format of NATS."""

    def __init__(self, kind: int) -> None:
        self.seed: bytes = nkeys.encode_seed(os.urandom(32), kind)
        self.pair = nkeys.from_seed(bytearray(self.seed))
        self.name: str = self.pair.public_key.decode()

    def say(self, subject: "Key", **claims: Any) -> str:
        """Return a signed statement about another key."""
        claims_set = {"jti": "x", "iat": 1, "iss": self.name, "sub": subject.name, "name": "x"}
        parts = [{"typ": "JWT", "alg": "ed25519-nkey"}, claims_set | {"nats": {"version": 2, **claims}}]
        signed = ".".join(_base64(json.dumps(part).encode()) for part in parts)
        return f"{signed}.{_base64(self.pair.sign(signed.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.fixture(scope="module")
def accounts(scratch: Path) -> Path:
    made = scratch / "nats accounts"
    made.mkdir()
    return made


@pytest.fixture(scope="module")
def server(accounts: Path) -> Iterator[NatsServer]:
    """A server with a certificate from `ca.pem` that admits clients with the file `user.creds`."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(accounts / "ca.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(accounts / "server.pem")
    operator, system, account, user = Key(OPERATOR), Key(ACCOUNT), Key(ACCOUNT), Key(USER)
    token = account.say(user, type="user", subs=-1, data=-1, payload=-1)
    (accounts / "user.creds").write_text(
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    (accounts / "stranger.creds").write_text(
        (accounts / "user.creds").read_text().replace(user.seed.decode(), Key(USER).seed.decode())
    )
    known = {
        system.name: operator.say(system, type="account", limits=UNLIMITED),
        account.name: operator.say(account, type="account", limits=UNLIMITED | STORAGE),
    }
    settings = [
        f'tls {{ cert_file: "{accounts}/server.pem", key_file: "{accounts}/server.pem" }}',
        f"operator: {operator.say(operator, type='operator')}",
        f"system_account: {system.name}",
        "resolver: MEMORY",
        f"resolver_preload: {json.dumps(known)}",
    ]
    with nats_servers(accounts / "server", 1, *settings) as [running]:
        yield running


def _settings(server: NatsServer, accounts: Path, **changes: Any) -> Settings:
    paths = {"nats_ca": accounts / "ca.pem", "nats_credentials": accounts / "user.creds"} | changes
    url = server.url.replace("nats://", "tls://")
    return Settings(events_sink="jetstream", nats_servers=(url,), nats_replicas=1, nats_stream_bytes=2**24, **paths)


async def _publish(settings: Settings, patience_seconds: float = PATIENCE) -> int:
    """Publish a message, and return how many messages the stream has then."""
    stream = JetStream(settings)
    async with performing(stream):
        await stream.wait_until_ready(patience_seconds)
        await stream.publish(encode_message(batch_of(new_id(), new_id(), [b"{}"])))
        return (await stream.context.stream_info(STREAM)).state.messages


async def test_a_client_with_the_credentials_and_the_authority_is_admitted(server: NatsServer, accounts: Path) -> None:
    assert await _publish(_settings(server, accounts)) == 1


@pytest.mark.parametrize(
    "changes", [{"nats_credentials": "stranger.creds"}, {"nats_credentials": None}, {"nats_ca": None}]
)
async def test_other_clients_are_refused(server: NatsServer, accounts: Path, changes: dict[str, str | None]) -> None:
    paths = {name: value and accounts / value for name, value in changes.items()}
    with pytest.raises(Unavailable):
        await _publish(_settings(server, accounts, **paths), patience_seconds=1.5)


async def test_an_authority_that_cannot_be_read_is_named(server: NatsServer, accounts: Path) -> None:
    with pytest.raises(ConfigurationError, match="nats_ca: "):
        JetStream(_settings(server, accounts, nats_ca=accounts / "user.creds"))
