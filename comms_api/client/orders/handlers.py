"""The actions that this agent can execute."""

from collections.abc import Awaitable, Callable

import msgspec

from comms_api.client.host import this_host
from comms_api.client.orders.configuration import Configuration
from comms_api.client.orders.loop import Handler, success
from comms_api.client.spool.thread import SpoolThread
from comms_api.protocol import ROTATE_KEY_ACTION, Order, Result


class _SetGroup(msgspec.Struct, frozen=True):
    groups: tuple[str, ...]


class Handlers:
    """Executes actions on the agent.

    `collect_again` makes the agent collect at once; `rotate_key` rotates its key for the order with that id.
    """

    def __init__(
        self,
        spool: SpoolThread,
        configuration: Configuration,
        collect_again: Callable[[], None],
        rotate_key: Callable[[str], Awaitable[None]],
    ) -> None:
        self._spool = spool
        self._rotate_key = rotate_key
        self._configuration = configuration
        self._collect_again = collect_again

    def by_action(self) -> dict[str, Handler]:
        """Return the handlers by the names of their actions."""
        return {
            "ping": self._ping,
            "restart": self._restart,
            "fetch-config": self._fetch_config,
            "set-group": self._set_group,
            "refresh-inventory": self._restart,
            ROTATE_KEY_ACTION: self._change_key,
        }

    def groups(self) -> tuple[str, ...]:
        """Return the agent's groups as of the last order or, before that, of the enrollment; in the spool's thread."""
        fact = self._spool.file.find_fact("groups")
        return () if fact is None else msgspec.json.decode(fact, type=tuple[str, ...])

    async def _ping(self, order: Order) -> Result:
        return success("pong", {"args": order.action.args, "host": this_host().hostname})

    async def _restart(self, _order: Order) -> Result:
        self._collect_again()
        return success("collecting again")

    async def _change_key(self, order: Order) -> Result:
        await self._rotate_key(order.order_id)
        return success("the key is rotated")

    async def _fetch_config(self, _order: Order) -> Result:
        return success("configuration is current", {"files": await self._configuration.fetch()})

    async def _set_group(self, order: Order) -> Result:
        groups = msgspec.json.decode(order.action.args, type=_SetGroup).groups
        await self._spool.run(self._spool.file.remember, "groups", groups)
        return success("groups set", {"groups": groups, "files": await self._configuration.fetch()})
