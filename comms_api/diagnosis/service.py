"""Find out what an agent waits for."""

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import msgspec

from comms_api.agents.store import find_agent
from comms_api.database.connection import Engine
from comms_api.diagnosis import store
from comms_api.diagnosis.findings import find_findings
from comms_api.diagnosis.model import ORDERS_SHOWN, Diagnosis, PollState
from comms_api.errors import NotFound
from comms_api.files.drift import find_drift

POLL_GRACE = timedelta(seconds=5)
"""A poll may end this much later than `poll_wait_seconds` after its stored beginning."""


class Diagnoses:
    """Diagnoses agents; `is_polling` says whether this process holds an agent's poll."""

    def __init__(self, engine: Engine, is_polling: Callable[[UUID], bool], poll_wait_seconds: float) -> None:
        self._engine = engine
        self._is_polling = is_polling
        self._poll_wait = timedelta(seconds=poll_wait_seconds)

    async def diagnose(self, agent_id: UUID) -> Diagnosis:
        """Return what an agent waits for, and why; raises `NotFound`."""
        async with self._engine.connect() as connection:
            agent = await find_agent(connection, agent_id)
            facts = await store.find_facts(connection, agent_id)
            drift = await find_drift(connection, agent_id)
            if agent is None or facts is None or drift is None:
                raise NotFound(f"There is no agent {agent_id}.")
            failed = await store.list_failed_logins(connection, agent_id)
            names = [str(agent_id), *([agent.external_id] if agent.external_id else [])]
            refusals = await store.list_key_refusals(connection, names)
            orders = await store.list_open_orders(connection, agent_id)
        poll: PollState = "none"
        if self._is_polling(agent_id):
            poll = "held"
        elif agent.polled_at is not None and facts.at < agent.polled_at + self._poll_wait + POLL_GRACE:
            poll = "possible"
        diagnosis = Diagnosis(
            agent=agent,
            at=facts.at,
            poll=poll,
            revoked_at=facts.revoked_at,
            has_next_key=facts.has_next_key,
            configuration=drift.status,
            failed_logins=failed,
            key_refusals=refusals,
            orders=orders[:ORDERS_SHOWN],
            has_more_orders=len(orders) > ORDERS_SHOWN,
        )
        return msgspec.structs.replace(diagnosis, findings=find_findings(diagnosis))
