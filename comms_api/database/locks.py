"""Locks that are no row's and no table's (PostgreSQL manual, "Advisory Locks"): nodes take turns by a number."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_LOCK = text("SELECT pg_advisory_xact_lock(:key)")


async def take_turns(connection: AsyncConnection, key: int) -> None:
    """Wait until no other transaction has the lock of this number, and have it until this one ends."""
    await connection.execute(_LOCK, {"key": key})
