"""`comms-api agents enroll` and `rotate-key`: the keys of agents."""

from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import click

from comms_api.cli.agents.naming import AGENT, path_of
from comms_api.cli.shared.connection import FILE
from comms_api.cli.shared.labels import read_labels
from comms_api.cli.shared.operation import Outcome, operation
from comms_api.cli.shared.output import JsonObject
from comms_api.cli.shared.secrets import keep_secret, secret_output_option
from comms_api.cli.shared.views import fields, sentence
from comms_api.cli.shared.waiting import wait_for, waiting_option
from comms_api.client.enroll import read_secret
from comms_api.management_client.client import IDEMPOTENCY_KEY, ManagementClient
from comms_api.protocol import ROTATE_KEY_ACTION

ROTATION_SECONDS = 3_600.0


@operation(None, "enroll", fields)
@click.argument("name")
@click.option(
    "--id", "agent_id", type=click.UUID, help="Id, a UUID of version 4 or 7; by default the server makes one."
)
@click.option("--group", "groups", multiple=True, help="Group to enroll in; may be repeated.")
@click.option("--label", "labels", multiple=True, metavar="KEY:VALUE", help="Label of the agent; may be repeated.")
@click.option("--key-file", type=FILE, help="File with the agent's key; by default the server makes one.")
@secret_output_option("key")
def enroll(
    api: ManagementClient, *, name: str, agent_id: UUID | None, key_file: Path | None, output: Path | None, **more: Any
) -> JsonObject:
    """Enroll an agent, and show its id and, this once, its new key."""
    key = read_secret("--key-file", key_file) if key_file else None
    body = {"name": name, "groups": more["groups"], "labels": read_labels(more["labels"])}
    body |= ({"id": str(agent_id)} if agent_id else {}) | ({"key": key} if key else {})
    return keep_secret(api.call(dict, "POST", "/agents", body), "key", output)


@operation(None, "rotate-key", sentence("{request_id} {orders} order(s)"))
@AGENT
@click.option("--compromised", is_flag=True, help="Replace the key now and revoke the tokens, without notice.")
@click.option("--key-file", type=FILE, help="With --compromised: file with the new key, instead of a generated one.")
@secret_output_option("key")
@waiting_option
def rotate_key(
    api: ManagementClient, *, agent: str, compromised: bool, is_waiting: bool, **files: Path | None
) -> Outcome:
    """Have an agent make a new key; or replace a key that strangers know."""
    if compromised:
        return _replace_key(api, agent, files["key_file"], files["output"])
    if any(files.values()):
        raise click.UsageError("--key-file and --key-output need --compromised: the agent makes its new key")
    command = {
        "source": "Users/Services",
        "target": {"type": "agent", "id": agent},
        "action": {"name": ROTATE_KEY_ACTION, "args": {}},
        "timeout": ROTATION_SECONDS,
    }
    answer = api.call(dict, "POST", "/commands", command, headers={IDEMPOTENCY_KEY: uuid4().hex})
    [submitted] = answer["commands"]
    return Outcome(submitted, then=partial(_wait, api, submitted["request_id"]) if is_waiting else None)


def _replace_key(api: ManagementClient, agent: str, key_file: Path | None, output: Path | None) -> Outcome:
    body = {"key": read_secret("--key-file", key_file)} if key_file else {}
    answer = api.call(dict, "POST", f"{path_of(agent)}/key", body)
    return Outcome(keep_secret(answer, "key", output), view=fields)


def _wait(api: ManagementClient, request_id: str) -> int:
    return wait_for(api, request_id).exit_code
