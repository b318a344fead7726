"""Every id and structure that crosses the wire between agents, operators and the server.

Shared by the server and the reference agent, so it imports neither. The contract itself is
described in `docs/protocol.md`.
"""

import re
from typing import Annotated, Literal
from uuid import UUID

import msgspec

from comms_api.text.printable import NO_DOTS, WITHOUT_NUL

Operation = Literal["create", "update", "delete"]
CommandSource = Literal["Users/Services", "Engine", "Content manager", "Content Manager"]
CONTENT_MANAGER: CommandSource = "Content manager"
"""Callers spell this source in both ways; the server stores this spelling."""

TargetType = Literal["agent", "group", "all", "server"]
OrderStatus = Literal["pending", "sent", "success", "failure", "cancelled"]

AGENT_ID_VERSIONS = frozenset({4, 7})
"""The UUID versions (RFC 9562) of agents' ids. Version 5 is for services."""

RESULT_SUCCESS = 0
RESULT_FAILURE = 1
RESULT_IN_PROGRESS = 2
RESULT_TIMEOUT = 3
RESULT_UNKNOWN = 4

DUPLICATE_ORDER_MESSAGE = "Agent's database failure"
"""The message that a real agent reports, with code 1, when the server offers it an order that it already holds."""

CANCEL_ACTION = "cancel"
"""Tells an agent to stop work: args `{"request_id"}` for a whole command, `{"order_id"}` for one order."""

FETCH_CONFIG_ACTION = "fetch-config"
"""Makes an agent fetch the files of its groups; no args."""

SET_GROUP_ACTION = "set-group"
"""Sets an agent's groups: args `{"groups":[…]}`. A real agent loses its configuration in a wrong group."""

ROTATE_KEY_ACTION = "rotate-key"
"""Makes an agent create its next key and submit it; no args."""

BATCH_SEQUENCE = "Batch-Sequence"
"""The header with the number of a stateful batch; in a refusal (409), the number of the newest applied batch."""

BATCH_SEQUENCE_MAXIMUM = 2**63 - 1

JSON_LINES = "application/x-ndjson"
"""The media type of lines of JSON."""

IDEMPOTENCY_KEY = "Idempotency-Key"
"""The header with the name of a batch: the server stores the batch once, however often the agent sends it."""

IDEMPOTENCY_KEY_LENGTH_MAXIMUM = 128

KEY_REUSED = 2721
"""The code of a refused batch (422) whose key the agent has used for another body."""

AGENT_INSTANCE = "Agent-Instance"
"""The header of a login with the nonce of the agent's process."""

IDENTITY_IN_USE = 2730
"""The code of a refused login (403) after which the agent takes a new identity and enrolls again."""

COMMAND_MODULE = "command"
"""The stateful module whose updates are results of orders, not states."""

Text = Annotated[str, msgspec.Meta(pattern=WITHOUT_NUL)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=WITHOUT_NUL)]
Label = Annotated[str, msgspec.Meta(max_length=256, pattern=WITHOUT_NUL)]
Labels = Annotated[dict[Name, Label], msgspec.Meta(max_length=64)]
GroupName = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=rf"\A{NO_DOTS}[A-Za-z0-9._-]+\Z")]


def kept_source(source: str) -> str:
    """Return a source in the spelling that the server stores."""
    return CONTENT_MANAGER if source.casefold() == CONTENT_MANAGER.casefold() else source


_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def contains_nul(json: bytes) -> bool:
    """Return whether a text in valid JSON contains NUL, which JSON can only express as an escape."""
    return _NUL.search(json) is not None


def no_data() -> msgspec.Raw:
    """Return `null` as raw JSON. msgspec cannot decode `Raw | None`, so missing data is `null`."""
    return msgspec.Raw(b"null")


def no_args() -> msgspec.Raw:
    """Return the JSON of no arguments."""
    return msgspec.Raw(b"{}")


class Credentials(msgspec.Struct, frozen=True):
    """The id and the key of an agent that logs in."""

    uuid: str
    key: str


class NextKey(msgspec.Struct, frozen=True):
    """The key that an agent has made for itself, the one it replaces, and the order that asked for it."""

    order_id: UUID
    current_key: str
    next_key: str


class Token(msgspec.Struct, frozen=True):
    """The answer to a login."""

    token: str


class OperatingSystem(msgspec.Struct, frozen=True, omit_defaults=True):
    """The operating system of an agent's host."""

    name: Text = ""
    type: Text = ""
    version: Text | None = None


