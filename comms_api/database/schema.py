"""Every table on one page, as the migrations create it (a test proves that they agree).

Two patterns recur. Ids of event batches and of orders are UUIDv7, so they sort by time. The tables that grow without
limit are range-partitioned on this id: a lookup by id touches one partition, and old data is deleted by dropping a
table.
Open orders are in `orders`, ended ones in `finished_orders`: the table that every claim, sweep and expiry reads stays
small however long the history is, and an ended order cannot change. After some days, ended orders are packed together
into compressed chunks in `archived_orders`.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Double,
    ForeignKey,
    Function,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    any_,
    func,
    literal,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    }
)

NOW = func.now()


def seconds_interval(seconds: float | ColumnElement[float]) -> Function[Any]:
    """Return an expression for an interval of seconds."""
    return func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def is_one_of(column: ColumnElement[Any], values: Collection[object]) -> ColumnElement[bool]:
    """Return a condition that a column has one of the values, passed as one array so that the statement is constant."""
    return column == any_(literal(list(values), ARRAY(column.type)))


PARTITIONED_TABLES = ("event_batches", "batch_keys", "finished_orders", "archived_orders")


def _timestamp(name: str, *, nullable: bool = True) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable, server_default=None if nullable else NOW)


agents = Table(
    "agents",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("key_hash", LargeBinary, nullable=False),
    Column("type", Text, nullable=False, server_default=""),
    Column("version", Text, nullable=False, server_default=""),
    Column("host", JSON, nullable=False, server_default=text("'{}'")),
    Column("labels", JSON, nullable=False, server_default=text("'{}'")),
    Column("external_id", Text, unique=True, comment="its id in the external database, 3 to 8 digits"),
    Column("allowed_addresses", ARRAY(Text), nullable=False, server_default=text("'{}'"), comment="CIDR; none: any"),
    Column("is_blocked", Boolean, nullable=False, server_default=text("false")),
    Column("configuration", Text, comment="the hash of the group files that it reports"),
    _timestamp("created_at", nullable=False),
    # Requests of live agents change these columns: they have no index, so that the update stays on its page (HOT).
    _timestamp("last_login_at"),
    _timestamp("last_seen_at"),
    Column("remote_address", Text),
    Column("node", Text, comment="the node that saw it last"),
    Column("poll_address", Text, comment="the source of its newest poll"),
    _timestamp("polled_at"),
    Column(
        "displaced_polls", Integer, nullable=False, server_default=text("0"), comment="polls that a newer one has ended"
    ),
    Column("displaced_poll_address", Text),
    _timestamp("displaced_poll_at"),
    Column("next_key_hash", LargeBinary, comment="the next key; its first use replaces key_hash"),
    Column("user_agent", Text, comment="the last one that was applied to its type, version and host"),
    Column("recorded_status", Text, server_default="never_connected", comment="the status of its last event"),
    Column("hidden_at", DateTime(timezone=True), comment="when its silence was too long"),
    Column(
        "instances",
        ARRAY(Text),
        nullable=False,
        server_default=text("'{}'"),
        comment="the nonces of its last processes that logged in, newest last; at most four",
    ),
    Column("instanced_at", DateTime(timezone=True), comment="when the newest came"),
    Column("cloned_at", DateTime(timezone=True), comment="the last proof of a clone"),
    Column("younger_instance", Text, comment="the clone that came later"),
    postgresql_with={"fillfactor": "80"},
)

groups = Table(
    "groups",
    metadata,
    Column("name", Text, primary_key=True),
    Column("precedence", Integer, nullable=False, server_default=text("0"), comment="the group with the highest wins"),
    _timestamp("created_at", nullable=False),
)

group_files = Table(
    "group_files",
    metadata,
    Column("group_name", Text, ForeignKey("groups.name", ondelete="CASCADE"), primary_key=True),
    Column("file_name", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("sha256", Text, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("is_current", Boolean, nullable=False),
    Column("user_name", Text, nullable=False),
    _timestamp("created_at", nullable=False),
    Column("staged_percent", Integer, comment="the part of the agents that a staged version is for; null: not staged"),
)
Index(
    "group_files_current_idx",
    group_files.c.group_name,
    group_files.c.file_name,
    unique=True,
    postgresql_where=text("is_current"),
)
# The files that agents get: of each file, at most one current and one staged version.
Index(
    "group_files_served_idx",
    group_files.c.group_name,
    group_files.c.file_name,
    postgresql_where=text("is_current OR staged_percent IS NOT NULL"),
)

staged_agents = Table(
    "staged_agents",
    metadata,
    Column("group_name", Text, ForeignKey("groups.name", ondelete="CASCADE"), primary_key=True),
    Column("file_name", Text, primary_key=True),
    Column("agent_id", Uuid, primary_key=True, comment="chosen for the staged version of the file"),
)

agent_configurations = Table(
    "agent_configurations",
    metadata,
    Column("agent_id", Uuid, ForeignKey("agents.id", ondelete="CASCADE"), primary_key=True),
    Column("fetched_sha256", Text, comment="the version of its configuration when it last fetched a new file"),
    Column(
        "unfetched", ARRAY(Text), nullable=False, server_default=text("'{}'"), comment="groups without a fetch of it"
    ),
    _timestamp("fetched_at"),
    Column("applied_sha256", Text, comment="the version that it had fetched when an order to apply it succeeded"),
    _timestamp("reported_at"),
    postgresql_with={"fillfactor": "80"},
)

configuration_changes = Table(
    "configuration_changes",
    metadata,
    Column("agent_id", Uuid, primary_key=True),
    Column("has_moved", Boolean, nullable=False, comment="its groups have changed, and not only their files"),
    _timestamp("changed_at", nullable=False),
    _timestamp("first_changed_at", nullable=False),
)

announcements = Table(
    "announcements",
    metadata,
    Column("agent_id", Uuid, primary_key=True),
    Column("has_moved", Boolean, primary_key=True, comment="whether the order is to change groups, or to fetch files"),
    Column("order_id", Uuid, nullable=False, comment="the last order that announced it"),
    Column("failures", Integer, nullable=False, server_default=text("0"), comment="orders that failed before"),
    _timestamp("check_at", nullable=False),
)
# The announcements whose orders are checked next.
Index(None, announcements.c.check_at)

group_members = Table(
    "group_members",
    metadata,
    Column("group_name", Text, ForeignKey("groups.name", ondelete="CASCADE"), primary_key=True),
    Column("agent_id", Uuid, ForeignKey("agents.id", ondelete="CASCADE"), primary_key=True),
)
# An order records its agent's groups, and a deleted agent leaves its groups.
Index(None, group_members.c.agent_id)

users = Table(
    "users",
    metadata,
    Column("name", Text, primary_key=True),
    Column("password_hash", Text, nullable=False),
    Column("role", Text, nullable=False),
    _timestamp("created_at", nullable=False),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("user_name", Text, ForeignKey("users.name", ondelete="CASCADE"), nullable=False),
    _timestamp("expires_at", nullable=False),
    Column(
        "family",
        Uuid,
        nullable=False,
        server_default=text("gen_random_uuid()"),
        comment="of a login: each refresh replaces the token and keeps the family",
    ),
)
Index(None, refresh_tokens.c.user_name)
Index(None, refresh_tokens.c.family)

user_devices = Table(
    "user_devices",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("user_name", Text, ForeignKey("users.name", ondelete="CASCADE"), nullable=False),
    Column("network", Text, nullable=False, comment="that it has logged in from, as in login_failures"),
    Column("has_returned", Boolean, nullable=False, server_default=text("false")),
    _timestamp("seen_at", nullable=False),
    _timestamp("expires_at", nullable=False),
)
# The devices of a user who logs in.
Index(None, user_devices.c.user_name)

enrollment_tokens = Table(
    "enrollment_tokens",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("token_hash", LargeBinary, nullable=False, unique=True),
    Column("description", Text, nullable=False),
    Column("groups", ARRAY(Text), nullable=False),
    Column("uses_left", Integer, comment="none: any number"),
    Column("user_name", Text, nullable=False),
    _timestamp("created_at", nullable=False),
    _timestamp("expires_at", nullable=False),
)

selections = Table(
    "selections",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_name", Text, ForeignKey("users.name", ondelete="CASCADE"), nullable=False),
    Column("query", Text, comment="the query string of the list that was selected; null: single agents"),
    Column("agents", Integer, nullable=False),
    Column("agent_ids", ARRAY(Uuid), nullable=False, comment="at most 100,000"),
    _timestamp("created_at", nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    # The last action on these agents.
    Column("action", Text),
    Column("group_name", Text, comment="the group that the agents join or leave"),
    Column("address", Text, comment="the address of the user who began the action"),
    Column("examined", Integer, nullable=False, server_default=text("0"), comment="the first of agent_ids are done"),
    Column("changed", Integer, nullable=False, server_default=text("0"), comment="agents that were different before"),
    Column("fault", Text, comment="why the action ended early"),
    Column("ended_at", DateTime(timezone=True)),
)
# A user's selections, of which there are at most eight.
Index(None, selections.c.user_name)

audit = Table(
    "audit",
    metadata,
    Column("id", Uuid, primary_key=True),
    _timestamp("at", nullable=False),
    Column("actor", Text, nullable=False),
    Column("address", Text),
    Column("operation", Text, nullable=False),
    Column("subject", Text, nullable=False, comment="the table of the changed row"),
    Column("key", Text, nullable=False),
    Column("before", JSON),
    Column("after", JSON),
)
Index(None, audit.c.subject, audit.c.key, audit.c.id)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("kid", Text, primary_key=True),
    Column("algorithm", Text, nullable=False),
    Column("private_key", LargeBinary, nullable=False, comment="encrypted with the node secret"),
    _timestamp("created_at", nullable=False),
)

nodes = Table(
    "nodes",
    metadata,
    Column("id", Uuid, primary_key=True, comment="a process; the processes of a node share its name"),
    Column("name", Text, nullable=False),
    Column("worker", Integer, nullable=False),
    Column("agent_url", Text, nullable=False),
    Column("management_url", Text, nullable=False),
    Column("boot_id", Text, nullable=False, comment="identifies one boot of a machine"),
    Column("version", Text, nullable=False),
    _timestamp("started_at", nullable=False),
    # A heartbeat changes only columns without an index, and half of each page is free: every update is HOT.
    _timestamp("seen_at", nullable=False),
    Column("state", Text, nullable=False, server_default="active"),
    Column("polls", Integer, nullable=False, server_default=text("0")),
    Column("requests_per_second", Double, nullable=False, server_default=text("0")),
    Column("duties", JSON, nullable=False, server_default=text("'{}'")),
    Column("skew_seconds", Double, nullable=False, server_default=text("0")),
    Column("key_ids", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("files_sha256", Text, nullable=False, server_default=""),
    # The state that operators requested; only these columns are in the audit trail.
    Column("wanted_state", Text, nullable=False, server_default="active"),
    Column("wanted_polls", Integer),
    _timestamp("rebalanced_at"),
    Column("lost_at", DateTime(timezone=True), comment="when its loss was recorded"),
    Column("connections_maximum", Integer, nullable=False, server_default=text("0")),
    Column("secret_fingerprint", Text, nullable=False, server_default=""),
    postgresql_with={"fillfactor": "50"},
)

fleet_checks = Table(
    "fleet_checks",
    metadata,
    Column("name", Text, primary_key=True),
    _timestamp("checked_at", nullable=False),
)

fleet_outages = Table(
    "fleet_outages",
    metadata,
    Column("began_at", DateTime(timezone=True), primary_key=True),
    _timestamp("ended_at", nullable=False),
)

fleet_actions = Table(
    "fleet_actions",
    metadata,
    # The agents that were hidden or removed lately: their number in a day is limited.
    Column("kind", Text, primary_key=True),
    Column("agent_id", Uuid, primary_key=True),
    Column("at", DateTime(timezone=True), primary_key=True, server_default=NOW),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=text("uuid7()")),
    Column("at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    Column("kind", Text, nullable=False),
    Column("agent_id", Uuid),
    Column("agent_name", Text),
    Column("node", Text),
    Column("details", JSON, nullable=False, server_default=text("'{}'")),
)

fleet_events = Table(
    "fleet_events",
    metadata,
    Column("position", BigInteger, Identity(always=True), primary_key=True, comment="visible in this order"),
    Column("id", Uuid, nullable=False),
    _timestamp("at", nullable=False),
    Column("kind", Text, nullable=False),
    Column("agent_id", Uuid),
    Column("agent_name", Text),
    Column("node", Text),
    Column("details", JSON, nullable=False, server_default=text("'{}'")),
)
# The events of one kind, agent or node.
Index(None, fleet_events.c.kind, fleet_events.c.position)
Index(None, fleet_events.c.agent_id, fleet_events.c.position, postgresql_where=text("agent_id IS NOT NULL"))
Index(None, fleet_events.c.node, fleet_events.c.position, postgresql_where=text("node IS NOT NULL"))

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("url", Text, nullable=False),
    Column("kinds", ARRAY(Text), nullable=False),
    Column("sealed_secret", LargeBinary, nullable=False, comment="encrypted with the node secret"),
    Column("secret_version", Uuid, nullable=False, server_default=text("uuid7()"), comment="changes with the secret"),
    Column("is_enabled", Boolean, nullable=False, server_default=text("true")),
    Column("user_name", Text, nullable=False),
    _timestamp("created_at", nullable=False),
    Column("dropped_events", BigInteger, nullable=False, server_default=text("0")),
    Column("last_error", Text, nullable=False, server_default=""),
    Column("paused_until", DateTime(timezone=True), comment="by the receiver's Retry-After"),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=text("uuid7()")),
    Column("webhook_id", Uuid, ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    Column("content", JSON, nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    _timestamp("due_at", nullable=False),
    Column("is_dead", Boolean, nullable=False, server_default=text("false")),
    Column("last_error", Text, nullable=False, server_default=""),
    _timestamp("created_at", nullable=False),
)
# The next delivery of a webhook.
Index(
    "webhook_deliveries_due_idx",
    webhook_deliveries.c.webhook_id,
    webhook_deliveries.c.due_at,
    postgresql_where=text("NOT is_dead"),
)
# The dead letters of a webhook.
Index(
    "webhook_deliveries_dead_idx",
    webhook_deliveries.c.webhook_id,
    webhook_deliveries.c.id,
    postgresql_where=text("is_dead"),
)

revocations = Table(
    "revocations",
    metadata,
    Column("subject", Text, primary_key=True),
    _timestamp("revoked_at", nullable=False),
)

login_failures = Table(
    "login_failures",
    metadata,
    Column("who", LargeBinary, primary_key=True, comment="a digest of the kind of limit and of the name"),
    Column("network", Text, primary_key=True, comment="an IPv4 address or the /64 of an IPv6 address; empty: any"),
    Column("failures", Double, nullable=False),
    _timestamp("failed_at", nullable=False),
    _timestamp("locked_until", nullable=False),
    # Counting does not wait for a disk or a standby; a crash loses the counts.
    prefixes=["UNLOGGED"],
    # A charge changes only columns without an index: every update is HOT.
    postgresql_with={"fillfactor": "50"},
)

key_lookups = Table(
    "key_lookups",
    metadata,
    Column("question", Text, primary_key=True),
    Column("holder", Uuid, nullable=False, comment="the lookup that has claimed it, or was refused"),
    _timestamp("until", nullable=False),
    Column("code", Integer, comment="of a refusal; NULL while a lookup runs"),
    Column("message", Text),
    # A crash ends every lookup and forgets the refusals.
    prefixes=["UNLOGGED"],
    postgresql_with={"fillfactor": "50"},
)

event_batches = Table(
    "event_batches",
    metadata,
    Column("id", Uuid, primary_key=True, comment="of its first event; event n has id + n"),
    Column("agent_id", Uuid, nullable=False),
    Column("events", Integer, nullable=False, comment="the number of events"),
    Column("streams", JSONB, comment="the collectors of each module; NULL: too many"),
    # It is compressed already: PostgreSQL must not try again (the migration sets STORAGE EXTERNAL).
    Column("content", LargeBinary, nullable=False, comment="the events, compressed by zstd"),
    Column("xact", BigInteger, nullable=False, server_default=text("(pg_current_xact_id()::text)::bigint")),
    postgresql_partition_by="RANGE (id)",
)
# One agent's events in order of time.
Index(None, event_batches.c.agent_id, event_batches.c.id)
# All events in the order in which they became visible to a reader who follows them.
Index(None, event_batches.c.xact, event_batches.c.id)

batch_keys = Table(
    "batch_keys",
    metadata,
    # The results of a batch, by its key, which is looked up in all partitions.
    Column("key", LargeBinary, primary_key=True, comment="a hash of the agent, the kind of the batch and its key"),
    Column("id", Uuid, primary_key=True, server_default=text("uuid7()")),
    Column("digest", LargeBinary, nullable=False, comment="of the decoded body"),
    Column("results", LargeBinary, comment="of the changes of a stateful batch"),
    postgresql_partition_by="RANGE (id)",
)

quarantined_events = Table(
    "quarantined_events",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("agent_id", Uuid, nullable=False),
    Column("reason", Text, nullable=False),
    Column("line", LargeBinary, nullable=False, comment="its first bytes"),
    Column("line_bytes", Integer, nullable=False, comment="the length of the whole line"),
)

states = Table(
    "states",
    metadata,
    Column("agent_id", Uuid, primary_key=True),
    Column("module", Text, primary_key=True),
    Column("collector", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("data", JSON, nullable=False),
    _timestamp("created_at", nullable=False),
    _timestamp("updated_at", nullable=False),
    postgresql_with={"fillfactor": "80"},
)

deleted_agents = Table(
    "deleted_agents",
    metadata,
    # The deleted agents whose states are being deleted, or may still be added by a batch that was under way.
    Column("agent_id", Uuid, primary_key=True),
    _timestamp("deleted_at", nullable=False),
    Column("is_cleared", Boolean, nullable=False, server_default=text("false")),
)

state_sequences = Table(
    "state_sequences",
    metadata,
    Column("agent_id", Uuid, primary_key=True),
    Column("number", BigInteger, nullable=False, comment="of the newest stateful batch that has been applied"),
    postgresql_with={"fillfactor": "50"},
)

commands = Table(
    "commands",
    metadata,
    Column("request_id", Uuid, primary_key=True),
    Column("source", Text, nullable=False),
    Column("user_name", Text, nullable=False),
    Column("target_type", Text, nullable=False),
    Column("target_ids", ARRAY(Text), nullable=False),
    Column("target_filter", JSON, comment="restricts the agents, by their state at the expansion"),
    Column("action_name", Text, nullable=False),
    Column("action_version", Text, nullable=False),
    Column("action_args", JSON, nullable=False),
    Column("signed", JSON, comment="an operator's signature of what its agents may do"),
    Column("timeout_seconds", Double, nullable=False),
    Column("priority", Integer, nullable=False, server_default=text("0")),
    Column("orders", Integer, nullable=False, server_default=text("0"), comment="the number of its orders"),
    Column("offline", Text, nullable=False, server_default="wait", comment="what happens to offline agents"),
    Column("skipped", Integer, nullable=False, server_default=text("0"), comment="how many offline agents got none"),
    Column("retry_of", Uuid, comment="the command whose failed orders these repeat"),
    Column("service", Text, comment="the service that submitted it, which may name another user"),
    Column("phase", Text, nullable=False, server_default="released"),
    Column("phase_reason", Text, nullable=False, server_default=""),
    Column("rollout", JSON),
    Column("rollout_credit", Double, nullable=False, server_default=text("1"), comment="orders its rate allows now"),
    _timestamp("rolled_at", nullable=False),
    _timestamp("resumed_at", nullable=False),
    # Until then, agents that match later get an order too.
    _timestamp("continues_until"),
    _timestamp("starts_at", nullable=False),
    _timestamp("created_at", nullable=False),
    _timestamp("expires_at", nullable=False),
    Column("traceparent", Text, comment="the span that submitted it, in a recorded trace"),
)
# The continuous commands that changed agents are matched with.
Index("commands_continuous_idx", commands.c.continues_until, postgresql_where=text("continues_until IS NOT NULL"))
# The rollouts that the duty advances; a small part of all commands.
Index("commands_rolling_idx", commands.c.request_id, postgresql_where=text("phase = 'rolling'"))
# The commands that a service submitted, for the service itself.
Index("commands_service_idx", commands.c.service, commands.c.request_id, postgresql_where=text("service IS NOT NULL"))
# The paused commands that the same duty ends when all their orders have ended.
Index("commands_paused_idx", commands.c.request_id, postgresql_where=text("phase = 'paused'"))

continuous_recipients = Table(
    "continuous_recipients",
    metadata,
    # The agents that a continuous command has an order for, so that none gets a second one.
    Column("request_id", Uuid, primary_key=True),
    Column("agent_id", Uuid, primary_key=True),
)

changed_agents = Table(
    "changed_agents",
    metadata,
    # A queue that triggers fill: agents that may match a continuous command since they were enrolled or changed.
    Column("number", BigInteger, Identity(always=True), primary_key=True),
    Column("agent_id", Uuid, nullable=False),
)


def _signers() -> Column[object]:
    comment = "the keys of which one must sign its commands; none: no signature"
    return Column("signers", ARRAY(Text), nullable=False, server_default=text("'{}'"), comment=comment)


actions = Table(
    "actions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("schema", JSON, nullable=False, comment="JSON Schema of its args"),
    Column("recipients", Text, nullable=False),
    Column("user_name", Text, nullable=False),
    _timestamp("created_at", nullable=False),
    _signers(),
)

action_versions = Table(
    "action_versions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", Text, primary_key=True, comment="the action.version of the commands that it is for"),
    Column("schema", JSON, nullable=False, comment="JSON Schema of its args"),
    Column("recipients", Text, nullable=False),
    Column("user_name", Text, nullable=False),
    _timestamp("created_at", nullable=False),
    _signers(),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("user_name", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("body_hash", LargeBinary, nullable=False),
    Column("answer", JSON, nullable=False, server_default=text("'[]'")),
    _timestamp("created_at", nullable=False),
)


def _order_columns() -> list[Column[object]]:
    return [
        Column("order_id", Uuid, primary_key=True),
        Column("request_id", Uuid, nullable=False),
        Column("agent_id", Uuid, nullable=False),
        Column("agent_groups", ARRAY(Text), nullable=False),
        Column("attempt", Integer, nullable=False, server_default=text("0")),
        _timestamp("created_at", nullable=False),
        _timestamp("expires_at", nullable=False),
        _timestamp("sent_at"),
    ]


orders = Table(
    "orders",
    metadata,
    *_order_columns(),
    Column("position", BigInteger, Identity(always=True), nullable=False, comment="oldest first"),
    Column("priority", Integer, nullable=False, server_default=text("0"), comment="highest first"),
    # When it may be offered next: at its start, or when the last lease expires; infinity while it is held back.
    _timestamp("offer_at", nullable=False),
    Column("bytes", Integer, nullable=False, server_default=text("0"), comment="its approximate size in an answer"),
    # A claim changes only columns without an index, and half of each page is free: every update is HOT.
    # An empty queue soon needs its pages again, and truncating them would lock the whole table.
    postgresql_with={"fillfactor": "50", "vacuum_truncate": "off"},
)
# Claims: the open orders of each waiting agent, by priority and then by age.
Index("orders_claim_idx", orders.c.agent_id, orders.c.priority.desc(), orders.c.position)
# Expiry.
Index(None, orders.c.expires_at)
# The orders of one command.
Index(None, orders.c.request_id, orders.c.order_id)

finished_orders = Table(
    "finished_orders",
    metadata,
    *_order_columns(),
    _timestamp("finished_at", nullable=False),
    Column("status", Text, nullable=False),
    Column("outcome", Text, comment="how it failed, if it was rejected or expired"),
    Column("result_code", Integer),
    Column("result_message", Text),
    Column("result_data", JSON),
    postgresql_partition_by="RANGE (order_id)",
)
Index(None, finished_orders.c.agent_id, finished_orders.c.order_id)
Index(None, finished_orders.c.request_id, finished_orders.c.order_id)

archived_orders = Table(
    "archived_orders",
    metadata,
    Column("chunk_id", Uuid, primary_key=True, comment="the id of its first order"),
    Column("last_order_id", Uuid, nullable=False),
    Column("request_id", Uuid, nullable=False),
    Column("success", Integer, nullable=False),
    Column("failure", Integer, nullable=False),
    Column("cancelled", Integer, nullable=False),
    # Of the failures.
    Column("rejected", Integer, nullable=False, server_default=text("0")),
    Column("expired_before_delivery", Integer, nullable=False, server_default=text("0")),
    Column("expired_after_delivery", Integer, nullable=False, server_default=text("0")),
    Column("content", LargeBinary, nullable=False, comment="the orders as lines of JSON, zstd"),
    Column("agents", ARRAY(Integer), nullable=False, server_default=text("'{}'"), comment="hashes of their recipients"),
    postgresql_partition_by="RANGE (chunk_id)",
)
# The chunks with an order of one agent.
Index(None, archived_orders.c.agents, postgresql_using="gin")
Index(None, archived_orders.c.request_id, archived_orders.c.chunk_id)
