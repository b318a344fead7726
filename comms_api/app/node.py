"""One node: its services, connected to one another, and their duties."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from comms_api.actions.schemas import Schemas
from comms_api.actions.service import Actions
from comms_api.agents.keys import KeyRules
from comms_api.agents.presence import Presence
from comms_api.agents.service import Agents
from comms_api.audit.service import Audit
from comms_api.cluster.membership import Membership
from comms_api.cluster.model import NodeProcess, Polls
from comms_api.cluster.service import NODES_CHANNEL, Cluster
from comms_api.commands.service import Commands, Rollouts
from comms_api.commands.submission import Submissions
from comms_api.commands.watching import Watch
from comms_api.database.connection import Engine
from comms_api.database.housekeeping import database_duties
from comms_api.database.listener import Listener, Notifier
from comms_api.database.uuid7 import DatabaseClock
from comms_api.duties.health import DutyHealth
from comms_api.duties.repeating import Duty, repeating
from comms_api.events.quarantine import Quarantine
from comms_api.events.service import Events
from comms_api.events.sinks import open_sink
from comms_api.fairness.budgets import CpuBudget
from comms_api.fairness.slices import Slices
from comms_api.files.announcer import Announcer
from comms_api.files.service import Files
from comms_api.fleet.descriptions import Descriptions
from comms_api.fleet.service import FleetEvents
from comms_api.groups.service import Groups
from comms_api.http.answers import Answers
from comms_api.http.bodies import Bodies
from comms_api.login.external import ExternalAgents
from comms_api.login.keys import SigningKeys
from comms_api.login.rotation import KeyRotation
from comms_api.login.service import Login
from comms_api.orders.dispatcher import ORDERS_CHANNEL, Dispatcher
from comms_api.orders.maintenance import Maintenance
from comms_api.orders.reports import Reports
from comms_api.orders.service import StoredOrders
from comms_api.revocations.service import REVOCATIONS_CHANNEL, RevocationReader, Revocations
from comms_api.settings import Settings
from comms_api.states.service import States
from comms_api.tokens.issuer import Tokens
from comms_api.tokens.secret import Secret
from comms_api.users.service import Users


class Node(msgspec.Struct, frozen=True):
    """The services of a node, under the names by which routes ask for them, and the duties of all its parts."""

    settings: Settings
    tokens: Tokens
    bodies: Bodies
    answers: Answers
    agent_answers: Answers
    cpu: CpuBudget
    slices: Slices
    presence: Presence
    descriptions: Descriptions
    fleet_events: FleetEvents
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
    external: ExternalAgents
    duties: Sequence[Duty]


@asynccontextmanager
async def open_node(
    engine: Engine, secret: Secret, settings: Settings, process: NodeProcess, health: DutyHealth
) -> AsyncIterator[Node]:
    """Yield a node on a prepared database; it is a member of the cluster and performs its duties during the block."""
    clock, signing_keys = DatabaseClock(), SigningKeys(engine, secret, settings)
    async with engine.begin() as connection:
        await clock.synchronise(connection)
        keyring = await signing_keys.load(connection)
    tokens = Tokens(keyring, settings.token_lifetime_seconds, clock.now)
    node = _compose(engine, secret, settings, process, health, clock, tokens)
    duties = [*database_duties(engine, clock), *signing_keys.duties(keyring), *node.duties]
    await node.membership.join()
    async with repeating(duties, health):
        yield node
        await node.external.close()
    await node.membership.leave()


def _compose(  # noqa: PLR0913 - it joins these parts
    engine: Engine,
    secret: Secret,
    settings: Settings,
    process: NodeProcess,
    health: DutyHealth,
    clock: DatabaseClock,
    tokens: Tokens,
) -> Node:
    presence = Presence(engine, process.address.name)
    descriptions, fleet_events = Descriptions(engine), FleetEvents(engine, settings)
    dispatcher = Dispatcher(engine, tokens, presence, settings)
    revocation_reader = RevocationReader(engine, tokens, dispatcher.end_revoked)
    polls = Polls(dispatcher.count_held, dispatcher.redirect, dispatcher.drain, dispatcher.resume)
    membership = Membership(engine, process, clock, tokens.keyring, polls, health)
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
    users = Users(engine, tokens, revocations)
    login = Login(engine, secret, tokens, presence, descriptions, external, rotation, settings.logins_waiting_maximum)
    events = Events(engine, clock, open_sink(engine, quarantine, slices, settings), quarantine, settings)
    states = States(engine, reports.report, slices)
    submissions = Submissions(engine, clock, notifier, dispatcher, schemas, settings)
    watch = Watch(engine)
    cluster = Cluster(engine, notifier)
    with_duties = (
        *(
            revocation_reader,
            listener,
            notifier,
            presence,
            descriptions,
            fleet_events,
            users,
            login,
            events,
            states,
            dispatcher,
            reports,
        ),
        *(submissions, watch, cluster, membership, Maintenance(engine, settings)),
        *(Rollouts(engine, notifier, settings), Announcer(engine, submissions, notifier, settings)),
    )
    return Node(
        settings=settings,
        tokens=tokens,
        bodies=Bodies(settings, slices.turns),
        answers=Answers(settings),
        agent_answers=Answers(settings),
        cpu=cpu,
        slices=slices,
        presence=presence,
        descriptions=descriptions,
        fleet_events=fleet_events,
        agents=Agents(engine, secret, clock, revocations, settings),
        audit=Audit(engine),
        groups=Groups(engine),
        users=users,
        login=login,
        rotation=rotation,
        events=events,
        states=states,
        submissions=submissions,
        orders=StoredOrders(engine, clock, notifier),
        actions=Actions(engine, schemas),
        commands=Commands(engine, clock, notifier, settings),
        files=Files(engine),
        watch=watch,
        dispatcher=dispatcher,
        reports=reports,
        cluster=cluster,
        membership=membership,
        external=external,
        duties=[duty for service in with_duties for duty in service.duties()],
    )
