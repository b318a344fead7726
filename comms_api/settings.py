"""The settings of one node: their names, units, defaults and where they come from.

A TOML file sets them by name; `COMMS_API_<NAME>` in the environment overrides the file. The command line reads them
once and passes them in; no other module reads the environment.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from comms_api.addresses import read_network
from comms_api.errors import ConfigurationError
from comms_api.old_names import OLD_NAMES
from comms_api.text.faults import locate_fault
from comms_api.text.printable import NO_DOTS

PREFIX = "COMMS_API_"
CONFIG_VARIABLE = "COMMS_API_CONFIG"
DEFAULT_CONFIG = Path("comms-api.toml")

_SURROGATE = re.compile("[\ud800-\udfff]")
"""Python represents a byte that is not UTF-8 in the environment as such a character (PEP 383)."""

LISTS = {"trusted_proxies", "proxy_protocol_from", "nats_servers", "webhook_networks", "metrics_networks"}

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Bytes = Annotated[int, Meta(ge=1024, le=2**34)]
Days = Annotated[int, Meta(ge=1, le=3650)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything an operator can set; `docs/operations/settings.md` explains each."""

    database_url: str | None = None
    data_dir: Path = Path("data")
    certs_dir: Path = Path("certs")
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    client_certificates: Literal["off", "optional", "required"] = "off"
    client_ca: Path | None = None
    secret_file: Path | None = None
    previous_secret_file: Path | None = None
    admin_password_file: Path | None = None
    embedded_postgres_user: str = "nobody"
    agent_bind: str = "0.0.0.0:27000"
    management_bind: str = "0.0.0.0:55000"
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    database_pool_size: Annotated[int, Meta(ge=2, le=100)] = 8
    database_timeout_seconds: Seconds = 10.0
    poll_wait_seconds: Seconds = 60.0
    disconnected_after_seconds: Annotated[float, Meta(ge=1, le=86_400 * 365)] | None = None
    lease_seconds: Seconds = 60.0
    sweep_seconds: Seconds = 5.0
    configuration_settle_seconds: Seconds = 0.5
    token_lifetime_seconds: Annotated[int, Meta(ge=5, le=86_400)] = 900
    token_algorithm: Literal["ES256", "EdDSA", "RS256"] = "ES256"  # noqa: S105 - no password
    signing_key_days: Days = 30
    key_length_minimum: Annotated[int, Meta(ge=8, le=128)] = 32
    key_entropy_bits_minimum: Annotated[float, Meta(ge=0, le=512)] = 64.0
    remove_after_days: Annotated[float, Meta(ge=1, le=3650)] | None = None
    remove_hidden_days: Annotated[float, Meta(ge=1, le=3650)] = 7.0
    clones: Literal["report", "refuse", "reenroll"] = "report"
    reenroll_after_days: Annotated[float, Meta(ge=0, le=3650)] | None = None
    reenroll_minimum_age_days: Annotated[float, Meta(ge=0, le=3650)] = 0.0
    reenroll_on_key_mismatch: bool = False
    node_name: Annotated[str, Meta(pattern=rf"\A{NO_DOTS}[A-Za-z0-9._-]{{0,128}}\Z")] = ""
    logins_waiting_maximum: Annotated[int, Meta(ge=1, le=1_000_000)] = 2_000
    enrollments_waiting_maximum: Annotated[int, Meta(ge=1, le=1_000_000)] = 2_000
    trusted_proxies: tuple[str, ...] = ()
    forwarded_header: Literal["X-Forwarded-For", "Forwarded"] = "X-Forwarded-For"
    proxy_protocol_from: tuple[str, ...] = ()
    connections_per_address_maximum: Annotated[int, Meta(ge=0)] = 0
    key_request_program: str | None = None
    key_request_socket: Path | None = None
    key_request_url: str | None = None
    key_request_header_file: Path | None = None
    key_request_database_url: str | None = None
    key_request_statement: str | None = None
    key_request_ca: Path | None = None
    key_request_by_address: bool = False
    key_request_timeout_seconds: Seconds = 10.0
    key_request_threads: Annotated[int, Meta(ge=1, le=32)] = 4
    key_request_queue_size: Annotated[int, Meta(ge=1, le=220_000)] = 1024
    key_request_refusal_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 10.0
    key_request_address_failures_per_minute: Annotated[float, Meta(ge=1, le=1_000_000)] = 300.0
    key_request_failures_per_minute: Annotated[float, Meta(ge=1, le=1_000_000)] = 3000.0
    key_request_program_user: str | None = None
    body_bytes_maximum: Bytes = 16 * 2**20
    bytes_in_flight_maximum: Bytes = 256 * 2**20
    answer_bytes_in_flight_maximum: Bytes = 256 * 2**20
    body_timeout_seconds: Seconds = 30.0
    login_body_timeout_seconds: Seconds = 10.0
    stateless_body_timeout_seconds: Seconds | None = None
    stateful_body_timeout_seconds: Seconds | None = None
    answer_stall_seconds: Seconds = 30.0
    body_wait_seconds: Seconds = 2.0
    batch_items_maximum: Annotated[int, Meta(ge=1)] = 200_000
    order_timeout_maximum_seconds: Annotated[float, Meta(gt=0, le=86_400 * 365)] = 86_400 * 7
    expiry_interval_seconds: Seconds = 1.0
    expiry_orders_maximum: Annotated[int, Meta(ge=1, le=100_000)] = 5_000
    unknown_actions: Literal["pass", "refuse"] = "pass"
    events_sink: Literal["postgresql", "jetstream"] = "postgresql"
    nats_servers: tuple[Annotated[str, Meta(pattern="^(nats|tls)://.")], ...] = ()
    nats_ca: Path | None = None
    nats_credentials: Path | None = None
    nats_replicas: Annotated[int, Meta(ge=1, le=5)] = 3
    nats_timeout_seconds: Annotated[float, Meta(ge=0.5, le=60)] = 5.0
    nats_stream_bytes: Annotated[int, Meta(ge=2**20, le=2**50)] = 10 * 2**30
    nats_stream_days: Days = 7
    events_retention_days: Days = 30
    orders_archive_days: Days = 7
    orders_retention_days: Days = 30
    fleet_events_retention_days: Days = 90
    fleet_events_rows_maximum: Annotated[int, Meta(ge=1_000)] = 1_000_000
    quarantine_rows_maximum: Annotated[int, Meta(ge=1)] = 100_000
    webhook_networks: tuple[str, ...] = ()
    webhook_ca: Path | None = None
    webhook_attempts_maximum: Annotated[int, Meta(ge=1, le=100)] = 15
    webhook_retry_seconds: Seconds = 5.0
    drain_seconds: Seconds = 10.0
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "text", "json"] = "auto"
    access_log: bool = False
    metrics_networks: tuple[str, ...] = ()
    traces: bool = False

    def __post_init__(self) -> None:
        """Check the rules between settings, and the values that types cannot check."""
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key must be set together")
        if self.client_certificates != "off" and not (self.client_ca and self.client_ca.is_file()):
            raise ValueError("client_ca: must name a file unless client_certificates is off")
        _check_networks("trusted_proxies", self.trusted_proxies)
        _check_networks("proxy_protocol_from", self.proxy_protocol_from)
        _check_networks("webhook_networks", self.webhook_networks)
        _check_networks("metrics_networks", self.metrics_networks)
        if self.order_timeout_maximum_seconds > self.orders_retention_days * 86_400:
            raise ValueError("order_timeout_maximum_seconds must not exceed orders_retention_days")
        if self.orders_archive_days > self.orders_retention_days:
            raise ValueError("orders_archive_days must not exceed orders_retention_days")

    @property
    def silence_seconds(self) -> float:
        """An agent counts as active until it has been silent for this long; by default it may miss a poll."""
        return self.disconnected_after_seconds or 2 * self.poll_wait_seconds + 60

    @property
    def certificate_path(self) -> Path:
        """The file of the server's certificate chain: the configured one, or one for development."""
        return self.tls_certificate or self.certs_dir / "server.pem"

    @property
    def secret_path(self) -> Path:
        """The file that contains the node secret."""
        return self.secret_file or self.data_dir / "secret"


