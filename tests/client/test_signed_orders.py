"""An agent that trusts a key executes only what the key has signed, whoever controls the database and the node."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from support.batches import command
from support.server import Server, running_server
from support.waiting import PATIENCE, wait_until

from comms_api.protocol import Action, Signed
from comms_api.signatures import Payload, public_text, sign

Query = Callable[..., list[Any]]
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str) -> Iterator[Server]:
    with running_server(folder, database_url, lease_seconds=3600, sweep_seconds=0.2) as running:
        yield running


@pytest.fixture(scope="module")
def key(folder: Path) -> Ed25519PrivateKey:
    """The operator's key; its files are key.pem and key.pub."""
    made = Ed25519PrivateKey.generate()
    (folder / "key.pem").write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "key.pub").write_bytes(public)
    return made


class TrustingAgent:
    """A `comms-api agent` process that trusts the operator's key."""

    def __init__(self, server: Server, management: httpx.Client, folder: Path) -> None:
        self.folder = folder / f"agent-{uuid4()}"
        self.folder.mkdir()
        self.command = [
            sys.executable, "-m", "comms_api", "agent",
            "--url", server.agent_url, "--management-url", server.management_url, "--no-inventory",
            "--ca", str(server.folder / "certs" / "ca.pem"), "--data-dir", str(self.folder / "data"),
            "--name", self.folder.name, "--password-file", str(server.folder / "password"), "--wait-seconds", "5",
            "--trust-key", str(folder / "key.pub"),
        ]  # fmt: skip
        self.management = management
        self.start()
        wait_until(self._found)
        self.id = UUID(self._found()[0]["id"])

    def _found(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.management.get("/agents", params={"name": self.folder.name}).json()["items"]
        return items

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stderr=log)

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        self.process.wait(timeout=PATIENCE)

    def result(self, order_id: str) -> dict[str, Any]:
        """Wait until an order has ended, and return it."""

        def order() -> dict[str, Any]:
            found: dict[str, Any] = self.management.get(f"/orders/{order_id}").json()
            return found

        wait_until(lambda: order()["outcome"] is not None, says=order)
        return order()


@pytest.fixture(scope="module")
def agent(server: Server, management: httpx.Client, folder: Path, key: Ed25519PrivateKey) -> Iterator[TrustingAgent]:
    assert key
    started = TrustingAgent(server, management, folder)
    yield started
    started.stop()


def payload(agent_id: UUID, args: bytes = b'{"n":1}', **changes: Any) -> Payload:
    now = datetime.now(UTC)
    allowed = Payload(
        agents=[agent_id],
        action=Action("ping", msgspec.Raw(args)),
        nonce=uuid4().hex,
        not_before=now - timedelta(minutes=1),
        not_after=now + HOUR,
    )
    return msgspec.structs.replace(allowed, **changes)


def submit(management: httpx.Client, signed: Signed) -> httpx.Response:
    body = {"source": "Users/Services", "timeout": 600, "signed": msgspec.to_builtins(signed)}
    return management.post("/commands", json=body)


def forge(query: Query, agent_id: UUID, signed: Signed | None, action: str = "ping", args: str = "{}") -> str:
    """Write an order into the database, as somebody with full control of it can."""
    request_id, order_id = uuid4(), query("SELECT uuid7()")[0][0]
    query(
        "INSERT INTO commands (request_id, source, user_name, target_type, target_ids, action_name, action_version,"
        " action_args, signed, timeout_seconds, expires_at)"
        " VALUES ($1, 'Engine', 'eve', 'agent', ARRAY[$2], $3, '', $4, $5, 600, now() + interval '1 h')",
        request_id,
        str(agent_id),
        action,
        args,
        None if signed is None else msgspec.json.encode(signed).decode(),
    )
    query(
        "INSERT INTO orders (order_id, request_id, agent_id, agent_groups, expires_at, offer_at)"
        " VALUES ($1, $2, $3, '{}', now() + interval '1 h', now())",
        order_id,
        request_id,
        agent_id,
    )
    return str(order_id)


def test_a_signed_order_is_executed(management: httpx.Client, agent: TrustingAgent, key: Ed25519PrivateKey) -> None:
    answer = submit(management, sign(payload(agent.id), key))
    assert answer.status_code == 201, answer.text
    [submitted] = answer.json()["commands"]
    order = agent.result(submitted["order_ids"][0])
    assert (order["outcome"], order["result"]["data"]["args"]) == ("success", {"n": 1})
    shown = management.get(f"/commands/{submitted['request_id']}").json()["command"]
    assert shown["signed"]["key"] == public_text(key.public_key())


