"""A file of a group: its editor, its versions, and the stage of its next version."""

from typing import Annotated, Literal
from urllib.parse import quote

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from comms_api.console.live import live
from comms_api.console.pages.groups import group_url
from comms_api.console.queries import read_query, receive_form
from comms_api.console.rendering import is_partial, notify, render
from comms_api.errors import Invalid, TooLarge
from comms_api.files.model import FileName, GroupFile, Percent, Rollback, Widening
from comms_api.files.routes import FileServices
from comms_api.files.service import Files
from comms_api.files.stages import Stages
from comms_api.http.authentication import claims_of
from comms_api.http.bodies import Bodies
from comms_api.http.pages import LARGE
from comms_api.http.request import AnyRequest
from comms_api.http.roles import OPERATE, READ

EDITED_BYTES_MAXIMUM = 128 * 1024
FORM_BYTES_MAXIMUM = 4 * EDITED_BYTES_MAXIMUM
"""A form takes up to three bytes for each byte of a text."""

_FILE = "/console/groups/{group:str}/files/{name:str}"


class FileForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a file; with `percent`, only this part of the group's agents gets it at first."""

    content: str = ""
    percent: Percent | None = None


class NewFileForm(FileForm, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A new file."""

    name: FileName


def _content(form: FileForm) -> bytes:
    content = form.content.replace("\r\n", "\n").encode(errors="surrogatepass")
    if len(content) > EDITED_BYTES_MAXIMUM:
        limit = f"{EDITED_BYTES_MAXIMUM >> 10} KiB"
        raise TooLarge(f"The editor stores at most {limit}; use `comms-api files put`. Nothing was stored.")
    return content


async def _put(files: Files, group: str, name: str, form: FileForm, user: str) -> GroupFile:
    """Store a file; an error in its content names the field of the form instead of the file."""
    try:
        return await files.put(group, name, _content(form), user, form.percent)
    except Invalid as error:
        if error.detail.startswith(f"{name}: "):
            raise Invalid(error.detail.replace(name, "content", 1)) from None
        raise


@post("/console/groups/{group:str}/files", opt=OPERATE, status_code=200)
async def create_file(
    request: AnyRequest, group: FromPath[str], files: NamedDependency[Files], bodies: NamedDependency[Bodies]
) -> Response[bytes]:
    """Store a new file, and open its page."""
    form = await receive_form(request, bodies, NewFileForm, FORM_BYTES_MAXIMUM)
    stored = await _put(files, group, form.name, form, claims_of(request).subject)
    return notify(request, "", location=f"{group_url(group)}/files/{quote(stored.name)}")


@get(_FILE, opt=READ | LARGE)
@live
async def show_file(
    request: AnyRequest,
    group: FromPath[str],
    name: FromPath[str],
    file_services: NamedDependency[FileServices],
    stages: NamedDependency[Stages],
) -> Response[bytes]:
    """Show the current content of a file in an editor, its stage, and its versions."""
    versions = await file_services.files.list(group, name)
    current = next((version for version in versions if version.is_current), None)
    staged = any(version.staged_percent is not None for version in versions)
    return render(
        request,
        "file.html",
        group=group,
        name=name,
        versions=versions,
        current=current,
        text=await _text_of(request, current, file_services),
        stage=await stages.show(group, name) if staged else None,
        editor_kib=EDITED_BYTES_MAXIMUM >> 10,
    )


async def _text_of(request: AnyRequest, version: GroupFile | None, file_services: FileServices) -> str | None:
    """Return the content of a version for the editor; None if that is no text or too long.

    The live part of the page, which loads again and again, is without the editor.
    """
    if version is None or is_partial(request):
        return ""
    if version.size > EDITED_BYTES_MAXIMUM:
        return None
    source = await file_services.files.find(version.group, version.name, version.version)
    found = await file_services.load(request, source)
    try:
        return found.content.decode()
    except UnicodeDecodeError:
        return None


@post(_FILE, opt=OPERATE, status_code=200)
async def put_file(
    request: AnyRequest,
    group: FromPath[str],
    name: FromPath[str],
    files: NamedDependency[Files],
    bodies: NamedDependency[Bodies],
) -> Response[bytes]:
    """Store the next version of a file; YAML is checked first."""
    form = await receive_form(request, bodies, FileForm, FORM_BYTES_MAXIMUM)
    stored = await _put(files, group, name, form, claims_of(request).subject)
    receivers = "the group's agents" if form.percent is None else f"{form.percent} % of the group's agents"
    return notify(request, f"Version {stored.version} is stored; {receivers} get it within seconds.")


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two versions; without `new`, the current one."""

    old: int
    new: int | None = None


@get(f"{_FILE}/diff", opt=READ | LARGE)
async def compare_versions(
    request: AnyRequest, group: FromPath[str], name: FromPath[str], files: NamedDependency[Files]
) -> Response[bytes]:
    """Show the difference of two versions."""
    compared = read_query(request, Comparison)
    text = await files.compare(group, name, compared.old, compared.new, claims_of(request).subject)
    lines = [(_kind_of(line), line) for line in text.splitlines()]
    return render(request, "file_diff.html", group=group, name=name, compared=compared, lines=lines)


def _kind_of(line: str) -> Literal["added", "removed", ""]:
    if line.startswith(("+++", "---")):
        return ""
    return "added" if line.startswith("+") else "removed" if line.startswith("-") else ""


class VersionForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version to return to."""

    version: Annotated[int, msgspec.Meta(ge=1)]


@post(f"{_FILE}/rollback", opt=OPERATE, status_code=200)
async def roll_back(
    request: AnyRequest,
    group: FromPath[str],
    name: FromPath[str],
    files: NamedDependency[Files],
    bodies: NamedDependency[Bodies],
) -> Response[bytes]:
    """Store the content of an earlier version as the next one."""
    version = (await receive_form(request, bodies, VersionForm, FORM_BYTES_MAXIMUM)).version
    stored = await files.roll_back(group, name, Rollback(version), claims_of(request).subject)
    return notify(request, f"Version {stored.version} has the content of version {version}.")


@post(f"{_FILE}/delete", opt=OPERATE, status_code=200)
async def delete_file(
    request: AnyRequest, group: FromPath[str], name: FromPath[str], files: NamedDependency[Files]
) -> Response[bytes]:
    """Delete a file from its group; its versions stay."""
    await files.delete(group, name)
    return notify(request, "", location=group_url(group))


@post(f"{_FILE}/stage", opt=OPERATE, status_code=200)
async def widen_stage(
    request: AnyRequest,
    group: FromPath[str],
    name: FromPath[str],
    stages: NamedDependency[Stages],
    bodies: NamedDependency[Bodies],
) -> Response[bytes]:
    """Give the staged version to more agents."""
    percent = (await receive_form(request, bodies, Widening, FORM_BYTES_MAXIMUM)).percent
    stage = await stages.widen(group, name, percent)
    return notify(request, f"{stage.percent} % of the group's agents get version {stage.version}.")


@post(f"{_FILE}/stage/promote", opt=OPERATE, status_code=200)
async def promote_stage(
    request: AnyRequest, group: FromPath[str], name: FromPath[str], stages: NamedDependency[Stages]
) -> Response[bytes]:
    """Give the staged version to all agents of the group."""
    stored = await stages.promote(group, name)
    return notify(request, f"All agents of {group} get version {stored.version}.")


@post(f"{_FILE}/stage/abort", opt=OPERATE, status_code=200)
async def abort_stage(
    request: AnyRequest, group: FromPath[str], name: FromPath[str], stages: NamedDependency[Stages]
) -> Response[bytes]:
    """Give all agents the current version again."""
    await stages.abort(group, name)
    return notify(request, "All agents get the current version again. The staged one stays among the versions.")


ROUTES = [
    create_file,
    show_file,
    put_file,
    compare_versions,
    roll_back,
    delete_file,
    widen_stage,
    promote_stage,
    abort_stage,
]
