"""Routine rotation of agents' keys: an order asks the agent to generate its next key and submit it.

No order contains the key, so orders, results, exports and the audit trail do not reveal it. The old key stays valid
until the first login with the next one, so an agent that crashes at any moment still has a valid key.
"""

from uuid import UUID

from comms_api.agents.keys import KeyRules, replace_key
from comms_api.agents.model import Admission
from comms_api.agents.store import find_admission, lock_agent, update_agent
from comms_api.database.actor import Actor, acting_as
from comms_api.database.connection import Engine
from comms_api.errors import Forbidden, Invalid, NotFound
from comms_api.login.store import has_rotation_order
from comms_api.protocol import NextKey
from comms_api.revocations.service import Revocations
from comms_api.tokens.secret import Secret


class KeyRotation:
    """Stores the hashes of agents' next keys, if `rules` accept the keys, and activates them."""

    def __init__(self, engine: Engine, secret: Secret, revocations: Revocations, rules: KeyRules) -> None:
        self._engine = engine
        self._secret = secret
        self._revocations = revocations
        self._rules = rules

    async def keep(self, agent_id: UUID, submitted: NextKey) -> None:
        """Store the hash of an agent's next key; repeating it changes nothing.

        Raises `Invalid` unless an open order of the agent asks for a rotation. Raises `Forbidden` unless the agent
        proves its current key: a token is not enough, and a key that an operator has just replaced is refused.
        """
        self._rules.check(submitted.next_key, "next_key")
        async with self._engine.begin() as connection:
            await lock_agent(connection, agent_id)  # an operator's new key is set either before or after this
            admission = await find_admission(connection, agent_id)
            if admission is None:
                raise NotFound("This agent has been deleted.")
            if admission.is_external:
                raise Invalid(
                    "next_key: this agent comes from an external database, which keeps its key; change the key there"
                )
            if self._secret.key_matches(submitted.next_key, admission.key_hash):
                return
            if not self._secret.key_matches(submitted.current_key, admission.key_hash):
                raise Forbidden("current_key: is not this agent's key.")
            if not await has_rotation_order(connection, agent_id, submitted.order_id):
                raise Invalid("order_id: this agent has no open order with this id to rotate its key")
            await update_agent(connection, agent_id, {"next_key_hash": self._secret.hash_key(submitted.next_key)})

    def is_next(self, key: str, admission: Admission) -> bool:
        """Return whether a key is the agent's next one."""
        return admission.next_key_hash is not None and self._secret.key_matches(key, admission.next_key_hash)

    async def activate(self, admission: Admission, key: str, address: str | None) -> Admission | None:
        """Replace the key by the next key and revoke the tokens; return None if the next key is another one by now."""
        with acting_as(Actor(f"agent {admission.id}", address)):
            async with self._engine.begin() as connection:
                rotated = await replace_key(
                    connection,
                    admission.id,
                    {"key_hash": self._secret.hash_key(key)},
                    next_key_hash=admission.next_key_hash,
                )
        self._revocations.announce()
        return rotated
