"""Every option of every command, as a shell passes it. A new option needs a line in `LINES`."""

import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import Template
from typing import NamedTuple

import click
import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from support.batches import command, stateless
from support.nats import nats_servers, urls_of
from support.server import KEY, PASSWORD, Server, new_id

from comms_api.cli.main import comms_api
from comms_api.cli.signing import sign_for
from comms_api.protocol import Action


class Line(NamedTuple):
    """A command line with `$values`, a pattern of its output, and its exit code."""

    words: str
    output: str
    code: int | None = 0
    """None if it depends on the load of the machine."""

    is_stopped: bool = False
    """Whether SIGTERM ends it, sent after the output."""


OPERATOR = "--no-proxy --profile unused --url $management_url --ca $ca --user admin --password-file $password"
PROXIED = OPERATOR.replace("--no-proxy", "--proxy http://127.0.0.1:1")
ENDS_SOON = f"--agent $agent_id --action ping --timeout 1 {OPERATOR}"
PING = f"--agent $agent_id --action ping --timeout 60 {OPERATOR}"
AGENT = "agent --no-proxy --url $agent_url --ca $ca --data-dir $new/agent --wait-seconds 0 --once"


def outputs(words: str) -> list[Line]:
    """Return lines that print the result of a command in each form for programs."""
    return [
        Line(f"{words} --json", r"^\["),
        Line(f"{words} --ndjson", r"^(\{|$)"),
        Line(f"{words} --jq length", r"^\d+$"),
    ]


