"""Check the event stream, if events go through one."""

from collections.abc import AsyncIterator
from importlib import import_module

from comms_api.doctor.model import Finding
from comms_api.errors import CommsError, ConfigurationError
from comms_api.events.model import StreamUse
from comms_api.events.sinks import check_sink
from comms_api.settings import Settings

FULL_SHARE = 0.9


async def examine_stream(settings: Settings) -> AsyncIterator[Finding]:
    """Check the servers of NATS and the stream; nothing if events go to PostgreSQL."""
    if settings.events_sink != "jetstream":
        return
    servers = ", ".join(settings.nats_servers)
    try:
        check_sink(settings)
        use = await import_module("comms_api.events.jetstream.inspection").inspect_stream(settings)
    except ConfigurationError as error:
        yield Finding("event stream", servers, "error", str(error), "correct the setting")
        return
    except CommsError as error:
        remedy = "start the servers, and check nats_servers, nats_ca and nats_credentials"
        yield Finding("event stream", servers, "error", error.detail, remedy)
        return
    yield _examine_use(servers, use)


def _examine_use(servers: str, use: StreamUse | None) -> Finding:
    if use is None:
        return Finding("event stream", servers, "warning", "there is no stream yet", "start a node, which creates it")
    subject = f"{servers}: {use.stored_bytes >> 20} of {use.bytes_maximum >> 20} MiB"
    if use.bytes_maximum and use.stored_bytes > use.bytes_maximum * FULL_SHARE:
        problem = "when the stream is full, agents get 503 and keep their events"
        return Finding("event stream", subject, "warning", problem, "start more relays, or raise nats_stream_bytes")
    if use.late_copies:
        problem = f"{use.late_copies} of its copies are not up to date"
        return Finding("event stream", subject, "warning", problem, "start the servers of NATS that are away")
    return Finding("event stream", subject)
