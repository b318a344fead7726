"""The statements about failed logins: names are stored as digests, and every limit counts separately."""

from hashlib import blake2b

from sqlalchemy import func, select, text, tuple_

from comms_api.database.connection import Connection
from comms_api.database.schema import is_one_of, login_failures, seconds_interval
from comms_api.lockouts.model import Allowance

FORGOTTEN_SECONDS = 3600.0
"""After this much silence, no limit needs a failure any more."""

ROWS_MAXIMUM = 100_000

# The charge is the check: each of several simultaneous tries, on any node, sees the row that the one before it wrote.
_CHARGE = text("""
    INSERT INTO login_failures AS known (who, network, failures, failed_at, locked_until)
    VALUES (:who, :network, 1, now(), '-infinity')
    ON CONFLICT (who, network) DO UPDATE SET (failures, failed_at, locked_until) = (
        SELECT counted, now(), CASE WHEN counted > CAST(:allowed AS float8) THEN now() + make_interval(secs =>
            least(CAST(:longest AS float8), CAST(:first AS float8) * 2 ^ least(counted - :allowed - 1, 16)))
            ELSE '-infinity' END
        FROM (SELECT 1 + greatest(0, known.failures
            - greatest(0, extract(epoch FROM now() - known.failed_at)) * CAST(:forgotten_per_second AS float8)
        ) AS counted) AS counting)
    WHERE known.locked_until <= now()
    RETURNING failures""")

_REFUND = text("""
    WITH forgotten AS (DELETE FROM login_failures WHERE who = :who AND network = :network AND failures <= 1)
    UPDATE login_failures SET failures = failures - 1,
        locked_until = CASE WHEN failures - 1 <= CAST(:allowed AS float8) THEN '-infinity' ELSE locked_until END
    WHERE who = :who AND network = :network AND failures > 1""")

_CLEAR = text("DELETE FROM login_failures WHERE who = :who AND network = :network")

_REMAINING = text("""
    SELECT extract(epoch FROM locked_until - now())::float8 FROM login_failures
    WHERE who = :who AND network = :network AND locked_until > now()""")


async def charge(connection: Connection, allowance: Allowance, who: str, network: str) -> bool:
    """Count a failure; return false, and count nothing, while `who` is locked at this network."""
    parameters = {
        **_key(allowance, who, network),
        "allowed": allowance.failures,
        "first": allowance.first_seconds,
        "longest": allowance.longest_seconds,
        "forgotten_per_second": allowance.failures / allowance.forgotten_seconds,
    }
    return bool(await connection.execute(_CHARGE, parameters))


async def refund(connection: Connection, allowance: Allowance, who: str, network: str) -> None:
    """Take back one failure."""
    await connection.execute(_REFUND, _key(allowance, who, network) | {"allowed": allowance.failures})


async def clear(connection: Connection, allowance: Allowance, who: str, network: str) -> None:
    """Delete the failures of `who` at a network."""
    await connection.execute(_CLEAR, _key(allowance, who, network))


async def find_lock_seconds(connection: Connection, allowance: Allowance, who: str, network: str) -> float | None:
    """Return how long `who` remains locked at a network."""
    seconds: float | None = await connection.scalar(_REMAINING, _key(allowance, who, network))
    return seconds


async def clear_everywhere(connection: Connection, allowance: Allowance, *names: str) -> None:
    """Delete the failures of these names at every address."""
    digests = [digest_of(allowance, name) for name in names]
    await connection.execute(login_failures.delete().where(is_one_of(login_failures.c.who, digests)))


async def delete_forgotten(connection: Connection, rows_maximum: int = ROWS_MAXIMUM) -> None:
    """Delete failures that no limit needs, and failures beyond the maximum, locks last."""
    columns = login_failures.c
    newest_first = (columns.locked_until.desc(), columns.failed_at.desc())
    excess = select(columns.who, columns.network).order_by(*newest_first).offset(rows_maximum)
    is_old = columns.failed_at < func.now() - seconds_interval(FORGOTTEN_SECONDS)
    is_excess = tuple_(columns.who, columns.network).in_(excess)
    await connection.execute(login_failures.delete().where(is_old | is_excess))


def _key(allowance: Allowance, who: str, network: str) -> dict[str, object]:
    return {"who": digest_of(allowance, who), "network": network}


def digest_of(allowance: Allowance, who: str) -> bytes:
    """Return the stored digest of a name, which may have any length and characters, or be a mistyped password."""
    return blake2b(f"{allowance.kind}:{who}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
