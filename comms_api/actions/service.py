"""The registry of actions."""

from collections.abc import Sequence

from comms_api.actions import store
from comms_api.actions.model import BUILT_IN, NewAction, RegisteredAction, Versions
from comms_api.actions.schemas import Schemas
from comms_api.database.connection import Engine
from comms_api.errors import Conflict, Invalid, NotFound
from comms_api.protocol import CANCEL_ACTION
from comms_api.text.printable import is_name

ACTION_NAME_MAXIMUM = 128
VERSIONS_MAXIMUM = 20
NAMES_MAXIMUM = 1_000
"""The maximum number of registered actions that a form offers."""

REGISTRATION_LOCK = 0x616374696F6E


class Actions:
    """The actions whose args are checked, built in or registered."""

    def __init__(self, engine: Engine, schemas: Schemas) -> None:
        self._engine = engine
        self._schemas = schemas

    async def register(self, name: str, action: NewAction, user: str) -> None:
        """Register an action; raises `Invalid` for a schema that cannot be used, `Conflict` for a built-in name."""
        if name in BUILT_IN or name == CANCEL_ACTION:
            raise Conflict(f"The action {name!r} is built in.")
        if len(name) > ACTION_NAME_MAXIMUM or not is_name(name):
            raise Invalid(f"name: expected 1 to {ACTION_NAME_MAXIMUM} printable characters, and not . or ..")
        await self._schemas.check_schema(bytes(action.schema), user)
        async with self._engine.begin() as connection:
            await connection.take_turns(REGISTRATION_LOCK)  # so that a version is counted before the next is added
            if action.version and await store.count_versions(connection, name, action.version) >= VERSIONS_MAXIMUM:
                raise Conflict(f"The action {name!r} has {VERSIONS_MAXIMUM} versions; forget one of them first.")
            await store.store_action(connection, name, action, user)

    async def list(self) -> Sequence[RegisteredAction]:
        """Return every action, by name."""
        async with self._engine.connect() as connection:
            return await store.list_actions(connection)

    async def list_names(self) -> Sequence[str]:
        """Return the names of all actions, built-in ones first; at most `NAMES_MAXIMUM` registered ones."""
        async with self._engine.connect() as connection:
            return [*sorted(BUILT_IN), *await store.list_names(connection, NAMES_MAXIMUM)]

    async def find_versions(self, name: str, version: str) -> Versions:
        """Return the versions of an action, with the schema of one of them; empty for an unknown action."""
        async with self._engine.connect() as connection:
            return (await store.load_versions(connection, [(name, version)])).get(name, {})

    async def forget(self, name: str, version: str | None = None) -> None:
        """Delete a version of a registered action, or all of them; raises `NotFound`."""
        named = f"{name!r} of version {version!r}" if version else repr(name)
        async with self._engine.begin() as connection:
            if not await store.delete_action(connection, name, version):
                raise NotFound(f"There is no registered action {named}.")
