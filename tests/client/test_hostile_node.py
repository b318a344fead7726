"""A node that is replaced by a hostile one cannot make an agent with `--trust-key` run anything that was not signed."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support.server import KEY
from support.waiting import PATIENCE, wait_until

from comms_api.protocol import Action, Signed
from comms_api.signatures import Payload, sign

PROGRAM = Path(__file__).parents[1] / "support" / "hostile_node.py"
HOUR = timedelta(hours=1)
AGENT_ID = uuid4()
OPERATOR = Ed25519PrivateKey.generate()
UNSIGNED = ("ping", "restart", "fetch-config", "set-group", "rotate-key", "cancel", "other")


class HostileNode:
    """A process that may send anything to the agent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "orders").mkdir()

    def send(self, *orders: dict[str, Any]) -> list[str]:
        """Send orders in one answer to a poll; return their ids."""
        draft = self.folder / "draft"
        draft.write_text(json.dumps(orders))
        draft.rename(self.folder / "orders" / f"{uuid4()}.json")
        return [order["order_id"] for order in orders]

    def reports(self) -> dict[str, dict[str, Any]]:
        path = self.folder / "reports"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return {line["order_id"]: line["result"] for line in lines}

    def result(self, order_id: str) -> dict[str, Any]:
        """Wait for the agent's report of an order."""
        wait_until(lambda: order_id in self.reports(), says=self.reports)
        return self.reports()[order_id]


def payload(action: Action, **changes: Any) -> Payload:
    now = datetime.now(UTC)
    allowed = Payload(
        agents=[AGENT_ID], action=action, nonce=uuid4().hex, not_before=now - HOUR / 60, not_after=now + HOUR
    )
    return msgspec.structs.replace(allowed, **changes)


def order(signed: Signed | None, action: str = "ping", args: object = None, **changes: object) -> dict[str, Any]:
    made: dict[str, Any] = {
        "document_id": str(uuid4()),
        "request_id": str(uuid4()),
        "order_id": str(uuid4()),
        "source": "Engine",
        "user": "eve",
        "target": {"type": "agent", "id": str(AGENT_ID)},
        "action": {"name": action, "args": args or {}, "version": ""},
        "timeout": 600.0,
        "status": "sent",
    }
    return made | ({} if signed is None else {"signed": msgspec.to_builtins(signed)}) | changes


@pytest.fixture
def node(tmp_path: Path) -> Iterator[HostileNode]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "node.pem")
    public = OPERATOR.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pub").write_bytes(public)
    (tmp_path / "key").write_text(KEY)
    hostile = HostileNode(tmp_path)
    with subprocess.Popen([sys.executable, str(PROGRAM), str(tmp_path), str(AGENT_ID)]) as server:
        wait_until((tmp_path / "port").exists)
        arguments = [
            "--url", f"https://localhost:{(tmp_path / 'port').read_text()}", "--ca", str(tmp_path / "ca.pem"),
            "--data-dir", str(tmp_path / "data"), "--id", str(AGENT_ID), "--key-file", str(tmp_path / "key"),
            "--no-inventory", "--wait-seconds", "1", "--trust-key", str(tmp_path / "key.pub"),
        ]  # fmt: skip
        with subprocess.Popen([sys.executable, "-m", "comms_api", "agent", *arguments]) as agent:
            yield hostile
            (tmp_path / "holds").unlink(missing_ok=True)
            agent.terminate()
            agent.wait(PATIENCE)
        server.terminate()


def test_a_hostile_node_makes_the_agent_run_only_what_was_signed(node: HostileNode) -> None:
    ping = sign(payload(Action("ping", msgspec.Raw(b'{"n":1}'))), OPERATOR)
    [first] = node.send(order(ping))
    good = node.result(first)
    assert (good["message"], good["data"]["args"]) == ("pong", {"n": 1})
    past = {"not_before": datetime.now(UTC) - 2 * HOUR, "not_after": datetime.now(UTC) - HOUR}
    other_args = sign(payload(Action("ping", msgspec.Raw(b'{"n":2}'))), OPERATOR)
    refused = node.send(
        *(order(None, name, {"groups": []}) for name in UNSIGNED),
        order(sign(payload(Action("ping"), agents=[UUID(int=1)]), OPERATOR)),
        order(sign(payload(Action("ping"), **past), OPERATOR)),
        order(sign(payload(Action("ping")), Ed25519PrivateKey.generate())),
        order(msgspec.structs.replace(ping, payload=other_args.payload)),
    )
    for order_id in refused:
        assert "rejected" in node.result(order_id)["data"], node.result(order_id)
    # A repeated payload has the first result, and changed args outside of the payload count for nothing.
    repeated = node.send(order(ping), order(ping, "set-group", {"groups": ["evil"]}))
    assert [node.result(order_id) for order_id in repeated] == [good, good]
    assert not (node.folder / "fetched").exists()


def test_only_a_signed_cancellation_ends_a_running_order(node: HostileNode) -> None:
    (node.folder / "holds").touch()
    fetch = payload(Action("fetch-config"))
    running = order(sign(fetch, OPERATOR))
    node.send(running)
    wait_until((node.folder / "fetched").exists)
    ids = {"order_id": running["order_id"], "request_id": running["request_id"]}
    [unsigned] = node.send(order(None, "cancel", ids | {"nonce": fetch.nonce}))
    assert "rejected" in node.result(unsigned)["data"]
    other = payload(Action("cancel", msgspec.Raw(b'{"nonce":"0123456789abcdef"}')))
    [missed] = node.send(order(sign(other, OPERATOR)))
    assert node.result(missed)["message"] == "no such order is running"
    assert running["order_id"] not in node.reports()
    named = payload(Action("cancel", msgspec.Raw(msgspec.json.encode({"nonce": fetch.nonce}))))
    [signed] = node.send(order(sign(named, OPERATOR)))
    assert node.result(signed)["message"] == "cancelled"
    assert node.result(running["order_id"])["message"] == "cancelled"
