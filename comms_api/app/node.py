"""One node: its services, connected to one another, and their duties."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from comms_api.actions.schemas import Schemas
from comms_api.actions.service import Actions
from comms_api.agents.keys import KeyRules
from comms_api.agents.presence import Presence
from comms_api.agents.service import Agents
from comms_api.agents.store import FIND_ADMISSIONS
from comms_api.audit.service import Audit
from comms_api.batches.keys import key_duties
from comms_api.cluster.membership import Membership
from comms_api.cluster.model import NodeProcess, Polls
from comms_api.cluster.service import NODES_CHANNEL, Cluster
from comms_api.commands.continuous import ContinuousCommands
from comms_api.commands.model import ORDER_IDS_SHOWN
from comms_api.commands.service import Commands, Rollouts
from comms_api.commands.submission.expansion import constant_statements
from comms_api.commands.submission.previews import Previews
from comms_api.commands.submission.submissions import Submissions
from comms_api.commands.watching import Watch
from comms_api.database.connection import Engine, compile_ahead
from comms_api.database.housekeeping import database_duties
from comms_api.database.listener import About, Listener, Notifier
from comms_api.database.uuid7 import DatabaseClock
from comms_api.diagnosis.service import Diagnoses
from comms_api.duties.health import DutyHealth
from comms_api.duties.repeating import Duty, repeating
from comms_api.events.quarantine import Quarantine
from comms_api.events.reading.service import EventReader
from comms_api.events.reading.tail import EventTail
from comms_api.events.service import Events
from comms_api.events.sinks import open_sink
from comms_api.fairness.budgets import CpuBudget
from comms_api.fairness.slices import Slices
from comms_api.files.announcer import Announcer
from comms_api.files.service import Files
from comms_api.files.stages import Stages
from comms_api.fleet.descriptions import Descriptions
from comms_api.fleet.node_log import NodeLog
from comms_api.fleet.removal import Removal
from comms_api.fleet.service import FLEET_EVENTS_CHANNEL, FleetEvents
from comms_api.fleet.statuses import Statuses
from comms_api.fleet.tail import FleetFollowers
from comms_api.groups.service import Groups
from comms_api.health.certificates import ServedCertificate
from comms_api.health.checks import node_probes
from comms_api.health.readiness import Readiness
from comms_api.http.answers import Answers
from comms_api.http.bodies import Bodies
from comms_api.login.external import ExternalAgents
from comms_api.login.keys import SigningKeys
from comms_api.login.rotation import KeyRotation
from comms_api.login.service import CloneRule, Login
from comms_api.orders.archive.maintenance import Maintenance
from comms_api.orders.dispatcher import ORDERS_CHANNEL, Dispatcher
from comms_api.orders.reports import Reports
from comms_api.orders.service import StoredOrders
from comms_api.revocations.service import REVOCATIONS_CHANNEL, RevocationReader, Revocations
from comms_api.selections.service import Selections
from comms_api.settings import Settings
from comms_api.spans import Tracer
from comms_api.states.service import States
from comms_api.tokens.issuer import Tokens
from comms_api.tokens.secret import Secret
from comms_api.users.service import Users
from comms_api.webhooks.receiver import Receivers
from comms_api.webhooks.sender import Sender
from comms_api.webhooks.service import Webhooks, enqueue


class Node:
    """The services of a node, under the names by which routes ask for them."""

    def __init__(  # noqa: PLR0913 - it joins these parts
        self,
        engine: Engine,
        secret: Secret,
        settings: Settings,
        process: NodeProcess,
        health: DutyHealth,
        clock: DatabaseClock,
        tokens: Tokens,
        tracer: Tracer | None,
    ) -> None:
        self.settings, self.tokens, self.tracer = settings, tokens, tracer
        self.record_span = None if tracer is None else tracer.record
        self.cpu = CpuBudget(settings.body_wait_seconds)
        self.slices, schemas = Slices(self.cpu.charge), Schemas(self.cpu)
        self.bodies = Bodies(settings, self.slices.turns)
        self.answers, self.agent_answers = Answers(settings), Answers(settings)

        self.presence, self.descriptions = Presence(engine, process.address.name), Descriptions(engine)
        self.dispatcher = dispatcher = Dispatcher(engine, tokens, self.presence, settings, self.record_span)
        polls = Polls(dispatcher.count_held, dispatcher.redirect, dispatcher.drain, dispatcher.resume)
        self.membership = Membership(engine, process, clock, tokens.keyring, polls, health)
        self.certificate = ServedCertificate(settings.certificate_path)
        self.readiness = Readiness(
            node_probes(engine, self.membership, health, self.certificate, settings.data_dir, clock.now)
        )
        self.revocation_reader = revocation_reader = RevocationReader(engine, tokens, dispatcher.end_revoked)
        self.fleet_followers, node_log = FleetFollowers(engine), NodeLog(engine, process.address.name)

        def wake_followers(_about: About) -> None:
            self.fleet_followers.wake()
            node_log.wake()

        channels = {
            ORDERS_CHANNEL: dispatcher.wake,
            REVOCATIONS_CHANNEL: lambda _: revocation_reader.refresh_soon(),
            NODES_CHANNEL: lambda _: self.membership.beat_soon(),
            FLEET_EVENTS_CHANNEL: wake_followers,
        }
        notifier = Notifier(engine, channels)
        listener, revocations = Listener(engine, channels, notifier.name), Revocations(engine, notifier)

        self.agents = Agents(engine, secret, clock, revocations, settings)
        self.external = ExternalAgents(engine, secret, clock, revocations, settings)
        self.rotation = KeyRotation(engine, secret, revocations, KeyRules.of(settings))
        self.login = Login(
            engine,
            secret,
            tokens,
            self.presence,
            self.descriptions,
            self.external,
            self.rotation,
            CloneRule(settings.clones),
            settings.logins_waiting_maximum,
        )
        has_changes = asyncio.Event()
        self.groups, self.files = Groups(engine, has_changes), Files(engine, has_changes)
        self.stages, self.selections = Stages(engine, has_changes), Selections(engine, clock, revocations, has_changes)
        self.diagnoses = Diagnoses(engine, dispatcher.is_held, settings.poll_wait_seconds)
        self.users, self.audit = Users(engine, tokens, revocations), Audit(engine)
        self.fleet_events, self.cluster = FleetEvents(engine, notifier, settings, enqueue), Cluster(engine, notifier)
        receivers = Receivers(settings)
        sender = Sender(engine, secret, clock, receivers, settings)
        self.webhooks = Webhooks(engine, secret, clock, receivers, sender.post)

        quarantine = Quarantine(engine, clock, settings.quarantine_rows_maximum)
        sink = open_sink(engine, quarantine, self.slices, settings)
        self.events = Events(engine, clock, self.slices, sink, quarantine, settings)
        self.event_reader = EventReader(engine, clock, settings.body_wait_seconds)
        self.event_tail = EventTail(engine, self.event_reader)
        self.reports = Reports(engine, settings.lease_seconds, self.record_span)
        self.states = States(engine, self.reports.report, self.slices)

        self.actions, self.watch = Actions(engine, schemas), Watch(engine)
        self.submissions = Submissions(engine, clock, notifier, dispatcher, schemas, settings)
        self.commands, self.previews = Commands(engine, clock, notifier, settings), Previews(engine)
        self.orders = StoredOrders(engine, clock, notifier)

        self.maintenance, rollouts = Maintenance(engine, settings), Rollouts(engine, notifier, settings)
        continuous = ContinuousCommands(engine, notifier, settings)
        announcer = Announcer(engine, self.submissions, notifier, has_changes, settings)
        self._background = (
            *(revocation_reader, listener, notifier, self.maintenance, rollouts, continuous, announcer),
            *(Statuses(engine), node_log, sender, Removal(engine, settings)),
        )
        """The services that no route asks for."""

    def duties(self) -> list[Duty]:
        """Return the duties of all services."""
        services = (
            *(*self._background, self.presence, self.descriptions, self.membership, self.dispatcher, self.reports),
            *(self.users, self.login, self.external, self.cluster, self.fleet_events, self.events, self.states),
            *(self.submissions, self.watch, self.event_tail, self.agents, self.selections),
        )
        return [duty for service in services for duty in service.duties()]


@asynccontextmanager
async def open_node(  # noqa: PLR0913 - the parts of a node
    engine: Engine,
    secret: Secret,
    settings: Settings,
    process: NodeProcess,
    health: DutyHealth,
    tracer: Tracer | None,
) -> AsyncIterator[Node]:
    """Yield a node on a prepared database; it is a member of the cluster and performs its duties during the block."""
    clock, signing_keys = DatabaseClock(), SigningKeys(engine, secret, settings)
    async with engine.begin() as connection:
        await clock.synchronise(connection)
        keyring = await signing_keys.load(connection)
    tokens = Tokens(keyring, settings.token_lifetime_seconds, clock.now)
    node = Node(engine, secret, settings, process, health, clock, tokens, tracer)
    duties = [*database_duties(engine, clock), *key_duties(engine), *signing_keys.duties(keyring), *node.duties()]
    compile_ahead([FIND_ADMISSIONS, *constant_statements(ORDER_IDS_SHOWN)])
    await node.membership.join()
    async with repeating(duties, health):
        yield node
        await node.external.close()
    await node.membership.leave()