class Host(msgspec.Struct, frozen=True, omit_defaults=True):
    """The machine an agent runs on."""

    hostname: Text = ""
    os: OperatingSystem = OperatingSystem()
    ip: tuple[Text, ...] = ()
    architecture: Text = ""


class AgentMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """The agent's description of itself in a batch; only `id` is checked, against the token."""

    id: str
    name: str = ""
    groups: tuple[str, ...] = ()
    type: str = ""
    version: str = ""
    host: Host | None = None


class MetadataLine(msgspec.Struct, frozen=True):
    """The first line of every batch."""

    agent: AgentMetadata


class StatelessHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sub-header line: it names the module of the event lines that follow it."""

    module: str
    collector: str = ""


class StatefulHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The line before a state's data line; a deletion has no data line."""

    id: str
    module: str
    operation: Operation
    collector: str = ""


class ItemResult(msgspec.Struct, frozen=True, gc=False):
    """The result of one item of a stateful batch; `index` counts from 0."""

    index: int
    id: str
    result: str
    status: int


class ItemResults(msgspec.Struct, frozen=True):
    """The answer to a stateful batch: one result per item, in order."""

    results: list[ItemResult]


class Target(msgspec.Struct, frozen=True):
    """The target of a command, as its agents see it."""

    id: str
    type: TargetType


class CancelArguments(msgspec.Struct, frozen=True, omit_defaults=True):
    """The args of a cancel order: the command to cancel, one order of it, or the nonce of a signed order."""

    request_id: UUID | None = None
    order_id: UUID | None = None
    nonce: str | None = None


class Action(msgspec.Struct, frozen=True):
    """The action that an agent performs; `args` is a JSON object or array, kept byte for byte."""

    name: Name
    args: msgspec.Raw = msgspec.field(default_factory=no_args)
    version: Annotated[str, msgspec.Meta(max_length=128, pattern=WITHOUT_NUL)] = ""


class Signed(msgspec.Struct, frozen=True):
    """An operator's signature of an order, each member in base64: the signed bytes, the signature and the public key.

    Real agents ignore it. An agent that trusts keys executes what the payload says, and nothing else.
    """

    payload: str
    signature: str
    key: str


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """One command for one agent; the agent reports its result under `document_id`."""

    document_id: str
    request_id: str
    order_id: str
    source: str
    user: str
    target: Target
    action: Action
    timeout: float
    status: str
    signed: Signed | None = None


class Orders(msgspec.Struct, frozen=True):
    """The answer to a long poll."""

    commands: list[Order]


class Result(msgspec.Struct, frozen=True):
    """The result of an order: 0 success, 1 failure, 2 in progress (does not end it), 3 timeout, 4 unknown."""

    code: int
    message: str | None = ""
    data: msgspec.Raw = msgspec.field(default_factory=no_data)


class Rejection(msgspec.Struct, frozen=True):
    """The `data` of a failure (code 1) of an order that the agent did not start, with the reason."""

    rejected: str


class OrderResult(msgspec.Struct, frozen=True):
    """One agent's report about one of its orders."""

    order_id: str
    result: Result


class OrderResults(msgspec.Struct, frozen=True):
    """A batch of reports."""

    results: list[OrderResult]


class RawOrderResults(msgspec.Struct, frozen=True):
    """A batch of reports, not yet decoded."""

    results: list[msgspec.Raw]


class ReportOutcome(msgspec.Struct, frozen=True):
    """The outcome of one report: `updated`, `noop`, or the reason for its refusal."""

    index: int
    order_id: str
    result: str
    status: int


class ReportOutcomes(msgspec.Struct, frozen=True):
    """The answer to a batch of reports: one outcome per report, in order."""

    results: list[ReportOutcome]


class ExpectedFile(msgspec.Struct, frozen=True):
    """A file of one of an agent's groups."""

    group: str
    name: str
    sha256: str


class ExpectedFiles(msgspec.Struct, frozen=True):
    """The files that an agent should have, in merge order; of several files with one name, the last one counts."""

    files: list[ExpectedFile]


class Enrollment(msgspec.Struct, frozen=True):
    """An agent's enrollment: its id is a UUID of version 4 or 7; without an id or a key, the server makes one."""

    name: Name
    key: Text | None = None
    id: UUID | None = None
    type: Text = ""
    version: Text = ""
    host: Host | None = None
    groups: tuple[GroupName, ...] = ()
    labels: Labels = {}


class EnrolledAgent(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to an enrollment; it has a key only if the server has made it, and only this once."""

    id: UUID
    name: str
    key: str | None = None
