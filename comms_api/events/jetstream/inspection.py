"""Look at the stream without changing it. It needs the extra `jetstream`, so this module is imported by name."""

import asyncio

from nats.aio.client import Client
from nats.errors import Error
from nats.js.errors import NotFoundError

from comms_api.errors import Unavailable
from comms_api.events.jetstream.connection import CLOSE_SECONDS, STREAM, connection_options
from comms_api.events.model import StreamUse
from comms_api.settings import Settings


async def inspect_stream(settings: Settings) -> StreamUse | None:
    """Return the use of the stream, or None if there is no stream; raises `Unavailable` if no server answers."""
    client = Client()
    options = connection_options(settings) | {"max_reconnect_attempts": 1, "allow_reconnect": False}
    try:
        async with asyncio.timeout(settings.nats_timeout_seconds):
            await client.connect(**options, error_cb=_ignore)
            state = await client.jetstream(timeout=settings.nats_timeout_seconds).stream_info(STREAM)
    except NotFoundError:
        return None
    except (Error, OSError, TimeoutError) as error:
        raise Unavailable(f"No server of NATS answers: {str(error) or type(error).__name__}.") from error
    finally:
        async with asyncio.timeout(CLOSE_SECONDS):
            await client.close()
    copies = (state.cluster.replicas or []) if state.cluster else []
    late = sum(bool(copy.offline) or not copy.current for copy in copies)
    return StreamUse(state.state.bytes, state.config.max_bytes or 0, late)


async def _ignore(_error: Exception) -> None:
    """Leave errors to the caller of `connect`."""
