"""Devices that have logged in before are remembered for a limited time, up to a maximum per user."""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable

import pytest
from sqlalchemy import text
from support.server import PASSWORD
from support.waiting import until

from comms_api.database.connection import Connection, Engine
from comms_api.database.listener import Notifier
from comms_api.errors import Unauthenticated, Unavailable
from comms_api.revocations.service import Revocations
from comms_api.tokens.issuer import Tokens
from comms_api.tokens.keyring import Keyring, new_signing_key
from comms_api.users.devices import DEVICES_MAXIMUM, forget_devices, insert_device, renew_device, trim_devices
from comms_api.users.model import NewUser, Origin, PasswordChange, UserChange
from comms_api.users.service import Users, reset_password
from comms_api.users.store import find_login, insert_user

pytestmark = pytest.mark.anyio

HERE, ELSEWHERE = "192.0.2.1", "192.0.2.2"
HASH = b"a hash"
CROWD = 80
"""More than one address may have hashed at once."""


@pytest.fixture
def database_url(new_database: Callable[[], str]) -> str:
    """A separate database for the test."""
    return new_database()


def users_of(engine: Engine) -> Users:
    """Return the user service of a separate node."""
    tokens = Tokens(Keyring([new_signing_key()]), 900, time.time)
    return Users(engine, tokens, Revocations(engine, Notifier(engine, {})))


async def know(connection: Connection, token_hash: bytes) -> None:
    """Log the user in from a device that has none of the earlier tokens."""
    await insert_device(connection, "user", token_hash, HERE)
    await trim_devices(connection, "user")


async def is_known(connection: Connection, token_hash: bytes, network: str = ELSEWHERE) -> tuple[bool, bool]:
    record = await find_login(connection, "user", token_hash, network)
    assert record is not None
    return record.has_device, record.is_known_network


async def count(connection: Connection) -> int:
    return int(await connection.scalar(text("SELECT count(*) FROM user_devices")))


async def test_a_device_and_its_network_are_known_until_they_expire(engine: Engine) -> None:
    async with engine.begin() as connection:
        await insert_user(connection, "user", "hash", "reader")
        assert await is_known(connection, HASH, HERE) == (False, False)
        await know(connection, HASH)
        assert await is_known(connection, HASH, HERE) == (True, True)
        assert await is_known(connection, b"another", HERE) == (False, True)
        await renew_device(connection, HASH, ELSEWHERE)
        assert await is_known(connection, HASH) == (True, True)
        await connection.execute(text("UPDATE user_devices SET expires_at = now()"))
        assert await is_known(connection, HASH) == (False, False)
        await forget_devices(connection)
        assert await count(connection) == 0


async def test_logins_without_a_device_token_are_bounded_and_displace_no_returned_device(
    engine: Engine,
) -> None:
    async with engine.begin() as connection:
        await insert_user(connection, "user", "hash", "reader")
        await know(connection, HASH)
        await renew_device(connection, HASH, HERE)
    for _ in range(DEVICES_MAXIMUM + 5):
        async with engine.begin() as connection:  # times differ between transactions only
            newest = secrets.token_bytes(32)
            await know(connection, newest)
    async with engine.begin() as connection:
        assert await count(connection) == DEVICES_MAXIMUM + 1
        assert await is_known(connection, HASH) == (True, False)
        assert await is_known(connection, newest) == (True, False)


async def test_hashes_of_strangers_at_the_same_address_do_not_keep_a_device_out(engine: Engine) -> None:
    users = users_of(engine)
    await users.create(NewUser("user", PASSWORD, "reader"))
    device = (await users.log_in("user", PASSWORD, Origin(HERE))).device_token
    is_over, refusals = asyncio.Event(), Counter[type[Exception]]()

    async def guess(number: int) -> None:
        while not is_over.is_set():
            try:
                await users.log_in(f"nobody {number} {time.monotonic()}", "wrong", Origin(HERE))
            except (Unauthenticated, Unavailable) as error:
                refusals[type(error)] += 1

    guessing = [asyncio.create_task(guess(number)) for number in range(CROWD)]
    await until(lambda: refusals[Unavailable])
    assert (await users.log_in("user", PASSWORD, Origin(HERE, device))).device_token == device
    is_over.set()
    await asyncio.gather(*guessing)


async def test_a_client_that_sends_its_password_with_each_request_is_known_by_its_network(engine: Engine) -> None:
    users = users_of(engine)
    await users.create(NewUser("user", PASSWORD, "service"))
    for _ in range(2):
        await users_of(engine).token_for("user", PASSWORD, Origin(HERE))
    async with engine.begin() as connection:
        assert await is_known(connection, HASH, HERE) == (False, True)
        assert await count(connection) == 1


async def test_a_password_that_is_reset_on_a_node_ends_all_devices(engine: Engine) -> None:
    async with engine.begin() as connection:
        await insert_user(connection, "user", "hash", "reader")
        await know(connection, HASH)
        await reset_password(connection, "user", PASSWORD)
        assert await count(connection) == 0


async def test_a_new_role_keeps_devices_and_a_new_password_ends_them(engine: Engine) -> None:
    users = users_of(engine)
    await users.create(NewUser("user", PASSWORD, "reader"))
    device = (await users.log_in("user", PASSWORD, Origin(HERE))).device_token
    await users.change("user", UserChange(role="operator"))
    assert (await users.log_in("user", PASSWORD, Origin(HERE, device))).device_token == device
    await users.change_password("user", PasswordChange(PASSWORD, PASSWORD[::-1]), Origin(HERE, device))
    assert (await users.log_in("user", PASSWORD[::-1], Origin(HERE, device))).device_token not in {device, None}


async def test_a_deleted_user_has_no_devices(engine: Engine) -> None:
    async with engine.begin() as connection:
        await insert_user(connection, "user", "hash", "reader")
        await know(connection, HASH)
        await connection.execute(text("DELETE FROM users WHERE name = 'user'"))
        assert await count(connection) == 0
