"""Webhooks send events of the fleet and results, signed and at least once, and only to addresses that are allowed."""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import trustme
from sqlalchemy import text
from support.batches import command
from support.receivers import Receiver, running_receiver, write_authority
from support.server import Server, running_server
from support.waiting import PATIENCE, wait_until

from comms_api.database.connection import Engine
from comms_api.database.uuid7 import DatabaseClock
from comms_api.errors import ConfigurationError, Invalid
from comms_api.settings import Settings
from comms_api.tokens.secret import Secret
from comms_api.webhooks.https import pause_seconds
from comms_api.webhooks.model import ATTEMPT_SECONDS
from comms_api.webhooks.receiver import Receivers
from comms_api.webhooks.sender import Sender

Query = Callable[..., list[asyncpg.Record]]
ADD = "INSERT INTO outbox (kind, node) SELECT 'node_lost', $1 || number FROM generate_series(1, $2::int) AS number"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server(folder: Path, database_url: str, authority: trustme.CA) -> Iterator[Server]:
    """A node that may post to this machine, and that retries soon."""
    ca = write_authority(authority, folder / "receivers.pem")
    settings = {"webhook_networks": "127.0.0.0/8", "webhook_ca": ca, "webhook_retry_seconds": 0.1}
    with running_server(folder, database_url, webhook_attempts_maximum=3, **settings) as running:
        yield running


@pytest.fixture
def receiver(authority: trustme.CA) -> Iterator[Receiver]:
    with running_receiver(authority) as running:
        yield running


@pytest.fixture(autouse=True)
def no_webhooks(management: httpx.Client) -> None:
    """Delete the webhooks of the tests before."""
    for webhook in management.get("/webhooks").json():
        management.delete(f"/webhooks/{webhook['id']}").raise_for_status()


def add(management: httpx.Client, url: str, *kinds: str, name: str = "hook") -> dict[str, str]:
    body = {"name": name, "url": url, "kinds": kinds or ("node_lost",)}
    answer = management.post("/webhooks", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, str] = answer.json()
    return made


def show(management: httpx.Client, name: str = "hook") -> dict[str, Any]:
    [found] = [webhook for webhook in management.get("/webhooks").json() if webhook["name"] == name]
    shown: dict[str, Any] = found
    return shown


