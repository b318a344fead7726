"""Resolve the names of receivers, so that a name whose servers never answer delays no other name."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Thread
from typing import TypeAlias

from comms_api.webhooks.model import WEBHOOKS_MAXIMUM, DeliveryFailed

RESOLUTION_SECONDS = 5.0

LookUp: TypeAlias = Callable[[bytes], Sequence[str]]


def look_up(host: bytes) -> Sequence[str]:
    """Return the addresses of a host, in its ASCII form: Python encodes text by an older IDNA."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(name[0]) for *_, name in found]


class Resolver:
    """Resolves each name on a separate thread, since the system's resolver cannot be interrupted.

    A name is resolved once at a time, and as many names at once as there are webhooks, so each has its turn. The
    threads are daemons: the process ends without them.
    """

    def __init__(self, look_up: LookUp = look_up) -> None:
        self._look_up = look_up
        self._lookups: dict[bytes, Future[Sequence[str]]] = {}

    async def resolve(self, host: bytes) -> Sequence[str]:
        """Return the addresses of a host; raises `OSError`, or `DeliveryFailed` if none is found in time."""
        lookup = self._lookups.get(host) or self._begin(host)
        try:
            async with asyncio.timeout(RESOLUTION_SECONDS):
                return await asyncio.wrap_future(lookup)
        except TimeoutError:
            raise DeliveryFailed(f"{host.decode()} was not resolved within {RESOLUTION_SECONDS:g} s") from None

    def _begin(self, host: bytes) -> Future[Sequence[str]]:
        if len(self._lookups) >= WEBHOOKS_MAXIMUM:
            raise DeliveryFailed("too many names are being resolved")
        lookup = self._lookups[host] = Future()
        lookup.set_running_or_notify_cancel()  # a caller that leaves must not cancel it for the others
        Thread(target=self._run, args=(host, lookup), name="webhooks resolver", daemon=True).start()
        return lookup

    def _run(self, host: bytes, lookup: Future[Sequence[str]]) -> None:
        try:
            addresses = self._look_up(host)
        except Exception as error:  # noqa: BLE001 - the caller raises it
            del self._lookups[host]
            lookup.set_exception(error)
        else:
            del self._lookups[host]
            lookup.set_result(addresses)