LINES = (
    Line("--version", r"^comms-api, version \d"),
    Line(
        "serve --config $serve_config --workers 1 --data-dir $new/data --agent-bind 127.0.0.1:0"
        " --management-bind 127.0.0.1:0",
        r"management API:  https://127\.0\.0\.1:\d+",
        is_stopped=True,
    ),
    Line(
        f"{AGENT} --management-url $management_url --name $name --group office --user admin"
        " --password-file $password --log-file $new/*.log --from-start --no-inventory --batch-seconds 1"
        " --spool-bytes 65536",
        r"",
    ),
    Line(
        f"{AGENT} --management-url $management_url --name $name --enrollment-token-file $token --inventory"
        " --scan-interval-seconds 60 --return-seconds 60",
        r"",
    ),
    Line(f"{AGENT} --id $agent_id --key-file $key --no-inventory", r""),
    Line("agent --srv _comms-api._tcp.invalid --ca $ca", r"^comms-api: no SRV records of _comms-api._tcp.invalid", 1),
    Line("agent --url $agent_url --management-url $management_url --proxy http://127.0.0.1:1", r"^comms-api: ", 1),
    Line(f"{AGENT} --id $agent_id --key-file $key --no-inventory --trust-key $public_key", r""),
    Line(f"commands send {PING} --args '{{}}' --priority 7 --start-at $later", r"1 order"),
    Line(f"commands send {ENDS_SOON} --idempotency-key $name --wait", r"1/1", 5),
    Line(f"commands send {PING} --percent 100 --failure-ratio 0.5", r"1 order"),
    Line(f"commands send {PING} --per-minute 60 --max-in-flight 3", r"1 order"),
    Line(f"commands send --service rbac --action reload {OPERATOR}", r"1 order"),
    Line(
        "commands send --group office --os * --version * --status never_connected --label floor:2 --action ping"
        f" --dry-run {OPERATOR}",
        r"no agent in the group 'office' that matches",
        1,
    ),
    Line(f"commands send --all --action ping --dry-run {OPERATOR}", r"would get it"),
    Line(f"commands send --all --offline skip --action ping {OPERATOR}", r"offline agent\(s\) skipped"),
    Line(
        "commands sign --agent $agent_id --action ping --args {} --key $private_key --valid-seconds 60"
        f" --valid-from $later --output $new/signed {OPERATOR}",
        r"signed for 1 agent",
    ),
    Line(f"commands send --signature $signature {OPERATOR}", r"1 order"),
    Line(f"commands send --group office --continuous-until $later --action ping {OPERATOR}", r"order"),
    Line(f"commands list --continuous {OPERATOR}", r"group office"),
    Line(f"commands list --action ping --target $agent_id {OPERATOR}", r"command"),
    Line(f"commands list --since 2020-01-01T00:00:00Z --until $later --order newest {OPERATOR}", r"ping"),
    Line(f"commands list {PROXIED}", r"^comms-api: ", 1),
    Line(f"commands show $open {OPERATOR}", r'"phase"'),
    Line(f"commands pause $open {OPERATOR}", r"1 order"),
    Line(f"commands resume $paused {OPERATOR}", r"the command is"),
    Line(f"commands cancel $open {OPERATOR}", r"1 order"),
    Line(f"commands show $open --watch {OPERATOR}", r'"phase"', -15, is_stopped=True),
    Line(f"commands list --limit 1 --json {OPERATOR}", r'"phase"'),
    Line(f"commands list --all --ndjson {OPERATOR}", r'^{"request_id"'),
    Line(f"commands list --jq length {OPERATOR}", r"^\d+$"),
    Line(f"commands wait $ended {OPERATOR}", r"1/1", 6),
    Line(f"commands results $ended --format ndjson --output $new/results {OPERATOR}", r"^$"),
    Line(f"commands retry $short --cancelled --wait {OPERATOR}", r"1/1", 5),
    Line(f"login {OPERATOR} --fingerprint 00", r"^logged in at https://"),
    Line(f"login {OPERATOR} --json", r'"profile": "unused"'),
    Line(f"login {OPERATOR} --ndjson", r'^{"profile":"unused"'),
    Line(f"login {OPERATOR} --jq .user", r"^admin$"),
    Line(f"login {PROXIED}", r"^comms-api: ", 1),
    Line(f"whoami {OPERATOR}", r"^role +administrator$"),
    Line(f"whoami {OPERATOR} --json", r'"role": "administrator"'),
    Line(f"whoami {OPERATOR} --ndjson", r'"role":"administrator"'),
    Line(f"whoami {OPERATOR} --jq .name", r"^admin$"),
    Line(f"whoami {PROXIED}", r"^comms-api: ", 1),
    Line("profiles list --json", r'"profile"'),
    Line("profiles list --ndjson", r'"profile"'),
    Line("profiles list --jq length", r"^\d+$"),
    Line("logout --profile nobody --proxy http://127.0.0.1:1", r"^comms-api: there is no profile 'nobody'", 1),
    Line("logout --profile nobody --no-proxy --local", r"^comms-api: there is no profile 'nobody'", 1),
    Line("logout --profile nobody --json", r"^comms-api: ", 1),
    Line("logout --profile nobody --ndjson", r"^comms-api: ", 1),
    Line("logout --profile nobody --jq .", r"^comms-api: ", 1),
    *outputs(f"agents list {OPERATOR}"),
    Line(f"agents list {PROXIED}", r"^comms-api: ", 1),
    Line(
        "agents list --name o* --group office --status active --os * --version * --label a:b --node $node --hidden"
        f" --clones proved --limit 5 --all {OPERATOR}",
        r"^name +id",
    ),
    Line(f"agents list --in-sync {OPERATOR}", r"never_connected"),
    Line(f"agents list --not-in-sync {OPERATOR}", r"^name +id"),
    Line(f"agents list --watch {OPERATOR}", r"never_connected", -15, is_stopped=True),
    Line(f"agents show $agent_id {OPERATOR}", r"^id +[0-9a-f-]{36}$"),
    Line(f"agents why $agent_id {OPERATOR}", r"^- it has never connected$"),
    Line(f"agents block $agent_id {OPERATOR}", r"is blocked"),
    Line(f"agents unblock $agent_id {OPERATOR}", r"may log in again"),
    Line(f"agents label $agent_id floor:2 {OPERATOR}", r"^floor +2$"),
    Line(f"agents label $agent_id --remove floor {OPERATOR}", r"^$"),
    Line(f"agents label $agent_id nonsense {OPERATOR}", r"does not have the form KEY:VALUE", 2),
    Line(
        "agents enroll $name --id 0198a000-0000-7000-8000-000000000001 --group office --label floor:2 --key-file $key"
        f" {OPERATOR}",
        r"^id +0198a000",
    ),
    Line(f"agents enroll $name --key-output $new/made {OPERATOR}", r"^key_file +/"),
    Line(f"agents rotate-key $agent_id {OPERATOR}", r"1 order"),
    Line(f"agents rotate-key $gone_id --wait {OPERATOR}", r"^comms-api: ", 1),
    Line(f"agents rotate-key $agent_id --compromised {OPERATOR}", r"^key +\S{32}"),
    Line(f"agents rotate-key $agent_id --compromised --key-file $key --key-output $new/made {OPERATOR}", r"^id"),
    Line(f"agents delete $agent_id --yes {OPERATOR}", r"is deleted"),
    Line(f"agents delete $agent_id {OPERATOR}", r"^Delete the agent\?", 1),
    *outputs(f"groups list {OPERATOR}"),
    Line(f"groups list {PROXIED}", r"^comms-api: ", 1),
    Line(f"groups list --limit 1 {OPERATOR}", r"^name +precedence"),
    Line(f"groups list --all {OPERATOR}", r"^office"),
    Line(f"groups list --watch {OPERATOR}", r"^office", -15, is_stopped=True),
    Line(f"groups create $name --precedence 5 {OPERATOR}", r"is created"),
    Line(f"groups change office --precedence 0 {OPERATOR}", r"has the precedence 0"),
    Line(f"groups add office $agent_id {OPERATOR}", r"^1 agent\(s\) added to office"),
    Line(f"groups remove office $agent_id {OPERATOR}", r"^comms-api: .* is not a member", 1),
    Line(f"groups delete nowhere --yes {OPERATOR}", r"^comms-api: ", 1),
    *outputs(f"tokens list {OPERATOR}"),
    Line(f"tokens list {PROXIED}", r"^comms-api: ", 1),
    Line(f"tokens list --limit 1 --all {OPERATOR}", r"unlimited"),
    Line(f"tokens create --group office --uses 1 --expires-in 60 --description x {OPERATOR}", r"^token +\S+$"),
    Line(f"tokens create --token-output $new/made {OPERATOR}", r"^token_file +/"),
    Line(f"tokens revoke $token_id {OPERATOR}", r"is revoked"),
    *outputs(f"orders list {OPERATOR}"),
    Line(f"orders list {PROXIED}", r"^comms-api: ", 1),
    Line(
        "orders list --agent $agent_id --command $open --status pending --action ping --target $agent_id"
        " --submitter admin --source Users/Services --since 2020-01-01T00:00:00Z --until $later --order oldest"
        f" {OPERATOR}",
        r" ping +pending",
    ),
    Line(f"orders list --outcome cancelled --code 7 --limit 5 --all {OPERATOR}", r"^order +created"),
    Line(f"orders list --watch {OPERATOR}", r" ping ", -15, is_stopped=True),
    Line(f"orders show $order {OPERATOR}", r"^status +pending"),
    Line(f"orders cancel $order {OPERATOR}", r"is cancelled$"),
    *outputs(f"actions list {OPERATOR}"),
    Line(f"actions list {PROXIED}", r"^comms-api: ", 1),
    Line(f"actions show restart {OPERATOR}", r"^restart"),
    Line(
        f"actions register $name --schema $schema --recipients any --version 1 --signer {'A' * 43}= {OPERATOR}",
        r"is registered for any",
    ),
    Line(f"actions delete nothing --version 1 {OPERATOR}", r"^comms-api: ", 1),
    *outputs(f"states list {OPERATOR}"),
    Line(f"states list --agent $agent_id --module fim --limit 1 --all {OPERATOR}", r"^agent"),
    Line(f"states list --watch {OPERATOR}", r"^agent", -15, is_stopped=True),
    Line(f"states list {PROXIED}", r"^comms-api: ", 1),
    *outputs(f"quarantine list {OPERATOR}"),
    Line(
        "quarantine list --agent $agent_id --since 2020-01-01T00:00:00Z --until $later --order oldest --limit 1 --all"
        f" {OPERATOR}",
        r"^received",
    ),
    Line(f"quarantine list --watch {OPERATOR}", r"^received", -15, is_stopped=True),
    Line(f"quarantine list {PROXIED}", r"^comms-api: ", 1),
    *outputs(f"audit list {OPERATOR}"),
    Line(
        "audit list --actor admin --subject agents --key $agent_id --since 2020-01-01T00:00:00Z --until $later"
        f" --order oldest --limit 1 --all {OPERATOR}",
        r"admin +insert +agents",
    ),
    Line(f"audit list --watch {OPERATOR}", r"^at ", -15, is_stopped=True),
    Line(f"audit list {PROXIED}", r"^comms-api: ", 1),
    Line(f"audit export --since 2020-01-01T00:00:00Z --until $later --output $new/audit {OPERATOR}", r"^$"),
    *outputs(f"users list {OPERATOR}"),
    Line(f"users list {PROXIED}", r"^comms-api: ", 1),
    Line(f"users list --limit 1 --all {OPERATOR}", r"^admin +administrator"),
    Line(f"users create $name --role reader --new-password-file $password {OPERATOR}", r"with the role reader"),
    Line(f"users change somebody --role reader --new-password-file $password {OPERATOR}", r"is changed"),
    Line(f"users delete nobody --yes {OPERATOR}", r"^comms-api: ", 1),
    Line(f"users password --old-password-file $key --new-password-file $password {OPERATOR}", r"^comms-api: ", 1),
    Line(f"files list office {OPERATOR}", r"^office.yml"),
    Line(f"files get office office.yml --version 1 {OPERATOR}", r"^a: 1$"),
    Line(f"files get office office.yml --output $new/file {OPERATOR}", r"^$"),
    Line(f"files delete office nothing --yes {OPERATOR}", r"^comms-api: ", 1),
    Line(f"cluster nodes --json {OPERATOR}", r'"node-'),
    Line(f"cluster nodes --ndjson {OPERATOR}", r'"name":"node-'),
    Line(f"cluster nodes --jq .[].name {OPERATOR}", r"^node-"),
    Line(f"cluster nodes --watch {OPERATOR}", r"node-", -15, is_stopped=True),
    Line(f"cluster agents --node $node --json {OPERATOR}", r"^\["),
    Line(f"cluster agents --clones {OPERATOR}", r"cloned_at"),
    Line(f"cluster health --json {OPERATOR}", r"is_healthy", None),
    Line(f"cluster files --json {OPERATOR}", r"is_same"),
    Line(f"cluster drain $node --wait --json {OPERATOR}", r"draining"),
    Line(f"cluster resume $node --json {OPERATOR}", r"active"),
    Line(f"cluster forget nowhere --json {OPERATOR}", r"^comms-api: .*nowhere", 1),
    Line(f"cluster nodes {PROXIED}", r"^comms-api: ", 1),
    Line(f"cluster rebalance --json {OPERATOR}", r"^\["),
    Line(
        f"fleet events --kind enrolled --agent $agent_id --since 2020-01-01T00:00:00Z --last 5 --json {OPERATOR}", r""
    ),
    Line(f"fleet events --node $node --follow {OPERATOR}", r"node_joined", -15, is_stopped=True),
    Line(f"fleet events {PROXIED}", r"^comms-api: ", 1),
    Line(f"fleet events --ndjson {OPERATOR}", r'"kind":'),
    Line(f"fleet events --jq .kind {OPERATOR}", r"^enrolled$"),
    Line(f"files drift --json {OPERATOR}", r'"in_sync"'),
    Line(f"files drift --ndjson {OPERATOR}", r'"in_sync":'),
    Line(f"files drift --jq .[0].group {OPERATOR}", r"^office$"),
    Line(f"files drift --watch {OPERATOR}", r"office", -15, is_stopped=True),
    Line(f"files drift office --status in_sync {OPERATOR}", r"agent_id"),
    Line(f"files push --agent $agent_id {OPERATOR}", r"^1 agent"),
    Line(f"files push --group office {OPERATOR}", r"agent"),
    Line(f"files push --node $node {OPERATOR}", r"agent"),
    Line(f"files versions office office.yml --json {OPERATOR}", r'"version": 2'),
    Line(f"files diff office office.yml --old 1 --new 2 {OPERATOR}", r"^\+a: 2$"),
    Line(f"files rollback office office.yml 2 {OPERATOR}", r"^version 2 is current$"),
    Line(f"files put office new.txt $password --percent 10 {OPERATOR}", r"^version \d+ is staged for 10 %$"),
    Line(f"files rollback office returned.yml 1 --percent 50 {OPERATOR}", r"^version 3 is staged for 50 %$"),
    Line(f"files stage office shown.yml --percent 20 --json {OPERATOR}", r'"percent": 20'),
    Line(f"files drift office --staged shown.yml {OPERATOR}", r"agent_id"),
    Line(f"files promote office promoted.yml {OPERATOR}", r"^version 2 is current$"),
    Line(f"files abort office aborted.yml {OPERATOR}", r"^no version is staged$"),
    Line(f"files drift {PROXIED}", r"^comms-api: ", 1),
    Line(f"webhooks add $name https://hooks.invalid/ --kind enrolled --json {OPERATOR}", r'"secret": "whsec_'),
    Line(f"webhooks list --json --watch {OPERATOR}", r"hooks\.invalid", -15, is_stopped=True),
    Line(f"webhooks list --ndjson {OPERATOR}", r'"name":"webhook"'),
    Line(f"webhooks list --jq .[].name {OPERATOR}", r"^webhook$"),
    Line(f"webhooks test webhook {OPERATOR}", r"^is_accepted +no", 1),
    Line(f"webhooks dead-letters webhook --limit 1 --all {OPERATOR}", r"last_error"),
    Line(f"webhooks retry webhook --delivery 00000000-0000-7000-8000-000000000000 {OPERATOR}", r"no dead letter", 1),
    Line(f"webhooks retry webhook {OPERATOR}", r"^0 dead letter"),
    Line(f"webhooks delete nowhere {OPERATOR}", r"no webhook 'nowhere'", 1),
    Line(f"webhooks list {PROXIED}", r"^comms-api: ", 1),
    Line("users reset-password somebody --config $reset_config --password-file $password", r"^somebody has a new"),
    Line("users reset-password somebody --config $reset_config --data-dir $new", r"is in .*/somebody\.password"),
    Line("doctor --config $reset_config --data-dir $new --url $agent_url --ca $ca", r"^✓ schema +revision", 1),
    Line("doctor --config $reset_config --json", r'"check": "schema"', 1),
    Line("doctor --config $reset_config --ndjson", r'"check":"schema"', 1),
    Line("doctor --config $reset_config --jq length", r"^\d+$", 1),
    Line("migrate --check --config $reset_config", r"^the schema is current"),
    Line("migrate --sql --config $reset_config --data-dir $new", r"^BEGIN;\n"),
    Line("migrate --to head --config $reset_config", r"^the schema is at revision head"),
    Line("backup $new/backup --config $reset_config --data-dir $data_dir", r"MB, verified: comms-api \d"),
    Line("restore $backup --check", r"^backup of .* UTC, verified$"),
    Line("restore $backup --settings", r"^database_url = "),
    Line("restore $backup --config $reset_config --data-dir $new", r"^comms-api: \d+ session\(s\) of nodes use", 1),
    Line("restore $backup --replace --config $reset_config", r"^comms-api: \d+ session\(s\) of nodes use", 1),
    Line(
        "events list --agent $agent_id --group office --module logcollector --collector file --contains x"
        f" --since 2020-01-01T00:00:00Z --until $later --order oldest --limit 5 {OPERATOR}",
        r"^received",
    ),
    Line(f"events list --all --ndjson --contains shown {OPERATOR}", r"^{.*shown by its id"),
    Line(f"events list --jq .[].module --contains shown {OPERATOR}", r"^logcollector$"),
    Line(f"events list --watch --contains shown {OPERATOR}", r"shown by its id", -15, is_stopped=True),
    Line(f"events show $event {OPERATOR}", r"^event +.*shown by its id"),
    Line(f"events show $agent_id {OPERATOR}", r"^comms-api: There is no event", 1),
    Line(f"events export --contains shown --after $agent_id --output $new/events {OPERATOR}", r"^$"),
    Line(f"events tail --last 5 --contains shown --json {OPERATOR}", r"^{.*shown by its id"),
    Line(f"events tail --follow {OPERATOR}", r"logcollector/file .*shown by its id", -15, is_stopped=True),
    Line(f"events tail {PROXIED}", r"^comms-api: ", 1),
    Line("events relay --config $relay_config --to stdout --consumer $name --once", r""),
    Line("demo --keep", r"kept: .*comms-api-demo-"),
)

