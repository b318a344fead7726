"""Group files: agents fetch the files of their groups, and operators store them."""

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Response, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from comms_api.agents.configuration import SyncStatus
from comms_api.agents.dependencies import AgentId
from comms_api.database.pages import Page
from comms_api.errors import Malformed
from comms_api.files.model import (
    AgentDrift,
    Configuration,
    Content,
    DriftFilter,
    GroupDrift,
    GroupFile,
    Pushed,
    Report,
    Rollback,
    Stage,
    Widening,
)
from comms_api.files.ranges import Range, is_known, read_range
from comms_api.files.service import Files
from comms_api.files.sharing import Source
from comms_api.files.stages import Stages
from comms_api.http.answers import Answers
from comms_api.http.authentication import agent_of, claims_of
from comms_api.http.bodies import JSON_BYTES_MAXIMUM, Bodies
from comms_api.http.description.operations import reads, reads_text
from comms_api.http.pages import LARGE, Limit
from comms_api.http.request import AnyRequest, is_head
from comms_api.http.roles import OPERATE, READ
from comms_api.protocol import ExpectedFiles
from comms_api.text.faults import read_json

_REPORT = msgspec.json.Decoder(Report)

MEDIA_TYPE = "application/octet-stream"
_PARTS = {
    status: ResponseSpec(None, description=text, media_type=MEDIA_TYPE, generate_examples=False)
    for status, text in (
        (206, "the requested range"),
        (304, "the content is what `If-None-Match` names"),
        (416, "the content is shorter than the range"),
    )
}
FileNameQuery = Annotated[str | None, QueryParameter(description="such as GROUP.yml, or merged.yml for all")]
StagedQuery = Annotated[
    str | None, QueryParameter(description="name of a file: list the agents chosen for its staged version")
]
PercentQuery = Annotated[
    int | None, QueryParameter(ge=1, le=100, description="stage the version for this part of the group's agents")
]


class _FileResponse(Response[Any]):
    """Bytes, or a view of them, to send unchanged."""

    def render(self, content: Any, _media_type: str, _enc_hook: object = None) -> Any:
        """Return the content."""
        return content


class FileServices(msgspec.Struct, frozen=True):
    """The dependencies of routes that send files."""

    files: Files
    answers: Answers

    async def answer(self, request: AnyRequest, source: Source) -> Response[bytes]:
        """Answer with a file's content: ETag, If-None-Match (304), Range and If-Range (206); raises `Unavailable`."""
        if source.sha256 and is_known(request.headers.get("if-none-match"), f'"{source.sha256}"'):
            return _answer(request, source.sha256, b"")
        found = await self.load(request, source)
        request.state.content = found  # it is shared until the answer has been sent
        return _answer(request, found.sha256, found.content)

    async def load(self, request: AnyRequest, source: Source) -> Content:
        """Return a file's content within the client's share of answers; raises `Unavailable`."""
        await self.answers.hold(request.scope, source.size, is_shared=True)
        return await self.files.read(source, self.answers.memory)


def _answer(request: AnyRequest, sha256: str, content: bytes) -> Response[bytes]:
    tag = f'"{sha256}"'
    headers = {"ETag": tag, "Accept-Ranges": "bytes", "Cache-Control": "no-cache"}
    if is_known(request.headers.get("if-none-match"), tag):
        return Response(b"", status_code=304, headers=headers, media_type=MEDIA_TYPE)
    part = read_range(request.headers.get("range"), len(content))
    if part is None or request.headers.get("if-range", tag) != tag:
        return _FileResponse(content, status_code=200, headers=headers, media_type=MEDIA_TYPE)
    if isinstance(part, Range):
        headers["Content-Range"] = f"bytes {part.first}-{part.last}/{len(content)}"
        view = memoryview(content)[part.first : part.last + 1]
        return _FileResponse(view, status_code=206, headers=headers, media_type=MEDIA_TYPE)
    headers["Content-Range"] = f"bytes */{len(content)}"
    return Response(b"", status_code=416, headers=headers, media_type=MEDIA_TYPE)


