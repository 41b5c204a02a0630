"""Images: what there is, and how it comes from archives."""

from typing import Any

from aiohttp import web

from boxwright import types
from boxwright.errdefs import InvalidParameter
from boxwright.images.distribution import auth
from boxwright.types import lenient

from .. import responses
from ..backend import CommitQuery
from ..call import Call
from ..progress import archive, progress
from ..router import Route


async def listing(call: Call) -> web.StreamResponse:
    """GET /images/json"""
    query = call.query
    filters = query.filters()
    if call.version < (1, 25) and (pattern := query.text("filter")):
        filters.setdefault("reference", []).append(pattern)
    manifests = query.flag("manifests") and call.version >= (1, 47)
    found = call.backend.images(query.flag("all"), filters, query.flag("shared-size"), manifests)
    if call.version < (1, 44):
        # The field was dropped with API 1.44; older clients add it up.
        found = [{**image, "VirtualSize": image.get("Size", 0)} for image in found]
    return responses.json(found)


async def inspect(call: Call) -> web.StreamResponse:
    """GET /images/{name}/json"""
    manifests, platform = call.query.flag("manifests") and call.version >= (1, 48), _platform(call, (1, 49))
    if manifests and platform is not None:
        raise InvalidParameter("conflicting options: manifests and platform options cannot both be set")
    found = call.backend.image_inspect(call.name, manifests, platform)
    if call.version < (1, 44):
        found = {**found, "VirtualSize": found.get("Size", 0)}
    if call.version < (1, 45) or call.request.headers.get("User-Agent", "").startswith("docker-compose/1."):
        # What the last step of its build ran in: nobody knows, but old clients read the fields.  Compose 1 asks in the
        # newest version and then needs what API 1.45 has dropped.
        found = {**found, "Container": "", "ContainerConfig": found.get("Config")}
    return responses.json(found)


async def history(call: Call) -> web.StreamResponse:
    """GET /images/{name}/history"""
    return responses.json(call.backend.image_history(call.name))


async def tag(call: Call) -> web.StreamResponse:
    """POST /images/{name}/tag"""
    call.backend.image_tag(call.name, call.query.text("repo"), call.query.text("tag"))
    return responses.empty(201)


async def remove(call: Call) -> web.StreamResponse:
    """DELETE /images/{name}"""
    if not call.name.strip():
        raise InvalidParameter("image name cannot be blank")
    query = call.query
    return responses.json(await call.backend.image_remove(call.name, query.flag("force"), query.flag("noprune")))


async def load(call: Call) -> web.StreamResponse:
    """POST /images/load: an archive in, progress out."""
    quiet = call.query.flag("quiet", True)
    return await progress(call, lambda emit: call.backend.image_load(call.pieces(), quiet, emit))


async def create(call: Call) -> web.StreamResponse:
    """POST /images/create: a pull, or an import from the body or from a URL."""
    query = call.query
    if query.text("fromImage"):
        return await _pull(call)
    source = query.text("fromSrc")
    if not source:
        raise InvalidParameter("either fromImage or fromSrc is required")
    repo, tag, changes = query.text("repo"), query.text("tag"), query.all("changes")
    message, platform = query.text("message"), query.text("platform")
    pieces = call.pieces() if source == "-" else source
    return await progress(
        call,
        lambda emit: call.backend.image_import(pieces, repo, tag, changes, message, platform, emit),
        cancel=source != "-",
    )


async def _pull(call: Call) -> web.StreamResponse:
    query, backend = call.query, call.backend
    image, tag, platform = query.text("fromImage").strip(), query.text("tag"), query.text("platform")
    try:
        who = auth.decode(call.request.headers.get("X-Registry-Auth", ""))
    except InvalidParameter:
        who = auth.NOBODY  # as dockerd: what clients of all ages send need not be credentials
    return await progress(call, lambda emit: backend.image_pull(image, tag, platform, who, emit), cancel=True)


async def push(call: Call) -> web.StreamResponse:
    """POST /images/{name}/push"""
    who, backend, name, tag = _credentials(call), call.backend, call.name, call.query.text("tag")
    platform = _platform(call, (1, 46))
    # The tag is left out to say "all of them", by clients of every version.
    return await progress(call, lambda emit: backend.image_push(name, tag, not tag, platform, who, emit), cancel=True)


async def search(call: Call) -> web.StreamResponse:
    """GET /images/search"""
    query = call.query
    term = query.text("term")
    if not term:
        raise InvalidParameter("term is required")
    limit = query.integer("limit", 0) or 0
    return responses.json(await call.backend.images_search(term, limit, query.filters(), _credentials(call)))


async def login(call: Call) -> web.StreamResponse:
    """POST /auth"""
    try:
        given = lenient.parse((await call.body()).decode() or "null")
    except (InvalidParameter, UnicodeError) as error:
        raise InvalidParameter(f"invalid JSON: {error}") from None
    token = await call.backend.login(auth.credentials(given))
    return responses.json({"Status": "Login Succeeded", "IdentityToken": token})


async def distribution(call: Call) -> web.StreamResponse:
    """GET /distribution/{name}/json"""
    return responses.json(await call.backend.distribution_inspect(call.name, _credentials(call)))


def _credentials(call: Call) -> auth.Credentials:
    return auth.decode(call.request.headers.get("X-Registry-Auth", ""))


async def prune(call: Call) -> web.StreamResponse:
    """POST /images/prune"""
    return responses.json(call.backend.images_prune(call.query.filters()))


async def save_one(call: Call) -> web.StreamResponse:
    """GET /images/{name}/get"""
    return await archive(call, call.backend.images_save([call.name], _platform(call)))


async def save(call: Call) -> web.StreamResponse:
    """GET /images/get"""
    return await archive(call, call.backend.images_save(call.query.all("names"), _platform(call)))


def _platform(call: Call, since: tuple[int, int] = (1, 48)) -> dict[str, Any] | None:
    """`platform`: JSON, since a version of the API."""
    text = call.query.text("platform") if call.version >= since else ""
    if not text:
        return None
    try:
        found = lenient.parse(text)
    except InvalidParameter:
        found = None
    if not isinstance(found, dict):
        raise InvalidParameter(f"failed to parse platform: invalid JSON: {text[:100]}")
    return found


async def commit(call: Call) -> web.StreamResponse:
    """POST /commit"""
    query = call.query
    config = await call.json(types.ContainerConfig)
    wanted = CommitQuery(
        container=query.text("container"),
        repo=query.text("repo"),
        tag=query.text("tag"),
        author=query.text("author"),
        comment=query.text("comment"),
        changes=query.all("changes"),
        pause=query.flag("pause", True),
    )
    # `{}` and `null` are what clients send who have no configuration.
    own = None if config == types.ContainerConfig() else config
    return responses.json({"Id": await call.backend.commit(wanted, own)}, 201)


ROUTES = [
    Route("POST", "/commit", commit),
    Route("POST", "/images/prune", prune),
    Route("GET", "/images/search", search),
    Route("POST", "/images/{name}/push", push),
    Route("POST", "/auth", login),
    Route("GET", "/distribution/{name}/json", distribution),
    Route("GET", "/images/get", save),
    Route("GET", "/images/{name}/get", save_one),
    Route("GET", "/images/json", listing),
    Route("POST", "/images/load", load),
    Route("POST", "/images/create", create),
    Route("GET", "/images/{name}/json", inspect),
    Route("GET", "/images/{name}/history", history),
    Route("POST", "/images/{name}/tag", tag),
    Route("DELETE", "/images/{name}", remove),
]