STAGED = ("shown", "promoted", "aborted")
"""Files with a staged version."""

Values = Mapping[str, object]


@pytest.fixture(scope="module")
def relay_config(folder: Path) -> Iterator[Path]:
    """The settings of a relay whose stream is empty."""
    with nats_servers(folder / "nats", 1) as servers:
        file = folder / "relay.toml"
        file.write_text(
            f'events_sink = "jetstream"\nnats_servers = ["{urls_of(servers)}"]\nnats_replicas = 1\n'
            "nats_stream_bytes = 67108864\n"
        )
        yield file


@pytest.fixture(scope="module")
def serve_config(folder: Path) -> Path:
    """The settings of a node with its own database."""
    file = folder / "serve.toml"
    file.write_text(f'certs_dir = "{folder}/other-certs"\nadmin_password_file = "{folder}/password"\n')
    return file


@pytest.fixture(scope="module")
def reset_config(folder: Path, database_url: str) -> Path:
    """The settings of the node that runs."""
    file = folder / "reset.toml"
    file.write_text(f'database_url = "{database_url}"\n')
    return file


@pytest.fixture(scope="module")
def backup(server: Server, reset_config: Path) -> Path:
    """A backup of the node that runs."""
    file = server.folder / "backup"
    command = [sys.executable, "-m", "comms_api", "backup", str(file), "--config", str(reset_config)]
    subprocess.run([*command, "--data-dir", str(server.folder / "data")], cwd=server.folder, check=True)
    return file


