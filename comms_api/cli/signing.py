"""Sign commands for the agents that they name; the private key stays on the operator's machine."""

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import click

from comms_api.cli.shared.operation import path_part
from comms_api.cli.shared.output import JsonObject
from comms_api.errors import ConfigurationError
from comms_api.management_client.client import ManagementClient
from comms_api.protocol import Action, Signed
from comms_api.signatures import SIGNED_AGENTS_MAXIMUM, VALIDITY_MAXIMUM, BadSignature, Payload, read_private_key, sign

NONCE_BYTES = 24
CLOCK_DIFFERENCE = timedelta(minutes=5)
"""The time by which the clock of an agent may be late."""

FILE = click.Path(dir_okay=False, exists=True, path_type=Path)


def read_time(_context: click.Context, _parameter: click.Parameter, value: str | None) -> datetime | None:
    """Return the time of an option, which needs a time zone."""
    try:
        moment = None if value is None else datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if moment is not None and moment.tzinfo is None:
        raise click.BadParameter(f"{value!r} has no time zone; write it as 2026-12-24T18:00:00Z")
    return moment


def find_agents(api: ManagementClient, target: JsonObject) -> list[UUID]:
    """Return the ids of the agents that match a target now: a signature covers agents, not groups."""
    if target["type"] == "server":
        raise ConfigurationError("only commands for agents can be signed, not those for services")
    found = set(_matching(api, target))
    if not found:
        raise ConfigurationError("no agent matches")
    return sorted(found)


def _matching(api: ManagementClient, target: JsonObject) -> Iterator[UUID]:
    narrowed = target.get("filter", {})
    query = narrowed | {"label": [f"{key}:{value}" for key, value in narrowed.get("labels", {}).items()]}
    query.pop("labels", None)
    if target["type"] == "agent":
        if narrowed:
            raise ConfigurationError("--agent cannot be combined with options that filter agents")
        for name in target["id"]:
            yield UUID(api.ask("GET", f"/agents/{path_part(name)}").json()["id"])
        return
    for group in target.get("id", [None]):
        grouped = query | ({"group": group} if group else {})
        for agent in api.pages("/agents", grouped | {"limit": 1_000}):
            yield UUID(agent["id"])


def sign_for(
    agents: list[UUID], action: Action, key_file: Path, begin: datetime | None, validity: timedelta
) -> list[Signed]:
    """Return signatures that together cover the agents, each for at most `SIGNED_AGENTS_MAXIMUM` of them.

    They are valid from `begin` on, or now; agents whose clocks are late accept them too.
    """
    now = datetime.now(UTC)
    not_before, not_after = begin or now - CLOCK_DIFFERENCE, (begin or now) + validity
    try:
        key = read_private_key(key_file.read_bytes())
    except (OSError, BadSignature) as error:
        raise ConfigurationError(f"--key {key_file}: {error}") from None
    if not_after - not_before > VALIDITY_MAXIMUM:
        raise ConfigurationError(f"--valid-seconds: more than {VALIDITY_MAXIMUM.days} days")
    return [
        sign(
            Payload(
                agents=agents[start : start + SIGNED_AGENTS_MAXIMUM],
                action=action,
                nonce=secrets.token_urlsafe(NONCE_BYTES),
                not_before=not_before,
                not_after=not_after,
            ),
            key,
        )
        for start in range(0, len(agents), SIGNED_AGENTS_MAXIMUM)
    ]
