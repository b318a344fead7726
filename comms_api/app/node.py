"""One node: its services, connected to one another, and the tasks that run beside the requests."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from comms_api.actions.schemas import Schemas
from comms_api.actions.service import Actions
from comms_api.agents.keys import KeyRules
from comms_api.agents.presence import Presence
from comms_api.agents.service import Agents
from comms_api.audit.service import Audit
from comms_api.cluster.membership import Membership
from comms_api.cluster.model import FORGOTTEN_AFTER_SECONDS, NodeProcess, Polls
from comms_api.cluster.service import NODES_CHANNEL, Cluster
from comms_api.cluster.store import forget_lost
from comms_api.commands.idempotency import forget_keys
from comms_api.commands.service import Commands, Rollouts
from comms_api.commands.submission import Submissions
from comms_api.commands.watching import Watch
from comms_api.database.connection import Engine
from comms_api.database.failures import explain_outage
from comms_api.database.listener import Listener, Notifier
from comms_api.database.partitions import create_partitions, drop_partitions
from comms_api.database.uuid7 import DatabaseClock
from comms_api.duties.health import DutyHealth
from comms_api.duties.repeating import Duty, repeating
from comms_api.events.quarantine import Quarantine
from comms_api.events.service import Events
from comms_api.events.sinks import open_sink
from comms_api.fairness.budgets import CpuBudget
from comms_api.fairness.metering import Metered
from comms_api.fairness.slices import Slices
from comms_api.files.announcer import Announcer
from comms_api.files.service import Files
from comms_api.groups.service import Groups
from comms_api.http.answers import Answers
from comms_api.http.bodies import Bodies
from comms_api.lockouts.store import delete_forgotten
from comms_api.login.external import ExternalAgents
from comms_api.login.keys import SigningKeys
from comms_api.login.rotation import KeyRotation
from comms_api.login.service import Login
from comms_api.orders.dispatcher import ORDERS_CHANNEL, Dispatcher
from comms_api.orders.maintenance import Maintenance
from comms_api.orders.reports import Reports
from comms_api.orders.service import StoredOrders
from comms_api.revocations.service import REVOCATIONS_CHANNEL, RevocationReader, Revocations
from comms_api.revocations.store import delete_revocations
from comms_api.settings import Settings
from comms_api.states.service import States
from comms_api.tokens.issuer import Tokens
from comms_api.tokens.secret import Secret
from comms_api.users.devices import forget_devices
from comms_api.users.service import Users
from comms_api.users.store import forget_refresh_tokens

logger = logging.getLogger(__name__)

ROLLOUT_SECONDS = 1.0
REPEATS_SECONDS = 5.0
KEYS_SECONDS = 15.0
FAILURES_SECONDS = 60.0
CLOCK_SECONDS = 60.0
HOUSEKEEPING_SECONDS = 600.0


class Node(msgspec.Struct, frozen=True):
    """The services of a node, under the names that routes ask for them by."""

    settings: Settings
    tokens: Tokens
    signing_keys: SigningKeys
    bodies: Bodies
    answers: Answers
    agent_answers: Answers
    cpu: CpuBudget
    slices: Slices
    presence: Presence
    agents: Agents
    audit: Audit
    groups: Groups
    users: Users
    login: Login
    rotation: KeyRotation
    events: Events
    states: States
    submissions: Submissions
    orders: StoredOrders
    actions: Actions
    commands: Commands
    files: Files
    watch: Watch
    dispatcher: Dispatcher
    reports: Reports
    cluster: Cluster
    membership: Membership


@asynccontextmanager
async def open_node(engine: Engine, secret: Secret, settings: Settings, process: NodeProcess) -> AsyncIterator[Node]:
    """Yield a running node on a database that is prepared; when the block ends, what it knows is written down."""
    health, clock, signing_keys = DutyHealth(explain_outage), DatabaseClock(), SigningKeys(engine, secret, settings)
    async with engine.begin() as connection:
        await clock.synchronise(connection)
        keyring = await signing_keys.load(connection)
    tokens = Tokens(keyring, settings.token_lifetime_seconds, clock.now)
    presence = Presence(engine, process.address.name)
    dispatcher = Dispatcher(engine, tokens, presence, settings)
    revocation_reader = RevocationReader(engine, tokens, dispatcher.end_revoked)
    polls = Polls(dispatcher.count_held, dispatcher.redirect, dispatcher.drain, dispatcher.resume)
    membership = Membership(engine, process, clock, keyring, polls, health)
    channels = {
        ORDERS_CHANNEL: dispatcher.wake,
        REVOCATIONS_CHANNEL: lambda _: revocation_reader.refresh_soon(),
        NODES_CHANNEL: lambda _: membership.beat_soon(),
    }
    notifier = Notifier(engine, channels)
    listener = Listener(engine, channels, notifier.name)
    revocations = Revocations(engine, notifier)
    external = ExternalAgents(engine, secret, clock, revocations, settings)
    rotation = KeyRotation(engine, secret, revocations, KeyRules.of(settings))
    reports = Reports(engine, settings.lease_seconds)
    quarantine = Quarantine(engine, clock, settings.quarantine_rows_maximum)
    cpu = CpuBudget(settings.body_wait_seconds)
    slices, schemas = Slices(cpu.charge), Schemas(cpu)
    node = Node(
        settings=settings,
        tokens=tokens,
        signing_keys=signing_keys,
        bodies=Bodies(settings, slices.turns),
        answers=Answers(settings),
        agent_answers=Answers(settings),
        cpu=cpu,
        slices=slices,
        presence=presence,
        agents=Agents(engine, secret, clock, revocations, settings),
        audit=Audit(engine),
        groups=Groups(engine),
        users=Users(engine, tokens, revocations),
        login=Login(engine, secret, tokens, presence, external, rotation, settings.logins_waiting_maximum),
        rotation=rotation,
        events=Events(engine, clock, open_sink(engine, quarantine, slices, settings), quarantine),
        states=States(engine, reports.report, slices),
        submissions=Submissions(engine, clock, notifier, dispatcher, schemas, settings),
        orders=StoredOrders(engine, clock, notifier),
        actions=Actions(engine, schemas),
        commands=Commands(engine, clock, notifier, settings),
        files=Files(engine),
        watch=Watch(engine),
        dispatcher=dispatcher,
        reports=reports,
        cluster=Cluster(engine, notifier),
        membership=membership,
    )
    await membership.join()
    services = (notifier, listener, revocation_reader, presence, membership, dispatcher, node.watch)
    duties = [duty for service in services for duty in service.duties()]
    async with repeating(duties + _duties(engine, node, clock, notifier), health), _running(_tasks(node)):
        yield node
        await external.close()
    await membership.leave()


def _tasks(node: Node) -> dict[str, Coroutine[Any, Any, None]]:
    return (
        node.events.sink.tasks()
        | node.states.tasks()
        | {
            "login reader": node.login.reader.run(),
            "reports writer": node.reports.writer.run(),
        }
    )


def _duties(engine: Engine, node: Node, clock: DatabaseClock, notifier: Notifier) -> list[Duty]:
    settings, tokens = node.settings, node.tokens
    announcer = Announcer(engine, node.submissions, notifier, settings)
    maintenance, rollouts = Maintenance(engine, settings), Rollouts(engine, notifier, settings)

    def on_connection(statement: Callable[..., Awaitable[object]], *arguments: object) -> Callable[[], Awaitable[None]]:
        async def perform() -> None:
            async with engine.begin() as connection:
                await statement(connection, *arguments)

        return perform

    return [
        Duty("signing keys", lambda: node.signing_keys.refresh(tokens.keyring), KEYS_SECONDS),
        Duty("expiry", maintenance.expire, settings.expiry_interval_seconds),
        Duty("announcements", announcer.announce, ROLLOUT_SECONDS),
        Duty("repeated announcements", announcer.repeat, REPEATS_SECONDS),
        Duty("rollouts", rollouts.advance, ROLLOUT_SECONDS),
        Duty("clock", on_connection(clock.synchronise), CLOCK_SECONDS),
        Duty("partitions", lambda: create_partitions(engine), HOUSEKEEPING_SECONDS),
        Duty(
            "events retention",
            lambda: drop_partitions(engine, "events", settings.events_retention_days),
            HOUSEKEEPING_SECONDS,
        ),
        Duty("orders archive", maintenance.archive, HOUSEKEEPING_SECONDS),
        Duty("orders retention", maintenance.drop_history, HOUSEKEEPING_SECONDS),
        Duty("login failures", on_connection(delete_forgotten), FAILURES_SECONDS),
        Duty("refresh tokens", on_connection(forget_refresh_tokens), HOUSEKEEPING_SECONDS),
        Duty("users' devices", on_connection(forget_devices), HOUSEKEEPING_SECONDS),
        Duty("lost nodes", on_connection(forget_lost, FORGOTTEN_AFTER_SECONDS), HOUSEKEEPING_SECONDS),
        Duty("idempotency keys", on_connection(forget_keys), HOUSEKEEPING_SECONDS),
        Duty("quarantine", node.events.quarantine.trim, HOUSEKEEPING_SECONDS),
        Duty(
            "revocations clean-up",
            on_connection(delete_revocations, 2 * tokens.revocations_seconds),
            HOUSEKEEPING_SECONDS,
        ),
    ]


@asynccontextmanager
async def _running(coroutines: dict[str, Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Run tasks beside the block; none of them may end before it, and one that does is a bug worth dying of."""
    tasks = [asyncio.create_task(Metered(coroutine, name), name=name) for name, coroutine in coroutines.items()]
    body = asyncio.current_task()
    for task in tasks:
        task.add_done_callback(lambda ended: _report_end(ended, body))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _report_end(ended: "asyncio.Task[None]", body: "asyncio.Task[Any] | None") -> None:
    if not ended.cancelled():
        logger.critical("task %s ended, this node stops", ended.get_name(), exc_info=ended.exception())
        if body is not None:
            body.cancel()
