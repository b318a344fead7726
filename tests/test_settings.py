"""Settings: each is documented, and a wrong one is a line that names it."""

import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from comms_api.cli.main import comms_api
from comms_api.errors import ConfigurationError
from comms_api.old_names import OLD_NAMES
from comms_api.settings import Settings, load_settings

NOTHING = [None, "", ()]
ROOT = Path(__file__).parents[1]


def test_every_setting_is_documented_with_its_default() -> None:
    page = (ROOT / "docs" / "operations" / "settings.md").read_text()
    for name, default in zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True):
        assert f"| `{name}` | {'' if default in NOTHING else f'`{default}`'}" in page, name


def test_every_documented_setting_exists() -> None:
    table = (ROOT / "docs" / "operations" / "settings.md").read_text().partition("## Parameters")[0]
    documented = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(documented) == sorted(Settings.__struct_fields__)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"COMMS_API_WORKRES": "2"}, "COMMS_API_WORKRES: no such setting; did you mean COMMS_API_WORKERS?"),
        ({"COMMS_API_XYZZY": "2"}, "the environment: COMMS_API_XYZZY: no such setting"),
        ({"COMMS_API_WORKERS": "many"}, "workers: "),
        ({"COMMS_API_WORKERS": "0"}, "workers: "),
        (
            {"COMMS_API_LOG_LEVEL": "LOUD"},
            "log_level: Invalid enum value 'LOUD'; expected one of 'DEBUG'",
        ),
        ({"COMMS_API_UNKNOWN_ACTIONS": "drop"}, "unknown_actions: Invalid enum value 'drop'; expected one of 'pass'"),
        ({"COMMS_API_LEASE_SECONDS": "-1"}, "lease_seconds: "),
        ({"COMMS_API_TLS_KEY": "x.pem"}, "tls_certificate and tls_key"),
        ({"COMMS_API_ORDERS_RETENTION_DAYS": "1"}, "order_timeout_maximum_seconds"),
        ({"COMMS_API_TRUSTED_PROXIES": "10.0.0.0/8, proxy.example"}, "trusted_proxies: 'proxy.example' "),
        ({"COMMS_API_PROXY_PROTOCOL_FROM": "10.0.0.0/33"}, "proxy_protocol_from: '10.0.0.0/33' "),
    ],
)
def test_a_wrong_setting_is_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load_settings(environ)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_command_line_overrides_the_environment_which_overrides_the_file(tmp_path: Path) -> None:
    file = tmp_path / "comms-api.toml"
    file.write_text('workers = 2\nlease_seconds = 5.0\nagent_bind = "127.0.0.1:1"\n')
    environ = {"COMMS_API_CONFIG": str(file), "COMMS_API_LEASE_SECONDS": "7", "COMMS_API_AGENT_BIND": "127.0.0.1:2"}
    settings = load_settings(environ, overrides={"agent_bind": "127.0.0.1:3", "workers": None})
    assert (settings.workers, settings.lease_seconds, settings.agent_bind) == (2, 7.0, "127.0.0.1:3")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("workers = ", "comms-api.toml: "),
        ("wokers = 1", r"comms-api\.toml: wokers: no such setting; did you mean workers\?$"),
        (None, r"comms-api\.toml: No such file or directory$"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "comms-api.toml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        load_settings({}, file)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "comms-api.toml"
    file.write_text("\ufeffworkers = 2\n", encoding="utf-8")
    assert load_settings({}, file).workers == 2


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"COMMS_API_DATABASE_URL": "mysql://x"}, "database_url: must begin with postgresql://"),
        (
            {"COMMS_API_DATABASE_URL": "postgresql://u:secret@127.0.0.1:1/x"},
            "database_url: the database cannot be used",
        ),
        ({"COMMS_API_AGENT_BIND": "nowhere"}, "agent_bind: expected HOST:PORT"),
        ({"COMMS_API_TLS_KEY": "no", "COMMS_API_TLS_CERTIFICATE": "no"}, "tls_certificate: no such file"),
        ({"COMMS_API_SECRET_FILE": "/dev/null"}, "secret_file: "),
        ({"NOTHING": ""}, "cannot listen on 256.0.0.1:1"),
    ],
)
def test_a_setting_that_cannot_work_stops_the_start_with_its_name(
    tmp_path: Path, environ: dict[str, str], message: str
) -> None:
    places = {"COMMS_API_DATA_DIR": str(tmp_path / "data"), "COMMS_API_CERTS_DIR": str(tmp_path / "certs")}
    binds = {"COMMS_API_AGENT_BIND": "127.0.0.1:0", "COMMS_API_MANAGEMENT_BIND": "127.0.0.1:0"}
    if "NOTHING" in environ:
        binds["COMMS_API_MANAGEMENT_BIND"] = "256.0.0.1:1"
    result = CliRunner().invoke(comms_api, ["serve"], env=places | binds | environ)
    assert isinstance(result.exception, ConfigurationError)
    assert message in str(result.exception)
    assert "secret@" not in str(result.exception)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's embedded PostgreSQL runs as another user")
def test_an_unknown_user_for_the_embedded_postgresql_is_named(tmp_path: Path) -> None:
    environ = {"COMMS_API_DATA_DIR": str(tmp_path), "COMMS_API_EMBEDDED_POSTGRES_USER": "no such user"}
    environ |= {"COMMS_API_AGENT_BIND": "127.0.0.1:0", "COMMS_API_MANAGEMENT_BIND": "127.0.0.1:0"}
    places = {"COMMS_API_CERTS_DIR": str(tmp_path), "COMMS_API_DATABASE_URL": None}
    result = CliRunner().invoke(comms_api, ["serve"], env=environ | places)
    assert isinstance(result.exception, ConfigurationError)
    assert "no such user" in str(result.exception)


@pytest.mark.parametrize("name", OLD_NAMES)
def test_an_old_name_is_refused_with_the_setting_to_use_instead(tmp_path: Path, name: str) -> None:
    path = tmp_path / "comms-api.toml"
    for line in (f"{name} = 1", f"[{name}]"):
        path.write_text(line)
        with pytest.raises(ConfigurationError) as refused:
            load_settings({}, path)
        assert refused.value.detail == f"{path}: {name}: no such setting; set {OLD_NAMES[name]} (see docs/migration.md)"


def test_an_old_name_in_the_environment_is_refused_likewise() -> None:
    with pytest.raises(ConfigurationError, match="COMMS_API_EXEC_PATH: no such setting; set key_request_program "):
        load_settings({"COMMS_API_EXEC_PATH": "/opt/agents.py"})
