"""Commands that operators compose: the fields of the form, and the command that they describe."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec

from comms_api.agents.model import AgentFilter, AgentStatus
from comms_api.commands.model import Command, Offline
from comms_api.commands.rollout import Rollout
from comms_api.commands.submission.admission import NOTHING_SUBMITTED
from comms_api.console.faults import Fault, fault_of
from comms_api.console.queries import Moment, Words, read_labels
from comms_api.console.schema_forms import path_of
from comms_api.errors import Invalid, Malformed
from comms_api.orders.model import CommandTargetType

BYTES_MAXIMUM = 256 * 1024
"""The maximum size of the form: about 6,000 ids of agents."""

OTHER_ACTION = "."
"""Chosen instead of a registered action; no action has this name."""

Unit = Literal["seconds", "minutes", "hours", "days"]
UNIT_SECONDS: dict[Unit, int] = {"days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}
LongText = Annotated[str, msgspec.Meta(max_length=BYTES_MAXIMUM)]

_SAME_NAMES = ("timeout", "priority", "start_at", "offline", "continuous", "until")
_FILTERS = ("name", "group", "status", "os", "version", "in_sync", "node")
_LIMITS = ("percent", "per_minute", "max_in_flight", "failures_after")
_FIELDS = {
    **{name: (name, name) for name in _SAME_NAMES},
    **{f"target.filter.{name}": (f"filter_{name}", name) for name in _FILTERS},
    **{f"rollout.{name}": (name, name) for name in _LIMITS},
    "rollout.failure_ratio": ("failure_percent", "share of failures"),
    "label": ("filter_label", "labels"),
    "target.filter.labels": ("filter_label", "labels"),
    "action.args": ("args", "arguments"),
    "action.version": ("version", "version"),
}
"""The name of the form's field, and the name that people see, for each path in the API's errors."""

_RECIPIENT_FIELDS = {"agent": "agents", "group": "groups", "server": "service"}
_MISSING = re.compile(
    r'(?s)(action\.args.*): ("(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-f]{4}))*") is a required property'
)


class Draft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of the form, without those of the args; the URL of the page may have them too."""

    like: UUID | None = None
    """The command whose values the form has."""

    action: Words = ""
    other_action: Words = ""
    version: Words = ""
    args: LongText = "{}"
    shows: Literal["form", "json"] = "form"
    """Whether the form has a field for each argument, or one for all of them as JSON."""

    show: Literal["form", "json"] | None = None
    """The requested kind of field for the args; None requests the defaults of the action."""

    target: CommandTargetType = "agent"
    agents: LongText = ""
    groups: Words = ""
    service: Words = ""
    selection: Words = ""
    """The id of a selection of agents; without one, the form does not offer selections."""

    filter_name: Words | None = None
    filter_group: Words | None = None
    filter_status: AgentStatus | None = None
    filter_os: Words | None = None
    filter_version: Words | None = None
    filter_label: Words | None = None
    filter_in_sync: bool | None = None
    filter_node: Words | None = None
    timeout: float = 1.0
    unit: Unit = "hours"
    priority: int = 0
    start_at: Moment | None = None
    offline: Offline = "wait"
    continuous: bool = False
    until: Moment | None = None
    percent: float | None = None
    per_minute: float | None = None
    max_in_flight: int | None = None
    failure_percent: float | None = None
    failures_after: int | None = None
    token: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]*\Z", max_length=64)] = ""
    """The form's one-time token: it makes a repeated submission of the same form the same command."""

    @property
    def action_name(self) -> str:
        """The name of the chosen action."""
        return self.other_action if self.action == OTHER_ACTION else self.action

    @property
    def filter(self) -> AgentFilter | None:
        """The filter of the target; None if every field is empty."""
        chosen = AgentFilter(
            self.filter_name,
            self.filter_group,
            self.filter_status,
            self.filter_os,
            self.filter_version,
            read_labels(self.filter_label),
            self.filter_in_sync,
            self.filter_node,
        )
        return None if chosen == AgentFilter() else chosen

    @property
    def has_rollout(self) -> bool:
        """Whether a limit of the rollout is filled in."""
        return (self.percent, self.per_minute, self.max_in_flight, self.failure_percent) != (None, None, None, None)

    def _target(self) -> dict[str, Any]:
        """Return the target as the API takes it; raises `Invalid` if it names nobody."""
        match self.target:
            case "agent":
                names = [line.strip() for line in self.agents.splitlines() if line.strip()]
            case "group":
                names = re.findall(r"[^\s,]+", self.groups)
            case "server":
                return {"type": self.target, "id": self.service}
            case "selection":
                names = [self.selection]
            case "all":
                return _without_nothing({"type": self.target, "filter": self.filter})
        if not names:
            raise Invalid(f"target: name at least one {self.target}")
        return _without_nothing({"type": self.target, "id": list(dict.fromkeys(names)), "filter": self.filter})

    def document(self, args: bytes) -> bytes:
        """Return the command as the body of `POST /commands`; raises `Invalid` if its target names nobody."""
        ratio = None if self.failure_percent is None else self.failure_percent / 100
        limits = {"percent": self.percent, "per_minute": self.per_minute, "max_in_flight": self.max_in_flight}
        failures_after = None if ratio is None else self.failures_after
        rollout = _without_nothing({**limits, "failure_ratio": ratio, "failures_after": failures_after})
        command = {
            "source": "Users/Services",
            "target": self._target(),
            "action": {"name": self.action_name, "args": msgspec.Raw(args), "version": self.version},
            "timeout": self.timeout * UNIT_SECONDS[self.unit],
            "priority": self.priority,
            "start_at": self.start_at,
            "offline": self.offline,
            "continuous": self.continuous,
            "until": self.until,
            "rollout": rollout or None,
        }
        return msgspec.json.encode(_without_nothing(command))