@get("/files", media_type=MEDIA_TYPE, responses=_PARTS)
async def fetch_file(
    request: AnyRequest,
    file_services: NamedDependency[FileServices],
    file_name: FileNameQuery = None,
) -> Response[bytes]:
    """Answer with a file of the agent's own groups: ETag, If-None-Match (304), Range and If-Range (206)."""
    if not file_name:
        raise Malformed("Name a file: ?file_name=…", code=2704)
    source = await file_services.files.fetch(agent_of(request), file_name, is_head=is_head(request.scope))
    return await file_services.answer(request, source)


@get("/configuration")
async def list_own_files(request: AnyRequest, files: NamedDependency[Files]) -> ExpectedFiles:
    """List the files of the agent's own groups with their hashes."""
    return ExpectedFiles((await files.configuration(agent_of(request))).files)


@put("/configuration", status_code=204, opt=reads(Report))
async def report_configuration(
    request: AnyRequest, files: NamedDependency[Files], bodies: NamedDependency[Bodies]
) -> None:
    """Report the files that the agent runs: SHA-256 of the lines `GROUP/FILE SHA256`, sorted, each with a line feed."""
    async with bodies.receive(request, JSON_BYTES_MAXIMUM) as body:
        report = read_json(body, _REPORT, '{"sha256"}')
    await files.report(agent_of(request), report.sha256)


@get("/groups/{group:str}/files", opt=READ)
async def list_files(group: FromPath[str], files: NamedDependency[Files]) -> Sequence[GroupFile]:
    """List the current and staged files of a group by name."""
    return await files.list(group)


@put("/groups/{group:str}/files/{name:str}", opt=OPERATE | reads_text(MEDIA_TYPE))
async def put_file(  # noqa: PLR0913 - each is a part of the request
    request: AnyRequest,
    group: FromPath[str],
    name: FromPath[str],
    files: NamedDependency[Files],
    bodies: NamedDependency[Bodies],
    percent: PercentQuery = None,
) -> GroupFile:
    """Store the body as a file's next version, and announce it to the group's agents. YAML is checked first.

    With `percent`, the version is staged: only this part of the agents gets it until it is promoted. While a version is
    staged, another one is 409.
    """
    async with bodies.receive(request) as body:
        return await files.put(group, name, body, claims_of(request).subject, percent)


@get("/groups/{group:str}/files/{name:str}", media_type=MEDIA_TYPE, responses=_PARTS, opt=READ)
async def get_file(
    request: AnyRequest,
    group: FromPath[str],
    name: FromPath[str],
    file_services: NamedDependency[FileServices],
    version: FromQuery[int | None] = None,
) -> Response[bytes]:
    """Answer with the current version of a file, or with an earlier one."""
    return await file_services.answer(request, await file_services.files.find(group, name, version))


@get("/groups/{group:str}/files/{name:str}/versions", opt=READ)
async def list_versions(
    group: FromPath[str], name: FromPath[str], files: NamedDependency[Files]
) -> Sequence[GroupFile]:
    """List the stored versions of a file, newest first."""
    return await files.list(group, name)


@get("/groups/{group:str}/files/{name:str}/diff", media_type="text/plain", opt=READ | LARGE)
async def compare_versions(  # noqa: PLR0913 - each is a part of the request
    request: AnyRequest,
    group: FromPath[str],
    name: FromPath[str],
    files: NamedDependency[Files],
    old: FromQuery[int],
    new: FromQuery[int | None] = None,
) -> str:
    """Answer with the difference of two versions of a file, by default from `old` to the current one.

    The format is the unified one of diff(1); the answer is empty if the contents are equal.
    """
    return await files.compare(group, name, old, new, claims_of(request).subject)


@post("/groups/{group:str}/files/{name:str}/rollback", status_code=200, opt=OPERATE)
async def roll_back(
    request: AnyRequest,
    group: FromPath[str],
    name: FromPath[str],
    data: JSONBody[Rollback],
    files: NamedDependency[Files],
) -> GroupFile:
    """Store the content of an earlier version as the next one, and announce it to the group's agents.

    With `percent`, the version is staged as in `PUT …/files/{name}`.
    """
    return await files.roll_back(group, name, data, claims_of(request).subject)


@get("/groups/{group:str}/files/{name:str}/stage", opt=READ)
async def show_stage(group: FromPath[str], name: FromPath[str], stages: NamedDependency[Stages]) -> Stage:
    """Show a file's staged version, the number of agents chosen for it, and how many of them are in sync."""
    return await stages.show(group, name)