def _check_networks(setting: str, networks: Iterable[str]) -> None:
    for network in networks:
        try:
            read_network(network)
        except ValueError as error:
            raise ValueError(f"{setting}: {error}") from None


def load_settings(
    environ: Mapping[str, str], config: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Build the settings from the file, the environment and the command line; later sources override earlier ones.

    Without `config`, the file is that of `COMMS_API_CONFIG`, or `comms-api.toml` in the working directory.
    Raises `ConfigurationError` with one line that names the setting.
    """
    values = _from_file(_config_path(environ, config)) | _from_environment(environ)
    values |= {name: value for name, value in (overrides or {}).items() if value is not None}
    _refuse_undecodable(values)
    try:
        return msgspec.convert(values, Settings, strict=False, dec_hook=_to_path)
    except msgspec.ValidationError as error:
        raise ConfigurationError(locate_fault(error, Settings)) from None


def _to_path(kind: type, value: object) -> Path:
    if kind is Path and isinstance(value, str | Path) and value:
        return Path(value)
    raise ValueError("expected a path")


def _config_path(environ: Mapping[str, str], config: Path | None) -> Path | None:
    if config is not None:
        return config
    if named := environ.get(CONFIG_VARIABLE):
        return Path(named)
    return DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None


def _from_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows editors put a byte order mark first
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}") from None
    _refuse_unknown(values, f"{path}: ")
    return values


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    keys = [key for key in environ if key.startswith(PREFIX) and key != CONFIG_VARIABLE]
    _refuse_unknown(keys, "the environment: ", PREFIX)
    names = {key: key.removeprefix(PREFIX).lower() for key in keys}
    return {name: _split(name, environ[key]) for key, name in names.items()}


def _refuse_unknown(found: Iterable[str], where: str, prefix: str = "") -> None:
    """Raise `ConfigurationError` for the first unknown name: where it is, and the most similar setting."""
    known = {f"{prefix}{name.upper() if prefix else name}" for name in Settings.__struct_fields__}
    for name in sorted(set(found) - known):
        if instead := OLD_NAMES.get(name.removeprefix(prefix).lower()):
            raise ConfigurationError(f"{where}{name}: no such setting; set {instead} (see docs/migration.md)")
        [nearest] = difflib.get_close_matches(name, sorted(known), n=1) or [""]
        hint = f"; did you mean {nearest}?" if nearest else ""
        raise ConfigurationError(f"{where}{name}: no such setting{hint}")


def _refuse_undecodable(values: Mapping[str, Any]) -> None:
    """Raise `ConfigurationError` for the first value with bytes that are not UTF-8; a path may contain any bytes."""
    paths = {field.name for field in msgspec.structs.fields(Settings) if Path in {field.type, *get_args(field.type)}}
    for name in sorted(values.keys() - paths):
        texts = values[name] if isinstance(values[name], list) else [values[name]]
        if any(isinstance(text, str) and _SURROGATE.search(text) for text in texts):
            raise ConfigurationError(f"{name}: contains bytes that are not UTF-8")


def _split(name: str, value: str) -> str | list[str]:
    """Return a setting's value; split lists at commas."""
    if name not in LISTS:
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


def current_settings(config: Path | None = None, **overrides: Any) -> Settings:
    """Build the settings of this process."""
    return load_settings(os.environ, config, overrides)
