"""Signing keys rotate on a schedule, sign only when every node knows them, and stay while any token needs them."""

import time

import pytest
from sqlalchemy import text

from comms_api.database.connection import Engine
from comms_api.errors import ConfigurationError, Unauthenticated
from comms_api.login.keys import SigningKeys
from comms_api.revocations.service import RevocationReader
from comms_api.revocations.store import delete_revocations
from comms_api.settings import Settings
from comms_api.tokens.issuer import AGENTS, MANAGEMENT, Audience, Tokens
from comms_api.tokens.keyring import Keyring
from comms_api.tokens.secret import Secret, entropy_bits

pytestmark = pytest.mark.anyio

SECRET = Secret(b"s" * 32)
AGE = text("UPDATE signing_keys SET created_at = created_at - make_interval(secs => :seconds)")


async def load(engine: Engine, keys: SigningKeys) -> Keyring:
    async with engine.begin() as connection:
        return await keys.load(connection)


async def test_every_node_reads_a_key_before_it_signs_and_it_is_deleted_later(engine: Engine) -> None:
    keys = SigningKeys(engine, SECRET, Settings(signing_key_days=1))

    async def pass_by(seconds: float) -> None:
        async with engine.begin() as connection:
            await connection.execute(AGE, {"seconds": seconds})
        await keys.refresh(ring)

    ring = await load(engine, keys)
    first = ring.kid
    now = 1_790_000_000.0
    tokens = Tokens(ring, 900, lambda: now)
    token = tokens.issue("somebody", AGENTS)
    await keys.refresh(ring)
    assert list(ring.verifiers) == [first]
    await pass_by(86_500)
    assert (len(ring.verifiers), ring.kid) == (2, first)
    await pass_by(61)
    assert ring.kid != first
    assert Tokens(ring, 900, lambda: now).verify(token, AGENTS).subject == "somebody"
    await pass_by(65 + 2 * 900)
    assert first not in ring.verifiers
    assert (await load(engine, keys)).kid == ring.kid


async def test_a_token_from_the_future_is_refused_until_then(engine: Engine) -> None:
    ring, now = await load(engine, SigningKeys(engine, SECRET, Settings())), 1_790_000_000.0
    tokens = Tokens(ring, 900, lambda: now)
    token = tokens.issue("agent", AGENTS, issued_at=now + 3_600)
    with pytest.raises(Unauthenticated, match="from the future"):
        tokens.verify(token, AGENTS)
    now += 3_600
    assert tokens.verify(token, AGENTS).subject == "agent"


async def test_another_secret_decrypts_no_key_and_the_error_says_so(engine: Engine) -> None:
    await load(engine, SigningKeys(engine, SECRET, Settings()))
    with pytest.raises(ConfigurationError, match="not the secret"):
        await load(engine, SigningKeys(engine, Secret(b"t" * 32), Settings()))


async def test_an_agents_token_is_accepted_for_five_seconds_after_it_expires_and_a_users_is_not(engine: Engine) -> None:
    ring, issued_at = await load(engine, SigningKeys(engine, SECRET, Settings())), 1_790_000_000.0
    clock = [issued_at]
    tokens, other_node = (Tokens(ring, 900, lambda: clock[0]) for _ in range(2))
    of_agent, of_user = tokens.issue("agent", AGENTS), tokens.issue("user", MANAGEMENT, role="reader")
    for seconds, is_good_for_agent, is_good_for_user in (
        (899.9, True, True),
        (900.0, True, False),
        (904.9, True, False),
        (905.0, False, False),
    ):
        clock[0] = issued_at + seconds
        for node in (tokens, other_node):
            assert is_good(node, of_agent, AGENTS) is is_good_for_agent, seconds
            assert is_good(node, of_user, MANAGEMENT) is is_good_for_user, seconds


def is_good(tokens: Tokens, token: str, audience: Audience) -> bool:
    try:
        return bool(tokens.verify(token, audience))
    except Unauthenticated:
        return False


async def test_a_revoked_token_never_revives_within_the_leeway(engine: Engine) -> None:
    now = time.time()
    tokens = Tokens(await load(engine, SigningKeys(engine, SECRET, Settings())), 900, lambda: now)
    token = tokens.issue("agent", AGENTS, issued_at=now - 904)
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO revocations VALUES ('agent', now() - interval '903 s')"))
    assert is_good(tokens, token, AGENTS)
    async with engine.begin() as connection:
        await delete_revocations(connection, 2 * tokens.revocations_seconds)
    await RevocationReader(engine, tokens, lambda: None).refresh()
    assert not is_good(tokens, token, AGENTS)


async def test_a_token_of_a_node_with_a_longer_lifetime_does_not_outlive_the_revocations(engine: Engine) -> None:
    ring, now = await load(engine, SigningKeys(engine, SECRET, Settings())), 1_790_000_000.0
    token = Tokens(ring, 86_400, lambda: now).issue("agent", AGENTS)
    tokens = Tokens(ring, 60, lambda: now)
    assert is_good(tokens, token, AGENTS)
    now += 65
    assert not is_good(tokens, token, AGENTS)


def test_weak_keys_are_hashed_slowly_and_strong_ones_fast() -> None:
    slow, fast = SECRET.hash_weak_key("001 key"), SECRET.hash_key("001 key")
    assert (SECRET.is_slow(slow), SECRET.is_slow(fast)) == (True, False)
    assert SECRET.key_matches("001 key", slow)
    assert SECRET.key_matches("001 key", fast)
    assert not SECRET.key_matches("001 kez", slow)
    replaced = Secret(b"n" * 32, b"s" * 32)
    assert replaced.key_matches("001 key", slow)
    assert replaced.is_outdated("001 key", fast)
    assert not replaced.is_outdated("001 key", replaced.hash_key("001 key"))
    assert not Secret(b"n" * 32).key_matches("001 key", slow)


def test_the_entropy_of_a_key_is_that_of_its_characters() -> None:
    assert entropy_bits("k" * 32) == 0
    assert entropy_bits("ab" * 16) == pytest.approx(32)
    assert entropy_bits("0123456789abcdefghijklmnopqrstuv") == pytest.approx(160)


async def test_only_an_agents_newest_token_is_cached_and_each_is_valid(engine: Engine) -> None:
    now = 1_790_000_000.0
    tokens = Tokens(await load(engine, SigningKeys(engine, SECRET, Settings())), 900, lambda: now)
    issued = [tokens.issue("agent", AGENTS, issued_at=now + number / 8) for number in range(5)]
    users = [tokens.issue("user", MANAGEMENT, issued_at=now + number / 8) for number in range(5)]
    for token in [*issued, *issued[:2]]:
        assert tokens.verify(token, AGENTS).subject == "agent"
    for token in users:
        assert tokens.verify(token, MANAGEMENT).subject == "user"
    assert list(tokens._verified) == [issued[1], *users]  # noqa: SLF001
    now += 906
    for token, audience in ((issued[1], AGENTS), (users[0], MANAGEMENT)):
        with pytest.raises(Unauthenticated, match="expired"):
            tokens.verify(token, audience)
    assert (list(tokens._verified), tokens._newest) == (users[1:], {})  # noqa: SLF001