@pytest.fixture(scope="module")
def configs(relay_config: Path, serve_config: Path, reset_config: Path, backup: Path) -> Values:
    return {
        "relay_config": relay_config,
        "serve_config": serve_config,
        "reset_config": reset_config,
        "backup": backup,
        "data_dir": backup.parent / "data",
    }


@pytest.fixture(scope="module")
def fixed_values(server: Server, management: httpx.Client, configs: Values) -> Values:
    server.user(management, "somebody", "reader")
    management.post("/groups", json={"name": "office"}).raise_for_status()
    hook = {"name": "webhook", "url": "https://hooks.invalid/", "kinds": ["node_lost"]}
    management.post("/webhooks", json=hook).raise_for_status()
    for name, last in (("office", ""), ("returned", ""), *((name, "?percent=10") for name in STAGED)):
        for number, query in ((1, ""), (2, last)):
            path = f"/groups/office/files/{name}.yml{query}"
            management.put(path, content=f"a: {number}\n").raise_for_status()
    token = management.post("/enrollment-tokens", json={"groups": [], "expires_in": 3600}).json()["token"]
    token_id = management.get("/enrollment-tokens").json()["items"][0]["id"]
    (server.folder / "schema").write_text('{"type":"object"}')
    secrets = {"token": token, "key": KEY, "password": PASSWORD}
    for name, secret in secrets.items():
        (server.folder / name).write_text(secret)
    agent_id = server.enroll(management, "sends an event")
    batch = stateless(agent_id, {"text": "shown by its id"})
    server.log_in(agent_id).post("/events/stateless", content=batch).raise_for_status()
    event = management.get("/events", params={"agent_id": str(agent_id)}).json()["items"][0]["id"]
    return {
        "event": event,
        "agent_url": server.agent_url,
        "management_url": server.management_url,
        "ca": server.folder / "certs" / "ca.pem",
        "token_id": token_id,
        "schema": server.folder / "schema",
        "gone_id": new_id(),
        "node": management.get("/nodes").json()[0]["name"],
        **configs,
        **{name: server.folder / name for name in secrets},
    }


