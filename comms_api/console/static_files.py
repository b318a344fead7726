"""The console's static files: read once, named with their hash in every URL, and kept by browsers for a year."""

import gzip
from hashlib import sha256
from importlib.resources import files

import msgspec
from litestar import Response, get
from litestar.params import FromPath

from comms_api.errors import NotFound
from comms_api.http.authentication import PUBLIC
from comms_api.http.request import AnyRequest, find_header

FOLDER = files("comms_api.console") / "static"
_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_HEADERS = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}


class StaticFile(msgspec.Struct, frozen=True):
    """A file, also compressed by gzip, its media type, and its URL."""

    content: bytes
    compressed: bytes
    media_type: str
    url: str


def _read(name: str) -> StaticFile:
    content = (FOLDER / name).read_bytes()
    url = f"/console/static/{name}?{sha256(content).hexdigest()[:16]}"
    return StaticFile(content, gzip.compress(content, mtime=0), _TYPES[name.rpartition(".")[2]], url)


FILES = {item.name: _read(item.name) for item in FOLDER.iterdir() if item.name.rpartition(".")[2] in _TYPES}


def static_url(name: str) -> str:
    """Return the URL of a static file."""
    return FILES[name].url


@get("/console/static/{name:str}", opt=PUBLIC)
async def show_static_file(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    """Send a static file."""
    file = FILES.get(name)
    if file is None:
        raise NotFound("There is no such file.")
    if "gzip" in (find_header(request.scope, b"accept-encoding") or ""):
        headers = _HEADERS | {"Content-Encoding": "gzip"}
        return Response(file.compressed, media_type=file.media_type, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=_HEADERS)