def _without_nothing(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def draft_of(command: Command) -> Draft:
    """Return a form with the values of a command, except its times."""
    chosen, rollout = command.target.filter or AgentFilter(), command.rollout or Rollout()
    unit: Unit = next((unit for unit, seconds in UNIT_SECONDS.items() if not command.timeout % seconds), "seconds")
    names = command.target.ids
    return Draft(
        action=command.action.name,
        version=command.action.version,
        args=bytes(command.action.args).decode(),
        target=command.target.type,
        agents="\n".join(names) if command.target.type == "agent" else "",
        groups=" ".join(names) if command.target.type == "group" else "",
        service=names[0] if command.target.type == "server" else "",
        selection=names[0] if command.target.type == "selection" else "",
        filter_name=chosen.name,
        filter_group=chosen.group,
        filter_status=chosen.status,
        filter_os=chosen.os,
        filter_version=chosen.version,
        filter_label=", ".join(f"{key}:{value}" for key, value in chosen.labels.items()) or None,
        filter_in_sync=chosen.in_sync,
        filter_node=chosen.node,
        timeout=command.timeout / UNIT_SECONDS[unit],
        unit=unit,
        priority=command.priority,
        offline=command.offline,
        continuous=command.continuous,
        percent=rollout.percent,
        per_minute=rollout.per_minute,
        max_in_flight=rollout.max_in_flight,
        failure_percent=None if rollout.failure_ratio is None else rollout.failure_ratio * 100,
        failures_after=None if rollout == Rollout() else rollout.failures_after,
    )


def faults_of(error: Invalid | Malformed, draft: Draft, args: Iterable[str] = ()) -> list[Fault]:
    """Return the faults of a submission by the fields of the form; `args` are the names of those for single args."""
    recipients = (_RECIPIENT_FIELDS.get(draft.target, "target"), "recipients")
    fields = _FIELDS | {
        "action.name": ("other_action" if draft.action == OTHER_ACTION else "action", "action"),
        **dict.fromkeys(("target", "target.id", "target.type"), recipients),
        **{path_of(name): (name, path_of(name).removeprefix("action.args.")) for name in args},
    }
    sentences = error.faults if isinstance(error, Invalid) else [error.detail]
    return [_fault_of(sentence, fields) for sentence in sentences if sentence != NOTHING_SUBMITTED]


def _fault_of(sentence: str, fields: Mapping[str, tuple[str, str]]) -> Fault:
    sentence = sentence.removeprefix("commands[0].")
    if missing := _MISSING.fullmatch(sentence):
        sentence = f"{missing[1]}.{json.loads(missing[2])}: is required"
    paths = [path for path in fields if sentence.startswith(path) and sentence[len(path) :][:1] in {":", ".", "["}]
    if not paths:
        return fault_of(sentence)
    path = max(paths, key=len)
    field, name = fields[path]
    message = sentence.removeprefix(path)
    separator = next((text for text in (": ", ".") if message.startswith(text)), "")
    return Fault(field, name + separator, message.removeprefix(separator))
