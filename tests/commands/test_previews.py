"""Previews count and show the recipients of a command that is being composed."""

from uuid import UUID

import pytest
from sqlalchemy import text

from comms_api.agents.model import AgentFilter
from comms_api.commands.model import NewCommand
from comms_api.commands.submission import previews
from comms_api.commands.submission.previews import Preview, Previews
from comms_api.database.connection import Engine
from comms_api.errors import Invalid
from comms_api.orders.model import CommandTarget
from comms_api.protocol import Action

pytestmark = pytest.mark.anyio

FILL = text("""
    INSERT INTO agents (id, name, key_hash, is_blocked, last_seen_at)
    SELECT uuid7(), 'previewed-' || n, '', n > 18, CASE WHEN n > 10 THEN now() - interval '1 day' END
    FROM generate_series(1, 20) AS n ON CONFLICT DO NOTHING""")


async def preview(engine: Engine, target: CommandTarget, *, skips: bool = False) -> Preview:
    async with engine.begin() as connection:
        await connection.execute(FILL)
    command = NewCommand("Users/Services", target, Action("restart"), 60, offline="skip" if skips else "wait")
    return await Previews(engine).preview("admin", command)


EVERYONE = CommandTarget("all", filter=AgentFilter(name="previewed-*"))


async def test_recipients_are_counted_by_status_and_some_are_shown(engine: Engine) -> None:
    found = await preview(engine, EVERYONE)
    assert (found.statuses, found.blocked, found.orders) == ({"never_connected": 10, "disconnected": 8}, 2, 20)
    assert len({agent.name for agent in found.first if agent.name.startswith("previewed-")}) == previews.SHOWN
    assert not found.is_cut


async def test_skipped_agents_are_counted(engine: Engine) -> None:
    found = await preview(engine, EVERYONE, skips=True)
    assert (found.orders, found.skipped, found.first) == (0, 20, [])


async def test_unknown_names_are_listed(engine: Engine) -> None:
    missing = UUID("0190a2bc-0000-7000-8000-000000000000")
    found = await preview(engine, CommandTarget("agent", ["previewed-1", "nobody", str(missing), "previewed-1"]))
    assert (found.orders, found.unknown) == (1, ["nobody", str(missing)])
    assert (await preview(engine, CommandTarget("group", ["nowhere", "nor-here"]))).unknown == ["nowhere", "nor-here"]


async def test_a_service_gets_one_order(engine: Engine) -> None:
    assert (await preview(engine, CommandTarget("server", "rbac"))).orders == 1
    assert (await preview(engine, CommandTarget("server", "nothing"))).unknown == ["nothing"]


async def test_counting_is_bounded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "COUNTED_MAXIMUM", 5)
    found = await preview(engine, EVERYONE)
    assert (found.orders, found.is_cut) == (6, True)


async def test_a_selection_of_another_user_is_unknown(engine: Engine) -> None:
    with pytest.raises(Invalid, match="'admin' has no selection"):
        await preview(engine, CommandTarget("selection", "0190a2bc-0000-7000-8000-000000000000"))
