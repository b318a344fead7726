"""Describe the parameters of paths and queries that routes declare by their types only."""

from collections.abc import Mapping

PARAMETERS: Mapping[str, str] = {
    "action": "only commands of this action",
    "actions/{name}": "the action's name",
    "actor": "only changes by this user",
    "after": "`next` of the previous page",
    "agent": "the agent's id or name",
    "clones": "only agents that clones use, or may use",
    "code": "only orders whose result has this code",
    "collector": "only of this collector",
    "continuous": "only continuous commands that have not ended",
    "delivery_id": "one dead letter; without it, all of them",
    "dry_run": "check the commands and list their recipients; submit nothing",
    "event_id": "the event's id",
    "files/{name}": "the file's name",
    "format": "lines of JSON, or CSV",
    "group": "the group's name",
    "groups/{name}": "the group's name",
    "hidden": "list the hidden agents instead of the others",
    "in_sync": "whether the agent runs the files of its groups",
    "key": "only changes of the row with this key",
    "kind": "only events of this kind",
    "module": "only of this module",
    "name": "only names that match; `*` matches any text",
    "new": "the newer version; without it, the current one",
    "node": "only what this node saw last",
    "nodes/{name}": "the node's name",
    "old": "the older version",
    "order": "which items come first",
    "order_id": "the order's id",
    "os": "the name or type of the operating system; `*` matches any text",
    "outcome": "only orders that ended like this",
    "request_id": "the command's id",
    "service": "the service's name, which must be the caller's",
    "since": "only items created at or after this time",
    "source": "only commands of this source",
    "status": "only items of this status",
    "subject": "only changes of this table",
    "token_id": "the enrollment token's id",
    "until": "only items created before this time",
    "user": "only commands that this user submitted",
    "users/{name}": "the user's name",
    "version": "the version; without it, the current one",
    "webhook_id": "the webhook's id",
}
"""By `NAME`, or by the last segments of the path as `SEGMENT/{NAME}`."""

VERSIONS: Mapping[str, str] = {
    "/agents": "the agent's version; `*` matches any text",
    "/actions/{name}": "one version; without it, the action with all of its versions",
}
"""Descriptions of `version`, by path; it means different things."""


def describe_parameter(path: str, name: str) -> str:
    """Return the description of a parameter; empty if it has none, which a test finds."""
    if name == "version" and path in VERSIONS:
        return VERSIONS[path]
    before, found, _ = path.partition(f"/{{{name}}}")
    key = f"{before.rpartition('/')[2]}/{{{name}}}" if found else name
    return PARAMETERS.get(key) or PARAMETERS.get(name, "")
