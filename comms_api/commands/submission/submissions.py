"""Submit commands: all commands of a request or none, durable before the answer.

A single command addressed by name runs as one statement; it also claims the orders for polls held on this node and
answers them directly.
"""

import asyncio
from collections.abc import Mapping, Sequence
from uuid import UUID

import msgspec

from comms_api.actions.model import BUILT_IN, BUILT_IN_VERSIONS, Versions
from comms_api.actions.schemas import Check, Schemas
from comms_api.actions.store import load_versions
from comms_api.commands import queries
from comms_api.commands.continuous import begin_continuous, record_recipients
from comms_api.commands.model import ORDER_IDS_SHOWN, RECIPIENTS_SHOWN, Command, NewCommand, Rehearsed, Retry, Submitted
from comms_api.commands.submission.admission import (
    admit_action,
    choose_schema,
    refuse_unjoined_groups,
    refuse_unknown_selections,
    refuse_unknown_targets,
)
from comms_api.commands.submission.expansion import (
    Expansion,
    count_skipped,
    expand_and_claim,
    expand_command,
    expansion_of,
    record_skipped,
    rehearse_command,
)
from comms_api.commands.submission.idempotency import (
    IdempotencyKey,
    claim_key,
    find_answer,
    forget_keys,
    get_answer,
    store_answer,
)
from comms_api.commands.submission.targets import (
    agent_names,
    may_name_unknown,
    named_recipients,
    recipients_again,
    with_agent_ids,
)
from comms_api.database.connection import Connection, Engine
from comms_api.database.housekeeping import HOUSEKEEPING_SECONDS, transaction_duty
from comms_api.database.listener import Notifier
from comms_api.database.uuid7 import DatabaseClock
from comms_api.duties.repeating import Duty
from comms_api.errors import Conflict
from comms_api.orders.counts import count_orders
from comms_api.orders.dispatcher import ORDERS_CHANNEL, Dispatcher
from comms_api.orders.model import Counts
from comms_api.orders.queries import list_order_ids
from comms_api.protocol import CANCEL_ACTION, SET_GROUP_ACTION
from comms_api.settings import Settings
from comms_api.spans import span

HEAD_START_SECONDS = 0.001
"""The delay of a submission's answer: building it at once would delay the answers to polls held here."""