_NUMBERS = itertools.count()


@pytest.fixture
def values(server: Server, management: httpx.Client, fixed_values: Values) -> Values:
    """The `$values` of a line: an agent, a command in each state and a separate folder."""
    name = f"option-{next(_NUMBERS)}"
    new = server.folder / name
    new.mkdir(mode=0o755)
    agent_id = server.enroll(management, f"{name}-other")

    def submitted(then: str | None = None, timeout: float = 600.0) -> str:
        body = command(agent_id, action="ping", timeout=timeout)
        request_id: str = management.post("/commands", json=body).json()["commands"][0]["request_id"]
        if then:
            management.post(f"/commands/{request_id}/{then}").raise_for_status()
        return request_id

    requests = {
        "open": submitted(),
        "paused": submitted("pause"),
        "ended": submitted("cancel"),
        "short": submitted("cancel", timeout=1.0),
    }
    [order] = management.get("/orders", params={"request_id": requests["open"]}).json()["items"]
    requests["order"] = order["order_id"]
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    key = Ed25519PrivateKey.generate()
    files = {
        "private_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "public_key": key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    }
    for file, content in files.items():
        (new / file).write_bytes(content)
    signed = sign_for([agent_id], Action("ping"), new / "private_key", None, timedelta(hours=1))
    (new / "signature").write_bytes(msgspec.json.encode(signed))
    requests |= {file: str(new / file) for file in (*files, "signature")}
    return {**fixed_values, **requests, "name": name, "new": new, "agent_id": agent_id, "later": later}


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.words.partition(" --")[0])
def test_a_command_line_does_what_it_says(line: Line, values: Values, tmp_path: Path) -> None:
    words = [Template(word).substitute(values) for word in shlex.split(line.words)]
    program = [sys.executable, "-m", "comms_api", *words]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COMMS_")}
    environment = clean | {"TMPDIR": str(values["new"]), "COMMS_API_NODE_NAME": str(values["name"])}
    output: list[str] = []
    with subprocess.Popen(
        program, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for text in process.stdout:
            output.append(text)
            if line.is_stopped and re.search(line.output, text):
                process.send_signal(signal.SIGTERM)
    shown = "".join(output)
    assert line.code in {None, process.returncode}, shown
    assert re.search(line.output, shown, re.MULTILINE), shown
    assert "Traceback" not in shown


def _commands(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _commands(child, *path, name)


def _options(group: str, command: click.Command) -> dict[str, tuple[str, str | None]]:
    """Return each spelling of the options and its option: commands of a group share equal spellings with equal help."""
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    pairs = [(name, option.help) for option in options for name in (*option.opts, *option.secondary_opts)]
    return {name: (f"{group} {name}", help_text) for name, help_text in pairs if name.startswith("--")}


def _passed(path: tuple[str, ...], command: click.Command) -> set[str]:
    """Return the options that the lines pass to a command; the subcommand takes most options after a group's name."""
    lines = [line.words.split() for line in LINES]
    found = [words[len(path) :] for words in lines if tuple(words[: len(path)]) == path]
    if isinstance(command, click.Group):
        found = [list(itertools.takewhile(lambda word: word.startswith("--"), words)) for words in found]
    return {word for words in found for word in words}


def test_every_option_has_its_line() -> None:
    every = [(path, command, _options(path[0] if path else "", command)) for path, command in _commands(comms_api)]
    passed = {options[name] for path, command, options in every for name in options.keys() & _passed(path, command)}
    for path, _, options in every:
        missing = [name for name, option in options.items() if option not in passed]
        assert not missing, f"add a line to LINES that passes {missing} to `comms-api {' '.join(path)}`"
