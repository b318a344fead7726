"""The cost of a login on a fresh TLS connection."""

import asyncio
import time

import msgspec

from bench.figures import Effort, Figure, Measured, Measurement
from bench.load import connect
from bench.messages import post
from bench.system import KEY, System

LOGINS = 1200
AT_ONCE = 8


async def measure(system: System, effort: Effort) -> Measured:
    """Log in repeatedly, each time with a full TLS handshake (no session is resumed)."""
    [agent] = await system.enroll(1, "login")
    request = post("/login", "", msgspec.json.encode({"uuid": str(agent), "key": KEY}))
    await _log_in(system, request, AT_ONCE * 2)
    logins = effort.of(LOGINS // AT_ONCE) * AT_ONCE
    before, started = system.cpu(), time.perf_counter()
    await _log_in(system, request, logins)
    seconds, cpu = time.perf_counter() - started, system.cpu_since(before, logins)
    raw = {"logins": logins, "logins_per_second": logins / seconds, "cpu_us_per_login": cpu}
    return Measured({"logins_per_core": 1e6 / cpu["server"]}, raw)


async def _log_in(system: System, request: bytes, times: int) -> None:
    async def log_in() -> None:
        for _ in range(times // AT_ONCE):
            connection = await connect(system)
            await connection.send(request)
            connection.close()

    await asyncio.gather(*(log_in() for _ in range(AT_ONCE)))


MEASUREMENT = Measurement("logins", (Figure("logins_per_core", 600, 1500, "logins per second of server CPU"),), measure)
