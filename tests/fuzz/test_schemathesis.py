"""schemathesis over Docker's definition of its API, against a real engine.

Every operation is asked with what its schemas allow and with what they do not.  Nothing may end in a 5xx of our making or
hang, answers fit the definition, and a request that is refused changes nothing.  A small part runs with the other tests;
`make fuzz` runs BOXWRIGHT_FUZZ=5000 cases.  BOXWRIGHT_FUZZ_SEED repeats a run.
"""

import os
import random
from typing import Any

import hypothesis
import pytest
import requests
from docker.transport import UnixHTTPAdapter
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from support import definition, tars
from support.engine import Engine
from support.furniture import clear, desired, furnish

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.timeout(3000)]

CASES = int(os.environ.get("BOXWRIGHT_FUZZ", "250"))
SEED = int(os.environ.get("BOXWRIGHT_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
TIMEOUT = 60.0  # seconds in which the head of an answer has to be there

# 501: refused by name.  503: swarm's, as an engine outside of one answers.
ALLOWED = {501, 503}
# What takes other people's networks or registries to answer.
LEFT_OUT = ("/images/search", "/distribution", "/auth", "/plugins/pull", "/plugins/privileges")
NOWHERE = "127.0.0.1:1"  # a registry that refuses the connection

# What is there for an operation to work on, by the beginning of its path; everything else finds nothing.
NAMES = {
    "/containers": ("box", "idle"),
    "/exec": ("{exec}",),
    "/images/{name}/push": (f"{NOWHERE}/busybox",),
    "/images": ("busybox", f"{NOWHERE}/busybox"),
    "/networks": ("bridge", "none", "host"),
    "/volumes": ("kept",),
}
KNOWN = 0.75  # how often one of those is asked for
# Parameters without which an operation has nothing to do.
LIKELY = {
    "container": ("box", "idle"),
    "path": ("/", "/etc", "/tmp/x/../..", "/etc/passwd"),
    "repo": ("made", f"{NOWHERE}/made", "a/b"),
    "tag": ("one", "", "two"),
    "name": ("box", "new", "other"),
    "h": ("24", "0"),
    "w": ("80", "-1"),
    "signal": ("KILL", "SIGTERM", "0", "cont"),
    # A stop of 2^63 seconds waits so long; the rest would be fetched.
    "t": ("0", "1", "x", ""),
    "fromImage": (f"{NOWHERE}/busybox",),
    "fromSrc": ("-", f"http://{NOWHERE}/archive"),
    "remote": ("", f"http://{NOWHERE}/context"),
}
ALWAYS = ("t", "fromImage", "fromSrc", "remote")
# What is refused as a whole is asked less often.
SWARM = ("/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs", "/plugins")
# Archives: a context that builds, files, a way out, rubbish.
ARCHIVES = st.sampled_from(
    [
        tars.pack(tars.member("Dockerfile", content=b"FROM busybox\nLABEL a=b\n")),
        tars.pack(tars.directory("d"), tars.member("d/f", content=b"x" * 5000), tars.symlink("l", "/etc/passwd")),
        tars.pack(tars.member("../out", content=b"x"), tars.member("/root/out", content=b"x")),
        tars.pack(tars.member("f", content=b"x" * 5000))[:700],
        b"",
        b"rubbish" * 300,
        b"\x1f\x8b" + b"\0" * 600,
    ]
)


@st.composite
def cases(draw: st.DrawFn, operations: list[Any], modes: list[Any]) -> Any:
    """A case of schemathesis', with names of what is there in most, and without what no test can wait for."""
    often = [operation for operation in operations if not operation.path.startswith(SWARM)]
    operation = draw(st.sampled_from(operations if draw(st.integers(0, 9)) == 0 else often))
    case = draw(operation.as_strategy(generation_mode=draw(st.sampled_from(modes))))
    names = next((names for prefix, names in NAMES.items() if operation.path.startswith(prefix)), ())
    if names and case.path_parameters and draw(st.floats(0, 1)) < KNOWN:
        case.path_parameters = dict.fromkeys(case.path_parameters, draw(st.sampled_from(names)))
    for name in sorted(set(case.query) & set(LIKELY)):
        if name in ALWAYS or draw(st.floats(0, 1)) < KNOWN:
            case.query[name] = draw(st.sampled_from(LIKELY[name]))
    if "fromSrc" in case.query and draw(st.booleans()):
        case.query.pop("fromImage", None)  # an archive is imported, as nothing is to be pulled
    if operation.path == "/containers/create" and isinstance(case.body, dict):
        _likely(draw, case.body)
    return case


def _likely(draw: st.DrawFn, body: dict[str, Any]) -> None:
    """Of a container in most cases an image that is there, and not everything at once that is refused."""
    if draw(st.booleans()):
        body["Image"] = "busybox"
    for fields in (body, body.get("HostConfig")):
        if isinstance(fields, dict) and draw(st.booleans()):
            few = draw(st.sets(st.sampled_from(sorted(fields)), max_size=3)) if fields else set()
            for name in set(fields) - few - {"Image", "HostConfig"}:
                del fields[name]


class Asking:
    """Sends cases to an engine and judges the answers."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.sent = engine, 0
        self.api = definition.strict(definition.load())
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.mount("http://engine/", UnixHTTPAdapter(f"http+unix://{engine.socket}", TIMEOUT))
        self.furnish()

    def furnish(self) -> None:
        """Put back what cases work on, and look at it."""
        furnish(self.engine)
        self.engine.api("POST", f"/images/busybox/tag?repo={NOWHERE}/busybox")
        self.engine.api("POST", "/volumes/create", {"Name": "kept"})
        made = self.engine.api("POST", "/containers/box/exec", {"Cmd": ["true"]})
        self.exec = made.json["Id"] if made.status == 201 else "gone"
        self.before = desired(self.engine)

    def ask(self, case: Any) -> None:
        """One case: send, judge, and put back what it has changed."""
        self.sent += 1
        if "{exec}" in case.path_parameters.values():
            case.path_parameters = dict.fromkeys(case.path_parameters, self.exec)
        told = f"case {self.sent} of seed {SEED}: {case.as_curl_command()[:3000]}"
        with self._send(case) as answer:
            if "Content-Length" in answer.headers:
                self._judge(case, answer, told)
            assert answer.status_code < 500 or answer.status_code in ALLOWED or NOWHERE in answer.text, (
                f"{answer.status_code}: {told}\n{answer.text}\n{self.engine.log.read_text()[-3000:]}"
            )
        assert self.engine.process
        assert self.engine.process.poll() is None, told
        if answer.status_code >= 400:
            assert desired(self.engine) == self.before, told
        elif case.method.upper() not in ("GET", "HEAD"):
            if self.sent % 10 == 0:
                clear(self.engine)
            self.furnish()

    def _send(self, case: Any) -> requests.Response:
        sent = case.as_transport_kwargs(base_url=f"http://engine{self.engine.version}")
        sent.pop("cookies", None)
        return self.session.request(**sent, stream=True, timeout=TIMEOUT, allow_redirects=False)

    def _judge(self, case: Any, answer: requests.Response, told: str) -> None:
        """What comes at once and whole has to be what the definition says, and a refusal a message."""
        path, method, status = case.operation.path, case.method.lower(), answer.status_code
        if status == 304 or method == "head":
            return
        body = answer.json() if answer.headers.get("Content-Type") == "application/json" else answer.text
        if status >= 400:
            assert isinstance(body, dict), f"{answer.text}: {told}"
            assert [*body] == ["message"], f"{answer.text}: {told}"
        described = self.api["paths"][path][method]["responses"].get(status, {})
        if "schema" in described and described["schema"].get("type") != "file":
            try:
                definition.check(self.api, path, method, status, body)
            except AssertionError as error:
                raise AssertionError(f"{told}\n{answer.text[:3000]}\n{error}") from None


@pytest.fixture(scope="module")
def strategy() -> st.SearchStrategy[Any]:
    """Cases for every operation that is not left out."""
    import schemathesis

    for kind in ("application/x-tar", "application/octet-stream"):
        schemathesis.openapi.media_type(kind, ARCHIVES)
    schema = schemathesis.openapi.from_dict(definition.load())
    every = [operation.ok() for operation in schema.get_all_operations()]
    asked = [operation for operation in every if not operation.path.startswith(LEFT_OUT)]
    assert len(asked) > 100
    return cases(asked, [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE])


def test_what_schemathesis_makes_up(engine: Engine, strategy: st.SearchStrategy[Any]) -> None:
    asking = Asking(engine)

    @hypothesis.seed(SEED)
    @hypothesis.settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # an engine remembers: smaller cases would meet another one
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(strategy)
    def every(case: Any) -> None:
        asking.ask(case)

    every()
    assert asking.sent >= CASES
    clear(engine)
