"""Statements about signing keys and revocations."""

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from comms_api.database.schema import revocations, signing_keys
from comms_api.tokens.keyring import ALGORITHM, Secret, SigningKey


async def list_signing_keys(connection: AsyncConnection, secret: Secret) -> list[SigningKey]:
    """Return all keys, the newest last; raises `ConfigurationError` when `secret` does not open them."""
    statement = select(signing_keys.c.kid, signing_keys.c.private_key).order_by(signing_keys.c.created_at)
    return [SigningKey(kid, secret.decrypt(private_key)) for kid, private_key in await connection.execute(statement)]


async def insert_signing_key(connection: AsyncConnection, secret: Secret, key: SigningKey) -> None:
    """Store a key, encrypted."""
    await connection.execute(
        signing_keys.insert().values(kid=key.kid, algorithm=ALGORITHM, private_key=secret.encrypt(key.private_key))
    )


async def list_revocations(connection: AsyncConnection, lifetime_seconds: int) -> dict[str, float]:
    """Return when each subject was revoked, in seconds since 1970, as far back as a token can live."""
    oldest = func.now() - text(f"interval '{lifetime_seconds} s'")
    statement = select(revocations.c.subject, func.extract("epoch", revocations.c.revoked_at)).where(
        revocations.c.revoked_at > oldest
    )
    return {subject: float(at) for subject, at in await connection.execute(statement)}


async def delete_revocations(connection: AsyncConnection, lifetime_seconds: int) -> None:
    """Forget the revocations that no living token can be older than."""
    oldest = func.now() - text(f"interval '{2 * lifetime_seconds} s'")
    await connection.execute(revocations.delete().where(revocations.c.revoked_at < oldest))