class Submissions:
    """Stores submitted commands with their orders."""

    def __init__(  # noqa: PLR0913 - it joins these parts
        self,
        engine: Engine,
        clock: DatabaseClock,
        notifier: Notifier,
        dispatcher: Dispatcher,
        schemas: Schemas,
        settings: Settings,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._notifier = notifier
        self._dispatcher = dispatcher
        self._schemas = schemas
        self._held_seconds = settings.order_timeout_maximum_seconds
        self._lease_seconds = settings.lease_seconds
        self.passes_unknown = settings.unknown_actions == "pass"
        """Whether commands may name actions that are not registered."""

    def duties(self) -> list[Duty]:
        """Return the duty that deletes expired idempotency keys."""
        return [transaction_duty("idempotency keys", self._engine, HOUSEKEEPING_SECONDS, forget_keys)]

    async def submit(
        self,
        user: str,
        submitted: Sequence[NewCommand],
        key: IdempotencyKey | None = None,
        service: str | None = None,
    ) -> list[Submitted]:
        """Create one order per recipient for every command, or nothing; durable when this returns.

        With a key that was used before, return the first answer again. Raises `Invalid`, naming each command at fault,
        for unknown names, a target without recipients, args that their action does not allow, and a `set-group` with
        groups that are unknown or that a recipient is not a member of. `service` is the user's name if it is a service.
        """
        with span("submit"):
            submitted = await self._by_id(user, submitted)
            recipients = _named_recipients(submitted)
            is_delivered = False
            if key is None and _is_one_statement(submitted):
                answer, is_delivered = await self._submit_alone(user, submitted, recipients, service)
            else:
                answer = await self._submit_together(user, submitted, key, service)
        if not is_delivered:
            self._notifier.notify(ORDERS_CHANNEL, {str(recipient) for recipient in recipients})
        await asyncio.sleep(HEAD_START_SECONDS)
        return answer

    async def submit_within(self, connection: Connection, user: str, command: NewCommand) -> Submitted:
        """Submit an unchecked command of this server in the caller's transaction; unknown agents are skipped.

        The caller notifies the nodes (`ORDERS_CHANNEL`) after its commit.
        """
        return await expand_command(connection, expansion_of(self._clock.uuid7(), user, command, self._held_seconds), 0)

    async def _submit_alone(
        self, user: str, submitted: Sequence[NewCommand], recipients: set[UUID], service: str | None
    ) -> tuple[list[Submitted], bool]:
        """Return the answer, and whether polls held here were answered with every order."""
        [expansion] = await self._prepare(user, submitted, service)
        is_claimed = expansion.is_due_at_once and self._dispatcher.can_deliver(recipients)
        with span("commit"):
            async with self._engine.connect() as connection:
                if is_claimed:
                    lease_seconds = self._lease_seconds
                    answer, claimed = await expand_and_claim(connection, expansion, ORDER_IDS_SHOWN, lease_seconds)
                else:
                    answer, claimed = await expand_command(connection, expansion, ORDER_IDS_SHOWN), []
        delivered = await self._dispatcher.deliver(claimed)
        if not answer.orders:
            async with self._engine.connect() as reading:
                await refuse_unknown_targets(reading, [expansion], [0])
        return [answer], delivered == answer.orders

    async def _submit_together(
        self, user: str, submitted: Sequence[NewCommand], key: IdempotencyKey | None, service: str | None
    ) -> list[Submitted]:
        if key is not None:
            async with self._engine.connect() as connection:
                if (earlier := await find_answer(connection, key)) is not None:
                    return earlier
        expansions = await self._prepare(user, submitted, service)
        # Not `begin`: each expansion names its actor.
        async with self._engine.connect() as connection, connection.transaction():
            if key is not None and not await claim_key(connection, key):
                return await get_answer(connection, key)
            await refuse_unjoined_groups(connection, expansions)
            continuous = [expansion.request_id for expansion in expansions if expansion.command.continuous]
            if continuous:
                await begin_continuous(connection, len(continuous))
            answer = [await _expand(connection, expansion) for expansion in expansions]
            await refuse_unknown_targets(
                connection, expansions, [command.orders + command.skipped for command in answer]
            )
            if continuous:
                await record_recipients(connection, continuous)
            if key is not None:
                await store_answer(connection, key, answer)
        return answer

    async def rehearse(self, user: str, submitted: Sequence[NewCommand]) -> list[Rehearsed]:
        """Return the recipients of each command, and submit nothing; raises like `submit`."""
        submitted = await self._by_id(user, submitted)
        expansions = await self._prepare(user, submitted)
        async with self._engine.connect() as connection:
            await refuse_unjoined_groups(connection, expansions)
            rehearsed = [await _rehearse(connection, expansion) for expansion in expansions]
            recipients = [command.orders + command.skipped for command in rehearsed]
            await refuse_unknown_targets(connection, expansions, recipients)
        return rehearsed

    async def _by_id(self, user: str, submitted: Sequence[NewCommand]) -> Sequence[NewCommand]:
        """Replace agents' names in commands with ids; raises `Invalid` for unknown selections.

        This needs no query if there are no names and no selections.
        """
        if not any(command.target.type == "selection" or agent_names(command.target) for command in submitted):
            return submitted
        async with self._engine.connect() as connection:
            await refuse_unknown_selections(connection, user, submitted)
            return await with_agent_ids(connection, submitted)

    async def _prepare(self, user: str, submitted: Sequence[NewCommand], service: str | None = None) -> list[Expansion]:
        """Check the commands, holding no connection, since checking args may take seconds."""
        versions, admitted, checks = await self._load_versions(submitted), [], []
        for index, command in enumerate(submitted):
            where = f"commands[{index}]"
            schema = choose_schema(where, command.action, versions.get(command.action.name, {}))
            action = admit_action(where, command, schema, passes_unknown=self.passes_unknown)
            if schema is not None and not schema.drops_args:
                checks.append(Check(f"{where}.action.args", schema.schema, bytes(action.args)))
            admitted.append(msgspec.structs.replace(command, action=action))
        await self._schemas.check(checks, user)
        first = self._clock.uuid7().int
        return [
            expansion_of(UUID(int=first + index), user, command, self._held_seconds, service)
            for index, command in enumerate(admitted)
        ]

    async def _load_versions(self, submitted: Sequence[NewCommand]) -> Mapping[str, Versions]:
        used = {(command.action.name, command.action.version) for command in submitted}
        if all(name in BUILT_IN for name, _ in used):
            return BUILT_IN_VERSIONS
        async with self._engine.connect() as connection:
            return await load_versions(connection, used)

    async def retry(
        self, request_id: UUID, user: str, retry: Retry, key: IdempotencyKey | None = None
    ) -> list[Submitted]:
        """Submit a command again, under a new id, to the recipients whose orders failed.

        Raises `NotFound`, and `Conflict` when none of its orders ended so, or they are archived.
        """
        # Not `begin`: each expansion names its actor.
        async with self._engine.connect() as connection, connection.transaction():
            if key is not None and not await claim_key(connection, key):
                return await get_answer(connection, key)
            old = await queries.get_command(connection, request_id)
            await _refuse_repetition(connection, old)
            again = NewCommand(
                source=old.source,  # type: ignore[arg-type] # as it was submitted
                target=old.target,
                action=old.action,
                timeout=min(retry.timeout or old.timeout, self._held_seconds),
                priority=old.priority,
                rollout=old.rollout,
            )
            chosen = recipients_again(request_id, retry.statuses, old.target.type)
            repeated = Expansion(self._clock.uuid7(), user, again, chosen, self._held_seconds, retry_of=request_id)
            await refuse_unjoined_groups(connection, [repeated])
            answer = [await expand_command(connection, repeated, ORDER_IDS_SHOWN)]
            if not answer[0].orders:
                counts = await count_orders(connection, request_id)
                raise Conflict(_nothing_to_repeat(request_id, retry, counts))
            if key is not None:
                await store_answer(connection, key, answer)
        self._notifier.notify(ORDERS_CHANNEL)
        return answer

    async def list_order_ids(self, submitted: Sequence[Submitted]) -> list[UUID]:
        """Return the id of every order of commands that were just submitted."""
        if all(command.orders <= ORDER_IDS_SHOWN for command in submitted):
            return [order_id for command in submitted for order_id in command.order_ids]
        async with self._engine.connect() as connection:
            return await list_order_ids(connection, [command.request_id for command in submitted])


async def _expand(connection: Connection, expansion: Expansion) -> Submitted:
    submitted = await expand_command(connection, expansion, ORDER_IDS_SHOWN)
    skipped = await count_skipped(connection, expansion, submitted.orders)
    if not skipped:
        return submitted
    await record_skipped(connection, expansion.request_id, skipped)
    return msgspec.structs.replace(submitted, skipped=skipped)


async def _rehearse(connection: Connection, expansion: Expansion) -> Rehearsed:
    orders, first = await rehearse_command(connection, expansion, RECIPIENTS_SHOWN)
    return Rehearsed(orders, first, await count_skipped(connection, expansion, orders))


async def _refuse_repetition(connection: Connection, old: Command) -> None:
    """Raise `Conflict` for a command that the server cannot repeat alone."""
    if old.signed is not None:
        raise Conflict("A signed command cannot be repeated: agents accept its nonce once. Sign it again.")
    if old.action.name == CANCEL_ACTION:
        raise Conflict("A cancellation cannot be repeated: its orders have ended.")
    versions = await load_versions(connection, [(old.action.name, old.action.version)])
    if any(schema is not None and schema.signers for schema in versions.get(old.action.name, {}).values()):
        raise Conflict(f"The action {old.action.name!r} must be signed now: sign the command, and submit it.")


def _nothing_to_repeat(request_id: UUID, retry: Retry, counts: Counts) -> str:
    fault = f"No order of the command {request_id} that is not archived ended as {' or '.join(retry.statuses)}."
    if not counts.cancelled or "cancelled" in retry.statuses:
        return fault
    return f'{fault} {counts.cancelled} were cancelled: repeat them with {{"statuses": ["cancelled"]}}, or --cancelled.'


def _named_recipients(submitted: Sequence[NewCommand]) -> set[UUID]:
    """Return the recipients of the commands if every command names its recipients, else an empty set."""
    targets = [command.target for command in submitted]
    if any(target.type in {"group", "all", "selection"} for target in targets):
        return set()
    return {recipient for target in targets for recipient in named_recipients(target)}


def _is_one_statement(submitted: Sequence[NewCommand]) -> bool:
    """Return whether one statement submits these commands: it needs no reads, and does nothing for a faulty target."""
    if len(submitted) != 1:
        return False
    [command] = submitted
    is_self_contained = command.action.name in BUILT_IN and command.action.name != SET_GROUP_ACTION
    is_filtered = command.target.filter is not None or command.offline == "skip"
    return is_self_contained and not is_filtered and not command.continuous and not may_name_unknown(command.target, 1)
