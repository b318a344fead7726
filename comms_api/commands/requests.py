"""Read submitted commands, naming the command and the field of every fault."""

import msgspec

from comms_api.commands.actions import check_arguments
from comms_api.commands.model import ARGS_BYTES_MAXIMUM, NewCommand
from comms_api.errors import Invalid, Malformed
from comms_api.http.bodies import read_json

COMMANDS_MAXIMUM = 1_000
REQUIRED = ("source", "target", "action", "timeout")

_ANY = msgspec.json.Decoder(msgspec.Raw)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_COMMAND = msgspec.json.Decoder(NewCommand)


def read_commands(body: bytes, timeout_maximum_seconds: float) -> list[NewCommand]:
    """Return the commands of one object, an array, or `{"commands": […]}`; all are good, or none is taken.

    Raises `Malformed` for what is no JSON or holds no command, `Invalid` for a fault in a command.
    """
    commands = [_read_command(index, raw, timeout_maximum_seconds) for index, raw in enumerate(_split(body))]
    if not commands:
        raise Malformed("The request has no commands.")
    if len(commands) > COMMANDS_MAXIMUM:
        raise Invalid(f"commands: more than {COMMANDS_MAXIMUM} in one request")
    return commands


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
        raise Malformed(f"Expected a command or a list of commands: {error}") from None


def _read_command(index: int, raw: msgspec.Raw, timeout_maximum_seconds: float) -> NewCommand:
    try:
        _check_members(index, raw)
        command = _COMMAND.decode(raw)
    except msgspec.DecodeError as error:
        raise _invalid(f"commands[{index}]", error) from None
    if command.timeout > timeout_maximum_seconds:
        raise Invalid(f"commands[{index}].timeout: more than {timeout_maximum_seconds:g} seconds")
    _check_action(index, command)
    if "\0" in command.target.id:
        raise Invalid(f"commands[{index}].target.id: contains NUL")
    try:
        return msgspec.structs.replace(command, action=check_arguments(command.action))
    except msgspec.DecodeError as error:
        raise _invalid(f"commands[{index}].action.args", error) from None


def _check_members(index: int, raw: msgspec.Raw) -> None:
    members = _MEMBERS.decode(raw)
    if missing := [name for name in REQUIRED if name not in members]:
        raise Invalid(f"commands[{index}]: Missing arguments: [{', '.join(missing)}]")


def _invalid(where: str, error: msgspec.DecodeError) -> Invalid:
    sentence, _, path = str(error).partition(" - at `$")
    return Invalid(f"{where}{path.rstrip('`')}: {sentence}")


def _check_action(index: int, command: NewCommand) -> None:
    args = bytes(command.action.args)
    if len(args) > ARGS_BYTES_MAXIMUM:
        raise Invalid(f"commands[{index}].action.args: larger than {ARGS_BYTES_MAXIMUM} bytes")
    if args[:1] not in {b"{", b"["}:
        raise Invalid(f"commands[{index}].action.args: expected an object or an array")
    if "\0" in command.action.name + command.action.version + (command.user or ""):
        raise Invalid(f"commands[{index}]: a name contains NUL")