@pytest.mark.parametrize("action", ["ping", "restart", "fetch-config", "set-group", "rotate-key", "cancel", "other"])
def test_nothing_unsigned_is_executed(agent: TrustingAgent, query: Query, action: str) -> None:
    order = agent.result(forge(query, agent.id, None, action, '{"groups":[]}'))
    assert (order["outcome"], order["result"]["message"]) == ("rejected", "this agent executes only signed orders")


def test_only_the_payload_counts_whatever_the_order_says(
    agent: TrustingAgent, query: Query, key: Ed25519PrivateKey
) -> None:
    order = agent.result(forge(query, agent.id, sign(payload(agent.id), key), "set-group", '{"groups":["evil"]}'))
    assert (order["outcome"], order["result"]["message"]) == ("success", "pong")
    assert order["result"]["data"]["args"] == {"n": 1}


def test_a_changed_payload_is_rejected(agent: TrustingAgent, query: Query, key: Ed25519PrivateKey) -> None:
    first, second = sign(payload(agent.id), key), sign(payload(agent.id, b'{"n":2}'), key)
    mixed = msgspec.structs.replace(first, payload=second.payload)
    order = agent.result(forge(query, agent.id, mixed))
    assert (order["outcome"], order["result"]["message"]) == ("rejected", "the signature does not match the payload")


def test_a_signature_of_another_key_is_rejected_even_under_the_trusted_name(
    agent: TrustingAgent, query: Query, key: Ed25519PrivateKey
) -> None:
    stranger = sign(payload(agent.id), Ed25519PrivateKey.generate())
    assert agent.result(forge(query, agent.id, stranger))["outcome"] == "rejected"
    renamed = msgspec.structs.replace(stranger, key=public_text(key.public_key()))
    assert agent.result(forge(query, agent.id, renamed))["outcome"] == "rejected"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"agents": [uuid4()]}, "for other agents"),
        ({"not_before": datetime.now(UTC) - 2 * HOUR, "not_after": datetime.now(UTC) - HOUR}, "expired"),
        ({"not_before": datetime.now(UTC) + DAY, "not_after": datetime.now(UTC) + 2 * DAY}, "not valid before"),
        ({"not_after": datetime.now(UTC) + timedelta(days=99)}, "at most 31 days"),
    ],
)
def test_an_order_for_others_or_for_another_time_is_rejected(
    agent: TrustingAgent, query: Query, key: Ed25519PrivateKey, changes: dict[str, Any], reason: str
) -> None:
    order = agent.result(forge(query, agent.id, sign(payload(agent.id, **changes), key)))
    assert (order["outcome"], reason in order["result"]["message"]) == ("rejected", True), order


def test_a_repeated_payload_is_answered_by_the_first_result_also_after_a_restart(
    agent: TrustingAgent, query: Query, key: Ed25519PrivateKey
) -> None:
    def executed() -> int:
        """Stop the agent, which then writes its last statistics, and start it again."""
        agent.stop()
        statistics = json.loads((agent.folder / "data" / "statistics.json").read_text())
        agent.start()
        return int(statistics["orders_executed"])

    signed = sign(payload(agent.id, b'{"n":7}'), key)
    first = agent.result(forge(query, agent.id, signed))
    before = executed()
    assert agent.result(forge(query, agent.id, signed))["result"] == first["result"]
    agent.stop(signal.SIGKILL)
    agent.start()
    assert agent.result(forge(query, agent.id, signed))["result"] == first["result"]
    assert executed() == before


def test_a_signed_cancellation_names_a_nonce_and_an_unsigned_one_ends_nothing(
    management: httpx.Client, agent: TrustingAgent, key: Ed25519PrivateKey
) -> None:
    named = payload(agent.id, action=Action("cancel", msgspec.Raw(b'{"nonce":"0123456789abcdef"}')))
    [submitted] = submit(management, sign(named, key)).json()["commands"]
    assert agent.result(submitted["order_ids"][0])["result"]["message"] == "no such order is running"
    by_id = payload(agent.id, action=Action("cancel", msgspec.Raw(b'{"order_id":"%s"}' % str(uuid4()).encode())))
    assert "nonce" in submit(management, sign(by_id, key)).json()["detail"]


