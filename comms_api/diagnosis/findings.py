"""The sentences of a diagnosis."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from comms_api.addresses import is_within
from comms_api.diagnosis.model import Diagnosis, OpenOrder, OrderReason

ORDER_SENTENCES: dict[OrderReason, str] = {
    "due": "{count} order(s) are due: the next poll gets them",
    "leased": "{count} order(s) were offered but not reported yet; the next is offered again at {offer_at}",
    "start": "{count} order(s) wait for their start; the next is offered from {offer_at} on",
    "paused": "{count} order(s) wait because their command is paused: comms-api commands resume {request_id}",
    "stopped": "{count} order(s) wait because the rollout has stopped ({phase_reason}):"
    " comms-api commands resume {request_id}",
    "rollout": "{count} order(s) wait for their turn in a rollout: comms-api commands show {request_id}",
    "expired": "{count} order(s) have expired and are about to end",
}


def find_findings(diagnosis: Diagnosis) -> list[str]:
    """Return what the agent waits for, the most important first."""
    found = [
        *_describe_admission(diagnosis),
        *_describe_presence(diagnosis),
        *_describe_orders(diagnosis),
        *_describe_files(diagnosis),
    ]
    return found or ["the agent waits for nothing: it is active, and no order is open"]


def _describe_admission(diagnosis: Diagnosis) -> Iterator[str]:
    agent = diagnosis.agent
    if agent.is_blocked:
        yield "the agent is blocked, so its logins are refused: comms-api agents unblock"
    if (
        agent.remote_address
        and agent.allowed_addresses
        and not is_within(agent.remote_address, agent.allowed_addresses)
    ):
        yield f"its last address {agent.remote_address} is none of its allowed addresses, so its logins are refused"
    if diagnosis.revoked_at and (agent.last_login_at is None or agent.last_login_at < diagnosis.revoked_at):
        yield f"its tokens were revoked at {_second(diagnosis.revoked_at)}, and it has not logged in since"
    if diagnosis.has_next_key:
        yield "it has submitted a new key and has not logged in with it; until then, its old key is valid"
    for failed in diagnosis.failed_logins:
        place = f" from {failed.network}" if failed.network else ""
        is_locked = failed.locked_until is not None and failed.locked_until > diagnosis.at
        lock = f"; further ones are refused until {_second(failed.locked_until)}" if is_locked else ""
        yield f"logins with a wrong key failed{place}, the last at {_second(failed.failed_at)}{lock}"
    for refusal in diagnosis.key_refusals:
        reason = refusal.message or refusal.code
        yield f"a key request was refused: {reason}; the next is possible at {_second(refusal.until)}"
    if agent.cloned_at is not None:
        yield f"several processes use its identity, the last proof is from {_second(agent.cloned_at)}"


def _describe_presence(diagnosis: Diagnosis) -> Iterator[str]:
    agent = diagnosis.agent
    if agent.hidden_at is not None:
        yield f"it is hidden since {_second(agent.hidden_at)} because of its long silence"
    if agent.last_seen_at is None:
        yield "it has never connected"
    elif agent.status == "disconnected":
        node = f"the node {agent.node}" if agent.node else "a node that is lost now"
        yield f"it is disconnected: {node} saw it last, at {_second(agent.last_seen_at)}"
    elif diagnosis.poll == "none":
        yield "it is active but holds no poll, so it gets orders only when it polls again"


def _describe_orders(diagnosis: Diagnosis) -> Iterator[str]:
    counts = Counter(order.reason for order in diagnosis.orders)
    for reason, sentence in ORDER_SENTENCES.items():
        if count := counts[reason]:
            yield sentence.format(count=count, **_first(diagnosis.orders, reason))
    if diagnosis.has_more_orders:
        yield f"more orders are open than the {len(diagnosis.orders)} that are shown"


def _first(orders: list[OpenOrder], reason: OrderReason) -> dict[str, object]:
    """Return the parts of a sentence about the order that is offered next among those with a reason."""
    found = [order for order in orders if order.reason == reason]
    moments = [order.offer_at for order in found if order.offer_at is not None]
    offer_at = _second(min(moments)) if moments else ""
    return {"offer_at": offer_at, "request_id": found[0].request_id, "phase_reason": found[0].phase_reason}


def _describe_files(diagnosis: Diagnosis) -> Iterator[str]:
    if diagnosis.configuration == "failed":
        yield "the last order to apply the files of its groups has failed: comms-api files drift GROUP --status failed"
    elif diagnosis.configuration == "pending":
        yield "it does not run the current files of its groups yet"


def _second(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"
