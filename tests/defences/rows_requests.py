"""Rows about the API."""

from defence import Change, Defence  # type: ignore[import-not-found]

BUILDS = "tests/clients/"
AUTHORIZATION = "tests/api/test_authorization.py::"
REQUESTS = "tests/api/test_hostile_requests.py::test_over_the_fake"

ROWS = (
    # The API
    Defence(
        "api", "a plugin is shown the whole body",
        (Change("api/call.py", "        if body and self.case is not None:", "        if False:"),),
        (AUTHORIZATION + "test_a_route_gets_no_body_that_was_not_shown",),
    ),
    Defence(
        "api", "a plugin that does not say yes has denied",
        (Change("api/authorization.py", "if said.get(\"Allow\") is not True:", "if said.get(\"Allow\") is False:"),),
        (AUTHORIZATION + "test_a_plugin_that_fails_has_denied[no-verdict]",),
    ),
    Defence(
        "api", "a plugin is told the path that is routed",
        (Change("api/authorization.py", "quote(decode_path(target), safe=_SAFE)", "target"),),
        (AUTHORIZATION + "test_the_path_is_the_one_that_is_routed",),
    ),
    Defence(
        "api", "bodies are bounded",
        (Change("api/call.py",
                "        if length is not None and length > limit:\n            raise", "        if False:\n            raise"),
         Change("api/call.py", "            if len(whole) > limit:", "            if False:")),
        (AUTHORIZATION + "test_a_body_past_the_limit_reaches_nobody",),
        "by the length that is announced, and by what comes",
    ),
    Defence(
        "api", "browsers of other pages are refused",
        (Change("api/app.py", "    if origin is not None and (not hosts", "    if False and (not hosts"),),
        (REQUESTS + "[asyncio-another origin]", REQUESTS + "[asyncio-null origin]"),
    ),
    Defence(
        "api", "a start with a HostConfig is as closed as a create",
        (Change("engine/startbody.py", "    create.complete(config, host_config, container.id)\n", ""),),
        (BUILDS + "test_old_clients.py::test_it_is_as_closed_as_any_other",),
    ),
    Defence(
        "api", "paths have one spelling",
        (Change("api/router.py", "    if \"/.\" in path and not", "    if False and not"),),
        (REQUESTS + "[asyncio-dot-dot]", REQUESTS + "[asyncio-encoded dot-dot]", REQUESTS + "[asyncio-dot-dot behind the version]"),
    ),
    Defence(
        "api", "paths hold no control characters",
        (Change("api/router.py", "or _CONTROL.search(path) or", "or"),),
        (REQUESTS + "[asyncio-NUL in a path]", REQUESTS + "[asyncio-newline in a path]"),
    ),
    Defence(
        "api", "clients over TLS show a certificate",
        (Change("api/tls.py", "made.verify_mode = ssl.CERT_REQUIRED", "made.verify_mode = ssl.CERT_OPTIONAL"),),
        ("tests/clients/test_remote.py::test_without_a_certificate",),
    ),
    Defence(
        "api", "plain TCP has to be forced",
        (Change("api/listeners.py", "    if remote.context is None and not remote.forced:", "    if False:"),),
        ("tests/api/test_server.py::test_hosts_that_are_refused[tcp://0.0.0.0:0-only loopback]",),
    ),
    Defence(
        "api", "heads are bounded in time",
        (Change("api/protocol.py", "self._head_timer = self._loop.call_later(HEAD_DEADLINE, self._head_late)\n            data = b\"\"",
                "data = b\"\""),),
        ("tests/api/test_connection.py::test_a_head_has_a_deadline",),
    ),
    Defence(
        "api", "heads are bounded in size",
        (Change("api/protocol.py", "        if len(self._head) > MAX_HEAD or data:", "        if False:"),),
        (REQUESTS + "[asyncio-one field too large]", REQUESTS + "[asyncio-request line too long]",),
    ),
    Defence(
        "api", "the socket is its group's",
        (Change("api/listeners.py", "os.chmod(short, 0o660)", "os.chmod(short, 0o666)"),),
        ("tests/api/test_server.py::test_only_the_group_may_connect",),
    ),
)  # fmt: skip
