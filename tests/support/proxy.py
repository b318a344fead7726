"""Run an HTTP proxy that tunnels TLS (RFC 9110, section 9.3.6) in a separate thread."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread

from support.serving import serving


@dataclass
class Proxy:
    """A running proxy, and the requested targets as HOST:PORT."""

    url: str = ""
    targets: list[str] = field(default_factory=list)
    credentials: list[str] = field(default_factory=list)


@contextmanager
def running_proxy() -> Iterator[Proxy]:
    """Run a proxy on a free port of this machine."""
    proxy, is_ready = Proxy(), Event()
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    async def serve() -> None:
        async with serving(tunnel) as port:
            proxy.url = f"http://127.0.0.1:{port}"
            is_ready.set()
            await ended.wait()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        proxy.targets.append(head.split()[1])
        proxy.credentials += [line for line in head.splitlines() if line.lower().startswith("proxy-authorization")]
        host, _, port = proxy.targets[-1].rpartition(":")
        to_reader, to_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            await asyncio.gather(copy(reader, to_writer), copy(to_reader, writer))
        finally:
            to_writer.transport.abort()

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(2**16):
                target.write(data)
                await target.drain()
        except OSError:
            pass
        finally:
            target.close()

    thread = Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    is_ready.wait()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()