@patch("/groups/{group:str}/files/{name:str}/stage", opt=OPERATE)
async def widen_stage(
    group: FromPath[str], name: FromPath[str], data: JSONBody[Widening], stages: NamedDependency[Stages]
) -> Stage:
    """Give a file's staged version to more agents; those chosen before keep it. A smaller percentage is 422."""
    return await stages.widen(group, name, data.percent)


@post("/groups/{group:str}/files/{name:str}/stage/promote", status_code=200, opt=OPERATE)
async def promote_stage(group: FromPath[str], name: FromPath[str], stages: NamedDependency[Stages]) -> GroupFile:
    """Make a file's staged version current for all agents of the group."""
    return await stages.promote(group, name)


@delete("/groups/{group:str}/files/{name:str}/stage", opt=OPERATE)
async def abort_stage(group: FromPath[str], name: FromPath[str], stages: NamedDependency[Stages]) -> None:
    """Give all agents the current version of a file again; the staged one stays among the versions."""
    await stages.abort(group, name)


@delete("/groups/{group:str}/files/{name:str}", opt=OPERATE)
async def delete_file(group: FromPath[str], name: FromPath[str], files: NamedDependency[Files]) -> None:
    """Delete a file from a group; its versions stay. While a version is staged, this is 409."""
    await files.delete(group, name)


@get("/agents/{agent:str}/configuration", opt=READ)
async def show_configuration(agent_id: AgentId, files: NamedDependency[Files]) -> Configuration:
    """Show the files that an agent should run, in the order of their merge, and whether it reports these."""
    return await files.configuration(agent_id)


@get("/agents/{agent:str}/configuration/merged", media_type=MEDIA_TYPE, responses=_PARTS, opt=READ)
async def show_merged(
    request: AnyRequest, agent_id: AgentId, file_services: NamedDependency[FileServices]
) -> Response[bytes]:
    """Answer with the merged YAML of an agent's groups."""
    await file_services.files.configuration(agent_id)
    return await file_services.answer(request, await file_services.files.find_merged(agent_id))


@get("/groups/{group:str}/configuration", opt=READ)
async def count_drift(group: FromPath[str], files: NamedDependency[Files]) -> GroupDrift:
    """Count the agents of a group that run their configuration, and those that do not."""
    return await files.count_drift(group)


@get("/groups/{group:str}/configuration/agents", opt=READ)
async def list_drift(  # noqa: PLR0913 - each is a part of the request
    group: FromPath[str],
    files: NamedDependency[Files],
    status: FromQuery[SyncStatus | None] = None,
    staged: StagedQuery = None,
    after: FromQuery[UUID | None] = None,
    limit: Limit = 100,
) -> Page[AgentDrift]:
    """List the agents of a group by id, each with the version of its configuration that it runs."""
    return await files.list_drift(group, DriftFilter(status, staged), after, limit)


@post("/agents/{agent:str}/configuration/push", status_code=202, opt=OPERATE)
async def push_to_agent(agent_id: AgentId, files: NamedDependency[Files]) -> Pushed:
    """Have an agent fetch its files again, even if it is in sync."""
    return Pushed(await files.push_to_agent(agent_id))


@post("/groups/{group:str}/configuration/push", status_code=202, opt=OPERATE)
async def push_to_group(group: FromPath[str], files: NamedDependency[Files]) -> Pushed:
    """Have the agents of a group fetch their files again, even if they are in sync."""
    return Pushed(await files.push(group))


@post("/nodes/{name:str}/configuration/push", status_code=202, opt=OPERATE)
async def push_to_node(name: FromPath[str], files: NamedDependency[Files]) -> Pushed:
    """Have the agents that a node saw last fetch their files again, even if they are in sync."""
    return Pushed(await files.push_to_node(name))


AGENT_ROUTES = [fetch_file, list_own_files, report_configuration]
MANAGEMENT_ROUTES = [
    list_files,
    put_file,
    get_file,
    list_versions,
    delete_file,
    show_configuration,
    show_merged,
    count_drift,
    list_drift,
    compare_versions,
    roll_back,
    show_stage,
    widen_stage,
    promote_stage,
    abort_stage,
    push_to_agent,
    push_to_group,
    push_to_node,
]
