"""Read submitted commands, naming the command and the field of every fault."""

import msgspec

from comms_api.agents.model import AgentFilter
from comms_api.agents.naming import read_id
from comms_api.commands.model import ARGS_BYTES_MAXIMUM, NewCommand
from comms_api.errors import Invalid, Malformed
from comms_api.orders.model import CommandTarget
from comms_api.protocol import SET_GROUP_ACTION, Signed, contains_nul
from comms_api.signatures import SIGNED_COMMANDS_MAXIMUM, BadSignature, verify
from comms_api.text.faults import complete_fault, describe_fault, read_json

COMMANDS_MAXIMUM = 1_000
CONTINUOUS_DAYS_MAXIMUM = 366
DAY_SECONDS = 86_400
REQUIRED = ("source", "target", "action", "timeout")

_ANY = msgspec.json.Decoder(msgspec.Raw)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_COMMAND = msgspec.json.Decoder(NewCommand)
_SIGNED = msgspec.json.Decoder(Signed)


class Caller(msgspec.Struct, frozen=True):
    """The submitting user, and the time (seconds since 1970); a trusted caller, a service, may submit for others."""

    name: str
    is_trusted: bool
    now: float


def read_commands(body: bytes, caller: Caller, timeout_maximum_seconds: float) -> list[NewCommand]:
    """Return the commands of one object, an array, or `{"commands": […]}`; one invalid command refuses all of them.

    Raises `Malformed` for a body that is not JSON or has no command, and `Invalid` for a fault in a command.
    """
    raws = _split(body)
    if not raws:
        raise Malformed("The request has no commands.")
    if len(raws) > COMMANDS_MAXIMUM:
        raise Invalid(f"commands: more than {COMMANDS_MAXIMUM} in one request")
    submitted: list[NewCommand] = []
    signed = 0
    for index, raw in enumerate(raws):
        submitted.append(_read_command(index, raw, caller, timeout_maximum_seconds))
        signed += submitted[-1].signed is not None
        if signed > SIGNED_COMMANDS_MAXIMUM:
            raise Invalid(f"commands: at most {SIGNED_COMMANDS_MAXIMUM} of a request may be signed")
    return submitted


def _split(body: bytes) -> list[msgspec.Raw]:
    if not body.strip():
        raise Malformed("The request body is empty.")
    document = bytes(read_json(body, _ANY, "a command or a list of commands"))
    try:
        if document.startswith(b"["):
            return _LIST.decode(document)
        commands = _MEMBERS.decode(document).get("commands")
        return [msgspec.Raw(document)] if commands is None else _LIST.decode(commands)
    except (msgspec.DecodeError, RecursionError) as error:
        fault = describe_fault(error, document, msgspec.Raw)
        raise Malformed(f"Expected a command or a list of commands: {fault}") from None


def _read_command(index: int, raw: msgspec.Raw, caller: Caller, timeout_maximum_seconds: float) -> NewCommand:
    where = f"commands[{index}]"
    try:
        members = _MEMBERS.decode(raw)
        if "signed" in members:
            members = _with_payload(where, members, caller.now)
            raw = msgspec.Raw(msgspec.json.encode(members))
        if missing := [name for name in REQUIRED if name not in members]:
            raise Invalid(f"{where}: Missing arguments: [{', '.join(missing)}]")
        command = _COMMAND.decode(raw)
    except msgspec.DecodeError as error:
        sentence, _, path = str(error).partition(" - at `$")
        path = path.removesuffix("`")
        raise Invalid(f"{where}{path}: {complete_fault(sentence, NewCommand, path)}") from None
    if command.timeout > timeout_maximum_seconds:
        raise Invalid(f"{where}.timeout: more than {timeout_maximum_seconds:g} seconds")
    if command.start_at is not None and abs(command.start_at.timestamp() - caller.now) > timeout_maximum_seconds:
        raise Invalid(f"{where}.start_at: more than {timeout_maximum_seconds:g} seconds from now")
    if command.user not in {None, caller.name} and not caller.is_trusted:
        raise Invalid(f"{where}.user: must be {caller.name!r}, the user who submits it")
    _check_target(where, command.target)
    if command.offline == "skip" and command.target.type == "server":
        raise Invalid(f"{where}.offline: only agents can be skipped, not services")
    _check_action(where, command)
    _check_continuity(where, command, caller.now)
    return command


