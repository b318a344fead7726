"""Simultaneous logins share one lookup, and each gets the answer that it would get alone."""

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import httpx
import jwt
import pytest
from sqlalchemy import text
from support.server import KEY, Server, new_id
from support.waiting import PATIENCE

from comms_api.agents.store import find_admissions
from comms_api.database.connection import Engine

AT_ONCE = 24


def test_each_of_many_simultaneous_logins_gets_its_own_answer(server: Server, management: httpx.Client) -> None:
    enrolled = [server.enroll(management, f"enrolled {number}") for number in range(AT_ONCE)]
    robbed = [server.enroll(management, f"robbed {number}") for number in range(AT_ONCE)]
    strangers = [new_id() for _ in range(AT_ONCE)]

    def log_in(agent_id: UUID, key: str) -> tuple[int, str]:
        with httpx.Client(base_url=server.agent_url, verify=server.tls, timeout=PATIENCE) as client:
            answer = client.post("/login", json={"uuid": str(agent_id), "key": key})
        if answer.status_code != 200:
            return answer.status_code, answer.json()["detail"]
        return 200, jwt.decode(answer.json()["token"], options={"verify_signature": False})["sub"]

    agent_ids = [each for group in zip(enrolled, robbed, strangers, strict=True) for each in group]
    keys = [KEY, "w" * 32, KEY] * AT_ONCE
    with ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(threads.map(log_in, agent_ids, keys))
    assert answers[0::3] == [(200, str(agent_id)) for agent_id in enrolled]
    assert answers[1::3] == [(401, "Invalid key")] * AT_ONCE
    assert answers[2::3] == [(403, "Agent does not exist")] * AT_ONCE


@pytest.mark.anyio
async def test_a_look_up_answers_names_in_their_order_and_reads_only_their_rows(engine: Engine) -> None:
    ids, stranger = [new_id() for _ in range(2_000)], new_id()
    async with engine.connect() as connection:
        await connection.execute(
            text("""INSERT INTO agents (id, name, key_hash, external_id)
                SELECT id, 'of many ' || number, '', CASE WHEN number <= 3 THEN '90' || number END
                FROM unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS new (id, number)"""),
            {"ids": ids},
        )
        sequential = text("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'agents'")
        before = await connection.scalar(sequential)
        for _ in range(8):  # often enough that PostgreSQL keeps a generic plan
            found = await find_admissions(connection, [ids[7], "902", stranger, "999", ids[7], ids[0]])
        await connection.execute(text("SELECT pg_stat_force_next_flush()"))
        assert await connection.scalar(sequential) == before
    named = [admission.id if admission else None for admission in found]
    assert named == [ids[7], ids[1], None, None, ids[7], ids[0]]