def signature(secret: str, headers: dict[str, str], body: bytes) -> str:
    """Compute the signature as a receiver does."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def test_events_arrive_signed_and_the_secret_is_shown_once(
    server: Server, management: httpx.Client, receiver: Receiver
) -> None:
    made = add(management, receiver.url(), "enrolled", "blocked")
    agent_id = server.enroll(management, "watched")
    management.patch(f"/agents/{agent_id}", json={"is_blocked": True, "labels": {"a": "b"}})
    wait_until(lambda: len(receiver.events()) == 2)
    assert [(event["kind"], event["agent_id"]) for event in receiver.events()] == [
        ("enrolled", str(agent_id)),
        ("blocked", str(agent_id)),
    ]
    for request in receiver.requests:
        assert request.headers["webhook-signature"] == signature(made["secret"], request.headers, request.body)
        assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 600
        assert request.headers["host"] == f"localhost:{receiver.port}"
    wait_until(lambda: show(management)["waiting"] == 0)
    audit = management.get("/audit", params={"subject": "webhooks"}).text
    assert "hook" in audit
    for shown in (management.get("/webhooks").text, audit, (server.folder / "log").read_text()):
        assert made["secret"] not in shown
        assert "sealed_secret" not in shown


def test_a_test_delivery_says_at_once_whether_the_receiver_accepts_it(
    management: httpx.Client, receiver: Receiver
) -> None:
    made = add(management, receiver.url())
    path = f"/webhooks/{made['id']}/test"
    management.patch(f"/webhooks/{made['id']}", json={"is_enabled": False}).raise_for_status()
    assert management.post(path).json() == {"is_accepted": True, "error": ""}
    [request] = receiver.requests
    assert [event["kind"] for event in request.events] == ["test"]
    assert request.headers["webhook-signature"] == signature(made["secret"], request.headers, request.body)
    receiver.answer = lambda _: 404
    assert management.post(path).json() == {"is_accepted": False, "error": "status 404"}
    assert (show(management)["waiting"], show(management)["dead"]) == (0, 0)
    assert management.post("/webhooks/00000000-0000-7000-8000-000000000000/test").status_code == 404


def test_a_new_secret_signs_from_then_on(management: httpx.Client, receiver: Receiver, query: Query) -> None:
    made = add(management, receiver.url())
    renewed = management.post(f"/webhooks/{made['id']}/secret").json()
    assert renewed["secret"] != made["secret"]
    query(ADD, "renewed-", 1)
    wait_until(lambda: receiver.requests)
    [request] = receiver.requests
    assert request.headers["webhook-signature"] == signature(renewed["secret"], request.headers, request.body)
    [changed, *_] = management.get("/audit", params={"subject": "webhooks", "key": "hook"}).json()["items"][::-1]
    assert (changed["operation"], changed["actor"]) == ("update", "admin")


def test_results_of_commands_arrive_only_if_a_webhook_asks_for_them(
    server: Server, management: httpx.Client, receiver: Receiver, query: Query
) -> None:
    agent_id = server.enroll(management, "obeys")
    agent = server.log_in(agent_id)

    def report() -> str:
        management.post("/commands", json=command(agent_id)).raise_for_status()
        [order] = agent.get("/commands?wait=5").json()["commands"]
        result = {"code": 0, "message": "m" * 5_000}
        agent.post("/commands/results", json={"results": [{"order_id": order["order_id"], "result": result}]})
        order_id: str = order["order_id"]
        return order_id

    report()
    assert query("SELECT FROM outbox WHERE kind = 'order_ended'") == []
    add(management, receiver.url(), "order_ended")
    order_id = report()
    wait_until(receiver.events)
    [event] = receiver.events()
    assert (event["agent_id"], event["details"]["order_id"]) == (str(agent_id), order_id)
    assert (event["details"]["status"], event["details"]["result_code"]) == ("success", 0)
    assert event["details"]["result_message"] == "m" * 1_000
    assert management.get("/fleet/events", params={"agent_id": str(agent_id), "order": "newest"}).json()["items"][0][
        "kind"
    ] in {"active", "enrolled"}


def test_a_refused_delivery_is_retried_with_its_id_and_then_a_dead_letter_that_can_be_sent_again(
    management: httpx.Client, receiver: Receiver, query: Query, server: Server
) -> None:
    receiver.answer = lambda _: 302  # a redirect is no success, and not followed
    made = add(management, receiver.url())
    query(ADD, "refused-", 1)
    wait_until(lambda: show(management)["dead"] == 1)
    assert len(receiver.requests) == 3
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    [letter] = management.get(f"/webhooks/{made['id']}/dead-letters").json()["items"]
    assert (letter["attempts"], letter["last_error"]) == (3, "status 302")
    assert letter["content"]["events"][0]["node"] == "refused-1"
    assert show(management)["last_error"] == "status 302"
    assert "it is a dead letter now" in (server.folder / "log").read_text()
    receiver.answer = lambda _: 200
    path = f"/webhooks/{made['id']}/dead-letters/resend"
    assert management.post(path, params={"delivery_id": made["id"]}).status_code == 404
    assert management.post(path).json() == {"deliveries": 1}
    wait_until(lambda: (show(management)["dead"], show(management)["waiting"]) == (0, 0))
    assert receiver.requests[-1].headers["webhook-id"] == letter["id"]


def test_retry_after_pauses_all_deliveries_of_a_webhook_until_its_url_changes(
    management: httpx.Client, receiver: Receiver, query: Query
) -> None:
    receiver.answer, receiver.retry_after = lambda _: 503, "86400"
    made = add(management, receiver.url())
    query(ADD, "paused-", 1)
    wait_until(lambda: show(management)["paused_until"])
    until = datetime.fromisoformat(show(management)["paused_until"])
    assert timedelta(minutes=50) < until - datetime.now(UTC) <= timedelta(hours=1)  # not a day
    query(ADD, "waiting-", 1)
    wait_until(lambda: show(management)["waiting"] == 2)
    receiver.answer, receiver.retry_after = lambda _: 204, None
    changed = management.patch(f"/webhooks/{made['id']}", json={"url": receiver.url("127.0.0.1")}).json()
    assert changed["paused_until"] is None
    wait_until(lambda: len(receiver.requests) == 2)
    assert [event["node"] for event in receiver.requests[1].events] == ["waiting-1"]
    [audited, *_] = management.get("/audit", params={"subject": "webhooks", "key": "hook"}).json()["items"][::-1]
    assert "paused_until" not in str(audited)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("9" * 5000, 3600.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
        ("-1", None),
        ("soon", None),
        ("²", None),
    ],
)
def test_a_retry_after_is_a_number_or_a_date_within_bounds(header: str, seconds: float | None) -> None:
    assert pause_seconds(header) == seconds


def test_a_receiver_that_never_answers_delays_no_other(
    management: httpx.Client, authority: trustme.CA, query: Query
) -> None:
    with ExitStack() as stack:
        stuck, good = (stack.enter_context(running_receiver(authority)) for _ in range(2))
        stuck.answer, began = lambda _: 500 if stuck.stopping.wait(PATIENCE) else 200, time.monotonic()
        add(management, stuck.url(), name="stuck")
        add(management, good.url(), name="good")
        for number in range(5):
            query(ADD, f"shared-{number}-", 1)
            wait_until(lambda number=number: len(good.events()) == number + 1)
        shown = show(management, "stuck")
        assert shown["waiting"] + shown["dead"] >= 4
        assert len(stuck.requests) <= 2 + (time.monotonic() - began) / ATTEMPT_SECONDS


def test_deliveries_hold_up_to_a_hundred_events_in_order(
    management: httpx.Client, receiver: Receiver, query: Query
) -> None:
    add(management, receiver.url())
    query(ADD, "many-", 250)
    wait_until(lambda: len(receiver.events()) == 250)
    assert max(len(request.events) for request in receiver.requests) == 100
    nodes = [event["node"] for event in sorted(receiver.events(), key=lambda event: event["id"])]
    assert nodes == [f"many-{number}" for number in range(1, 251)]


def test_a_disabled_webhook_sends_nothing_and_a_full_backlog_drops_and_counts(
    management: httpx.Client, receiver: Receiver, query: Query
) -> None:
    made = add(management, receiver.url())
    webhook = f"/webhooks/{made['id']}"
    assert management.patch(webhook, json={"is_enabled": False}).json()["is_enabled"] is False
    query(ADD, "disabled-", 1)
    wait_until(lambda: management.get("/fleet/events", params={"node": "disabled-1"}).json()["items"])
    assert receiver.requests == []
    waiting = "INSERT INTO webhook_deliveries (webhook_id, content, due_at) SELECT $1, '{}', now() + interval '1 day'"
    query(f"{waiting} FROM generate_series(1, 1000)", made["id"])
    management.patch(webhook, json={"is_enabled": True})
    query(ADD, "dropped-", 3)
    wait_until(lambda: show(management)["dropped_events"] == 3)
    assert receiver.requests == []


def test_names_and_forms_are_checked(server: Server, management: httpx.Client, receiver: Receiver) -> None:
    add(management, receiver.url())
    cases = [
        ({"name": "hook", "url": receiver.url(), "kinds": ["active"]}, 409),
        ({"name": "x", "url": "http://example.org/", "kinds": ["active"]}, 422),
        ({"name": "x", "url": "https://10.0.0.1/", "kinds": ["active"]}, 422),
        ({"name": "x", "url": "https://user:pw@example.org/", "kinds": ["active"]}, 422),
        ({"name": "x", "url": receiver.url(), "kinds": []}, 400),
        ({"name": "x", "url": receiver.url(), "kinds": ["nonsense"]}, 400),
    ]
    for body, status in cases:
        assert management.post("/webhooks", json=body).status_code == status, body
    operator = server.user(management, "hook-operator", "operator")
    assert operator.get("/webhooks").status_code == 403
    missing = "/webhooks/00000000-0000-7000-8000-000000000000"
    assert management.delete(missing).status_code == 404
    assert management.post(f"{missing}/secret").status_code == 404
    assert management.patch(missing, json={"is_enabled": True}).status_code == 404
    assert management.patch(f"/webhooks/{management.get('/webhooks').json()[0]['id']}", json={}).status_code == 422


PRIVATE = [
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.1", "224.0.0.1"),
    *("255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:10.0.0.1", "::ffff:7f00:1"),
    *("64:ff9b::a00:1", "2002:a00:1::1", "2001:db8::1", "::a00:1", "::ffff:0:a00:1", "fec0::1"),
]


def test_only_public_addresses_and_allowed_networks_may_be_reached() -> None:
    public = Receivers(Settings())
    assert [address for address in PRIVATE if public.may_reach(address)] == []
    assert all(map(public.may_reach, ("1.1.1.1", "2606:4700::1111")))
    allowed = Receivers(Settings(webhook_networks=("10.0.0.0/8", "fc00::/7")))
    assert [address for address in PRIVATE if allowed.may_reach(address)] == ["10.1.2.3", "fc00::1", "::ffff:10.0.0.1"]
    for url in ("https://[::1]/", "https://0x7f.1/x", "https://", "x", "https://h:99999/", "https://127.0.0.1:443"):
        if url != "https://0x7f.1/x":  # the resolver decides about this one, and its answer is checked
            with pytest.raises(Invalid):
                public.check_url(url)


def test_authorities_that_cannot_be_read_are_a_wrong_setting(folder: Path) -> None:
    (folder / "empty.pem").write_text("")
    for ca in (folder / "missing.pem", folder / "empty.pem"):
        with pytest.raises(ConfigurationError, match="webhook_ca"):
            Receivers(Settings(webhook_ca=ca))


def test_a_name_that_leads_to_a_private_address_is_refused(
    folder: Path, new_database: Callable[[], str], receiver: Receiver, authority: trustme.CA
) -> None:
    ca = write_authority(authority, folder / "private.pem")
    with running_server(folder / "private", new_database(), webhook_ca=ca, webhook_attempts_maximum=1) as server:
        management = server.management()
        add(management, receiver.url("localhost"), "enrolled")
        server.enroll(management, "internal")
        wait_until(lambda: show(management)["dead"] == 1)
        assert "localhost has no public address" in show(management)["last_error"]
    assert receiver.requests == []


@pytest.mark.parametrize("host", ["hooks..example.org", f"{'long' * 16}.example.org", "xn--a.example.org"])
def test_a_name_that_cannot_be_resolved_fails_like_any_other_delivery(
    management: httpx.Client, query: Query, host: str
) -> None:
    add(management, f"https://{host}/")
    query(ADD, "unresolved-", 1)
    wait_until(lambda: show(management)["dead"] == 1)
    assert "Name or service not known" in show(management)["last_error"]


def test_a_certificate_for_another_name_is_refused(
    management: httpx.Client, authority: trustme.CA, query: Query
) -> None:
    with running_receiver(authority, "other.example.org") as other:
        add(management, other.url())
        query(ADD, "misnamed-", 1)
        wait_until(lambda: show(management)["dead"] == 1)
        assert "certificate" in show(management)["last_error"].lower()
        assert other.requests == []


def test_a_delivery_that_fails_outlives_its_node(
    folder: Path, new_database: Callable[[], str], receiver: Receiver, authority: trustme.CA
) -> None:
    ca = write_authority(authority, folder / "killed.pem")
    settings: dict[str, Any] = {"webhook_ca": ca, "webhook_networks": "127.0.0.0/8", "webhook_retry_seconds": 0.1}
    url = new_database()
    receiver.answer = lambda _: 503
    with running_server(folder / "killed", url, **settings) as server:
        management = server.management()
        add(management, receiver.url(), "enrolled")
        server.enroll(management, "kept")
        wait_until(lambda: receiver.requests)
    receiver.answer = lambda _: 200
    with running_server(folder / "killed", url, **settings) as server:
        management = server.management()
        wait_until(lambda: show(management)["waiting"] == 0)
    assert [event["agent_name"] for event in receiver.requests[-1].events] == ["kept"]


@pytest.mark.anyio
async def test_excess_dead_letters_are_deleted_even_if_a_secret_cannot_be_decrypted(
    management: httpx.Client, engine: Engine
) -> None:
    made = add(management, "https://hooks.example.org/")
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE webhooks SET sealed_secret = '' WHERE id = :id"), {"id": made["id"]})
        dead = "INSERT INTO webhook_deliveries (webhook_id, content, is_dead) SELECT :id, '{}', true"
        await connection.execute(text(f"{dead} FROM generate_series(1, 1001)"), {"id": made["id"]})
    sender = Sender(engine, Secret(b"s" * 32), DatabaseClock(), Receivers(Settings()), Settings())
    with pytest.raises(ConfigurationError):
        await sender.keep_up()
    assert show(management)["dead"] == 1_000