def _with_payload(where: str, members: dict[str, msgspec.Raw], now: float) -> dict[str, msgspec.Raw]:
    """Return the members of a signed command, with target and action from its payload.

    An order that an agent got too early would be rejected, so by default the orders start when the payload is valid.
    """
    if unsigned := sorted(members.keys() & {"target", "action", "continuous", "until"}):
        raise Invalid(f"{where}.{unsigned[0]}: a signed command takes its target and action from its payload")
    try:
        payload = verify(_SIGNED.decode(members["signed"]))
    except msgspec.DecodeError as error:
        raise Invalid(f'{where}.signed: expected {{"payload", "signature", "key"}}: {error}') from None
    except BadSignature as error:
        raise Invalid(f"{where}.signed: {error}") from None
    if payload.not_after.timestamp() <= now:
        raise Invalid(f"{where}.signed: expired at {payload.not_after.isoformat()}; sign it again")
    target = CommandTarget("agent", [str(agent_id) for agent_id in payload.agents])
    derived: dict[str, object] = {"target": target, "action": payload.action}
    if payload.not_before.timestamp() > now and "start_at" not in members:
        derived["start_at"] = payload.not_before
    return members | {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in derived.items()}


def _check_target(where: str, target: CommandTarget) -> None:
    if target.type == "server" and (target.filter or len(target.ids) != 1):
        raise Invalid(f"{where}.target: the type 'server' needs exactly one id and no filter")
    if target.type == "all" and target.id:
        raise Invalid(f"{where}.target.id: not allowed with the type 'all'; use a filter to select agents")
    if target.type == "selection" and (len(target.ids) != 1 or read_id(target.ids[0]) is None):
        raise Invalid(f"{where}.target.id: the type 'selection' needs the id of one selection")


def _check_continuity(where: str, command: NewCommand, now: float) -> None:
    if not command.continuous and command.until is None:
        return
    if command.until is None or not command.continuous:
        raise Invalid(f"{where}.until: set both `continuous` and `until`, the time when the command ends, or neither")
    if not 0 < command.until.timestamp() - now <= CONTINUOUS_DAYS_MAXIMUM * DAY_SECONDS:
        raise Invalid(f"{where}.until: must be in the next {CONTINUOUS_DAYS_MAXIMUM} days")
    agent_filter = command.target.filter or AgentFilter()
    unwatched = {"status": agent_filter.status, "node": agent_filter.node, "in_sync": agent_filter.in_sync}
    if names := [name for name, value in unwatched.items() if value is not None]:
        raise Invalid(
            f"{where}.target.filter.{names[0]}: a continuous command does not follow its changes; leave it out"
        )
    refused = {
        "target.type": command.target.type in {"server", "selection"},
        "rollout": command.rollout is not None,
        "offline": command.offline == "skip",
        "action.name": command.action.name == SET_GROUP_ACTION,
    }
    if fields := [field for field, is_refused in refused.items() if is_refused]:
        raise Invalid(f"{where}.{fields[0]}: not possible for a continuous command")


def _check_action(where: str, command: NewCommand) -> None:
    args = bytes(command.action.args)
    if len(args) > ARGS_BYTES_MAXIMUM:
        raise Invalid(f"{where}.action.args: larger than {ARGS_BYTES_MAXIMUM} bytes")
    if args[:1] not in {b"{", b"["}:
        raise Invalid(f"{where}.action.args: expected an object or an array")
    if contains_nul(args):
        raise Invalid(f"{where}.action.args: must not contain NUL")
