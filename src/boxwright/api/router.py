"""From method and path to a handler.

Names may contain slashes (`/images/registry:5000/library/busybox/json`), so a pattern's `{name}` takes everything
between its fixed parts, and the more particular routes stand first in a table.
"""

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from aiohttp import web

from boxwright.errdefs import InvalidParameter, NotFound

from .call import Call
from .errors import MethodNotAllowed
from .query import check_escapes

Handler = Callable[[Call], Awaitable[web.StreamResponse]]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Route(NamedTuple):
    """One endpoint: `pattern` is a path without version, with `{name}` for what varies."""

    method: str
    pattern: str
    handler: Handler


class Router:
    """The table of all endpoints."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._fixed: dict[str, dict[str, Handler]] = {}
        self._varying: dict[str, list[tuple[re.Pattern[str], str, Handler]]] = {}
        for route in routes:
            if "{" in route.pattern:
                compiled = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/].*)", route.pattern))
                self._varying.setdefault(_first(route.pattern), []).append((compiled, route.method, route.handler))
            else:
                self._fixed.setdefault(route.pattern, {})[route.method] = route.handler

    def find(self, method: str, path: str) -> tuple[Handler, dict[str, str]]:
        """Handler and path parameters; raises `NotFound` for an unknown path, `MethodNotAllowed` for a known one.

        A fixed path hides a pattern only for its own methods: `GET /images/json` and `DELETE /images/{name}` coexist.
        """
        fixed = self._fixed.get(path, {})
        if handler := fixed.get(method):
            return handler, {}
        known = bool(fixed)
        for pattern, wanted, handler in self._varying.get(_first(path), ()):
            if (method == wanted or not known) and (found := pattern.fullmatch(path)):
                if method == wanted:
                    return handler, found.groupdict()
                known = True
        if known:
            raise MethodNotAllowed("method not allowed")
        raise NotFound("page not found")


def _first(path: str) -> str:
    return path.split("/", 2)[1]


def decode_path(raw: str) -> str:
    """The path of a request target, without query and decoded once; raises `InvalidParameter` for tricks."""
    path = raw
    if "%" in path:
        check_escapes(path)
        try:
            path = unquote_to_bytes(path).decode()
        except UnicodeDecodeError:
            raise InvalidParameter("invalid path: not UTF-8") from None
    if path[:1] != "/" or _CONTROL.search(path) or "#" in raw or "\\" in path:
        raise InvalidParameter("invalid path")
    if "/." in path and not {".", ".."}.isdisjoint(path.split("/")):
        raise InvalidParameter("invalid path: it contains . or .. as a part")
    return path
