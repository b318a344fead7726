"""The interface of sinks, which store stateless events, and the sink that the settings name."""

from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

from comms_api.database.connection import Engine
from comms_api.duties.repeating import Duty
from comms_api.errors import ConfigurationError
from comms_api.events.meters import SinkMeters
from comms_api.events.model import EventBatch
from comms_api.events.postgresql_sink import PostgresqlSink
from comms_api.events.quarantine import Quarantine
from comms_api.fairness.slices import Slices
from comms_api.settings import Settings

_CREDENTIALS = b"BEGIN NATS USER JWT"


class Sink(Protocol):
    """Stores batches of events."""

    meters: SinkMeters

    async def append(self, batch: EventBatch) -> bool:
        """Return once the batch is durable; events that can never be stored go to the quarantine.

        False: the batch is known to be stored already, or it was dropped because its day is not kept any more.
        """

    def duties(self) -> list[Duty]:
        """Return the duties without which `append` never returns; called once."""


def open_sink(engine: Engine, quarantine: Quarantine, slices: Slices, settings: Settings) -> Sink:
    """Return the sink that the settings name; modules of JetStream are imported only for its sink."""
    if settings.events_sink == "postgresql":
        return PostgresqlSink(engine)
    check_sink(settings)
    sink: Sink = import_module("comms_api.events.jetstream.sink").JetStreamSink(quarantine, slices, settings)
    return sink


def check_sink(settings: Settings) -> None:
    """Raise `ConfigurationError` if the settings of the sink are unusable."""
    if settings.events_sink == "jetstream":
        check_jetstream(settings)


def check_jetstream(settings: Settings) -> None:
    """Raise `ConfigurationError` if the settings of JetStream are unusable; its servers need not be running."""
    if find_spec("nats") is None or find_spec("nkeys") is None:
        raise ConfigurationError("events_sink: nats-py is not installed: pip install 'nats-py[nkeys]'")
    if not settings.nats_servers:
        raise ConfigurationError("nats_servers: JetStream needs at least one, such as nats://localhost:4222")
    for name in ("nats_ca", "nats_credentials"):
        path = getattr(settings, name)
        if path is not None and not path.is_file():
            raise ConfigurationError(f"{name}: no such file: {path}")
    # nats-py would search any other file for an end marker forever.
    if settings.nats_credentials is not None and _CREDENTIALS not in settings.nats_credentials.read_bytes():
        raise ConfigurationError(f"nats_credentials: not a credentials file: {settings.nats_credentials}")