def test_the_server_refuses_what_no_agent_would_execute(
    management: httpx.Client, agent: TrustingAgent, key: Ed25519PrivateKey
) -> None:
    def fault(signed: Signed, **changes: Any) -> str:
        body = {"source": "Engine", "timeout": 60, "signed": msgspec.to_builtins(signed)} | changes
        answer = management.post("/commands", json=body)
        assert answer.status_code == 422, answer.text
        return str(answer.json()["detail"])

    good = sign(payload(agent.id), key)
    past = {"not_before": datetime.now(UTC) - 2 * HOUR, "not_after": datetime.now(UTC) - HOUR}
    assert "commands[0].signed: expired" in fault(sign(payload(agent.id, **past), key))
    assert "does not match" in fault(msgspec.structs.replace(good, signature=sign(payload(agent.id), key).signature))
    assert "not base64" in fault(msgspec.structs.replace(good, payload="?"))
    assert "there is no agent" in fault(sign(payload(uuid4()), key))
    assert "takes its target and action" in fault(good, target={"type": "all"})


def test_an_order_starts_when_its_payload_becomes_valid(
    management: httpx.Client, agent: TrustingAgent, key: Ed25519PrivateKey
) -> None:
    later = datetime.now(UTC) + HOUR / 2
    [submitted] = submit(management, sign(payload(agent.id, not_before=later), key)).json()["commands"]
    shown = management.get(f"/commands/{submitted['request_id']}").json()["command"]
    assert datetime.fromisoformat(shown["starts_at"]) == later


def test_an_unsigned_command_is_not_repeated_once_its_action_demands_a_signature(
    management: httpx.Client, agent: TrustingAgent, key: Ed25519PrivateKey
) -> None:
    [submitted] = management.post("/commands", json=command(agent.id, action="erase")).json()["commands"]
    assert agent.result(submitted["order_ids"][0])["outcome"] == "rejected"
    registration = {"schema": {"type": "object"}, "signers": [public_text(key.public_key())]}
    assert management.put("/actions/erase", json=registration).status_code == 200
    answer = management.post(f"/commands/{submitted['request_id']}/retry")
    assert (answer.status_code, "must be signed" in answer.json()["detail"]) == (409, True)


def test_a_registered_action_can_demand_a_signature(
    management: httpx.Client, agent: TrustingAgent, key: Ed25519PrivateKey
) -> None:
    registration = {"schema": {"type": "object"}, "signers": [public_text(key.public_key())]}
    assert management.put("/actions/purge", json=registration).status_code == 200
    try:
        unsigned = management.post("/commands", json=command(agent.id, action="purge"))
        assert (unsigned.status_code, "commands[0].signed" in unsigned.json()["detail"]) == (422, True)
        purge = payload(agent.id, action=Action("purge"))
        assert submit(management, sign(purge, Ed25519PrivateKey.generate())).status_code == 422
        assert submit(management, sign(purge, key)).status_code == 201
        listed = {action["name"]: action["signers"] for action in management.get("/actions").json()}
        assert listed["purge"] == registration["signers"]
    finally:
        management.delete("/actions/purge")


def test_a_signed_command_is_not_repeated_by_the_server(
    management: httpx.Client, agent: TrustingAgent, key: Ed25519PrivateKey
) -> None:
    [submitted] = submit(management, sign(payload(agent.id, action=Action("unknown")), key)).json()["commands"]
    assert agent.result(submitted["order_ids"][0])["outcome"] == "rejected"
    answer = management.post(f"/commands/{submitted['request_id']}/retry")
    assert (answer.status_code, "Sign it again" in answer.json()["detail"]) == (409, True)


def test_an_operator_signs_for_a_group_and_sends_the_file(
    server: Server, management: httpx.Client, agent: TrustingAgent, folder: Path
) -> None:
    assert management.post("/groups", json={"name": "signed"}).status_code == 201
    assert management.post("/groups/signed/agents", json={"agents": [str(agent.id)]}).is_success
    login = [
        "--url", server.management_url, "--ca", str(server.folder / "certs" / "ca.pem"), "--no-proxy",
        "--password-file", str(server.folder / "password"),
    ]  # fmt: skip

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "comms_api", "commands", *arguments, *login],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    file = folder / "signed.json"
    key_file = str(folder / "key.pem")
    signing = run("sign", "--group", "signed", "--action", "ping", "--args", '{"n":3}', "--key", key_file,
                  "--valid-seconds", "600", "--output", str(file))  # fmt: skip
    assert "1 agent" in signing
    assert b"PRIVATE" not in file.read_bytes()
    sent = run("send", "--signature", str(file), "--timeout", "100", "--wait")
    order = agent.result(management.get(f"/orders?request_id={sent.split()[0]}").json()["items"][0]["order_id"])
    assert (order["outcome"], order["result"]["data"]["args"]) == ("success", {"n": 3})
