"""Sightings: the requests of an agent that a node has seen since it last stored them."""

import time
from collections.abc import Mapping
from uuid import UUID

import msgspec
from sqlalchemy import ARRAY, Double, Text, bindparam, text

from comms_api.database.connection import Connection


class Sighting(msgspec.Struct):
    """The requests of one agent; `seen_at` is the monotonic time of the newest."""

    remote_address: str | None
    logged_in: bool = False
    seen_at: float = msgspec.field(default_factory=time.monotonic)
    poll_address: str | None = None
    displaced_polls: int = 0
    displaced_poll_address: str | None = None
    instance: str | None = None
    """The nonce of the process that logged in."""

    def add_earlier(self, earlier: "Sighting") -> None:
        """Add the requests of an earlier sighting of the same agent."""
        self.remote_address = self.remote_address or earlier.remote_address
        self.logged_in = self.logged_in or earlier.logged_in
        self.poll_address = self.poll_address or earlier.poll_address
        self.displaced_polls += earlier.displaced_polls
        self.displaced_poll_address = self.displaced_poll_address or earlier.displaced_poll_address
        self.instance = self.instance or earlier.instance


_RECORD_SIGHTINGS = text("""
    UPDATE agents SET last_seen_at = greatest(last_seen_at, now() - seen.age), node = :node, hidden_at = NULL,
        last_login_at = CASE WHEN seen.logged_in THEN now() - seen.age ELSE last_login_at END,
        remote_address = coalesce(seen.remote_address, agents.remote_address),
        poll_address = coalesce(seen.poll_address, agents.poll_address),
        polled_at = CASE WHEN seen.poll_address IS NULL THEN polled_at ELSE now() - seen.age END,
        displaced_polls = agents.displaced_polls + seen.displaced_polls,
        displaced_poll_address = coalesce(seen.displaced_poll_address, agents.displaced_poll_address),
        displaced_poll_at = CASE WHEN seen.displaced_polls = 0 THEN displaced_poll_at ELSE now() - seen.age END,
        -- A sighting that is stored late must not look like a return to an older process.
        instances = CASE WHEN seen.instance <> coalesce(agents.instances[cardinality(agents.instances)], '')
            AND now() - seen.age > coalesce(agents.instanced_at, '-infinity')
            THEN agents.instances || seen.instance ELSE agents.instances END,
        instanced_at = CASE WHEN seen.instance IS NULL THEN agents.instanced_at
            ELSE greatest(agents.instanced_at, now() - seen.age) END
    FROM (
        SELECT id, make_interval(secs => age_seconds) AS age, remote_address, logged_in, poll_address, displaced_polls,
            displaced_poll_address, instance
        FROM unnest(CAST(:ids AS uuid[]), CAST(:ages AS float8[]), CAST(:addresses AS text[]),
            CAST(:logins AS boolean[]), CAST(:poll_addresses AS text[]), CAST(:displaced AS int[]),
            CAST(:displaced_addresses AS text[]), CAST(:instances AS text[]))
        AS sighting (id, age_seconds, remote_address, logged_in, poll_address, displaced_polls, displaced_poll_address,
            instance)
    ) AS seen
    WHERE agents.id = seen.id""").bindparams(
    *(
        bindparam(name, type_=ARRAY(Text))
        for name in ("addresses", "poll_addresses", "displaced_addresses", "instances")
    ),
    bindparam("ages", type_=ARRAY(Double)),
)


async def record_sightings(connection: Connection, sightings: Mapping[UUID, Sighting], node: str) -> None:
    """Store a node's sightings of agents in one statement; sorted, so that two nodes cannot deadlock."""
    ids, now = sorted(sightings), time.monotonic()
    seen = [sightings[agent_id] for agent_id in ids]
    parameters = {
        "node": node,
        "ids": ids,
        "ages": [now - one.seen_at for one in seen],
        "addresses": [one.remote_address for one in seen],
        "logins": [one.logged_in for one in seen],
        "poll_addresses": [one.poll_address for one in seen],
        "displaced": [one.displaced_polls for one in seen],
        "displaced_addresses": [one.displaced_poll_address for one in seen],
        "instances": [one.instance for one in seen],
    }
    await connection.execute(_RECORD_SIGHTINGS, parameters)
