"""`--change` of import and commit: what dockerd makes of each instruction (asked of dockerd 20.10), and its texts."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.errdefs import InvalidParameter
from boxwright.images.changes import apply
from boxwright.specs.image import Defaults

GOOD: list[tuple[str, dict[str, Any]]] = [
    ('CMD ["a","b"]', {"Cmd": ["a", "b"]}),
    ('cmd ["a"]', {"Cmd": ["a"]}),
    ("CMD echo hi $X", {"Cmd": ["/bin/sh", "-c", "echo hi $X"]}),
    ("CMD", {"Cmd": ["/bin/sh", "-c"]}),
    ('CMD ["a"', {"Cmd": ["/bin/sh", "-c", '["a"']}),
    ('ENTRYPOINT ["x"]', {"Entrypoint": ["x"]}),
    ("ENTRYPOINT x y", {"Entrypoint": ["/bin/sh", "-c", "x y"]}),
    ("ENTRYPOINT []", {}),
    ('ENV a=b c="d e" f=g\\ h', {"Env": ["a=b", "c=d e", "f=g h"]}),
    ("ENV a b c", {"Env": ["a=b c"]}),
    ("ENV a=$b", {"Env": ["a="]}),
    ("ENV a='$b'", {"Env": ["a=$b"]}),
    ("ENV a=1\nENV a=2", {"Env": ["a=2"]}),
    ("EXPOSE 80 90/udp 100-101", {"ExposedPorts": {"80/tcp": {}, "90/udp": {}, "100/tcp": {}, "101/tcp": {}}}),
    ("EXPOSE 8080:80", {"ExposedPorts": {"80/tcp": {}}}),
    ('LABEL a=b "c d"=e', {"Labels": {"a": "b", "c d": "e"}}),
    ("VOLUME /a /b", {"Volumes": {"/a": {}, "/b": {}}}),
    ('VOLUME ["/x"]', {"Volumes": {"/x": {}}}),
    ("WORKDIR foo", {"WorkingDir": "/foo"}),
    ("WORKDIR /a\nWORKDIR b", {"WorkingDir": "/a/b"}),
    ("USER a:b", {"User": "a:b"}),
    ("ONBUILD RUN x", {"OnBuild": ["RUN x"]}),
    ("STOPSIGNAL SIGQUIT", {"StopSignal": "SIGQUIT"}),
    ("HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
    (
        "HEALTHCHECK --interval=5s --retries=3 CMD true",
        {"Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5 * 10**9, "Retries": 3}},
    ),
    ('CMD ["a"]\n# a comment\nENV x=y', {"Cmd": ["a"], "Env": ["x=y"]}),
    ("ENV a=b \\\n c=d", {"Env": ["a=b", "c=d"]}),
]

BAD = [
    ("RUN x", "run is not a valid change command"),
    ("FOO x", "foo is not a valid change command"),
    ("SHELL ['x']", "shell is not a valid change command"),
    ("# CMD x", "file with no instructions"),
    ("ENV a", "ENV must have two arguments"),
    ("ENV =b", "ENV names can not be blank"),
    ("LABEL a", "LABEL must have two arguments"),
    ("EXPOSE", "EXPOSE requires at least one argument"),
    ("EXPOSE x", "Invalid containerPort: x"),
    ("EXPOSE 99999", "Invalid containerPort: 99999"),
    ("EXPOSE 10-5", "Invalid containerPort: 10-5"),
    ("EXPOSE 80/foo", "Invalid proto: foo"),
    ("USER", "USER requires exactly one argument"),
    ("WORKDIR", "WORKDIR requires exactly one argument"),
    ("VOLUME", "VOLUME requires at least one argument"),
    ('VOLUME [""]', "VOLUME specified can not be an empty string"),
    ("HEALTHCHECK foo", 'Unknown type "FOO" in HEALTHCHECK (try CMD)'),
    ("HEALTHCHECK --interval=5 CMD x", 'time: missing unit in duration "5"'),
    ("HEALTHCHECK --retries=-1 CMD x", "--retries must be at least 1 (not -1)"),
    ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
]


@pytest.mark.parametrize(("text", "config"), GOOD)
def test_what_an_instruction_changes(text: str, config: dict[str, Any]) -> None:
    assert msgspec.to_builtins(apply(Defaults(), [text])) == config


@pytest.mark.parametrize(("text", "message"), BAD)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        apply(Defaults(), [text])
    assert str(caught.value) == message


@given(st.sampled_from(["ENV", "LABEL", "CMD", "EXPOSE", "VOLUME", "HEALTHCHECK", "USER"]), st.text(max_size=40))
def test_any_text_changes_something_or_is_refused(name: str, text: str) -> None:
    try:
        msgspec.json.encode(apply(Defaults(), [f"{name} {text}"]))
    except InvalidParameter:
        pass


ENVIRONMENT = ["PATH=/bin", "OWN=1", "EMPTY="]
EXPANDED: list[tuple[str, str, Any]] = [
    ("ENV A=$OWN", "Env", [*ENVIRONMENT, "A=1"]),
    ("ENV A=${OWN}2 B='$OWN' C=\\$OWN", "Env", [*ENVIRONMENT, "A=12", "B=$OWN", "C=$OWN"]),
    ("ENV OWN=2 A=$OWN", "Env", ["PATH=/bin", "EMPTY=", "OWN=2", "A=1"]),  # as it was before the instruction
    ("ENV PATH=$PATH:/x", "Env", ["OWN=1", "EMPTY=", "PATH=/bin:/x"]),
    ("ENV A=1\nENV B=$A", "Env", [*ENVIRONMENT, "A=1", "B=1"]),
    ("ENV A=${NONE:-x} B=${EMPTY:-x} C=${EMPTY-x} D=${NONE-x}", "Env", [*ENVIRONMENT, "A=x", "B=x", "C=", "D=x"]),
    ("ENV A=${OWN:+x} B=${EMPTY:+x} C=${EMPTY+x} D=${NONE+x}", "Env", [*ENVIRONMENT, "A=x", "B=", "C=x", "D="]),
    ("ENV A=${NONE:-$OWN}", "Env", [*ENVIRONMENT, "A=1"]),
    ("LABEL a=$OWN", "Labels", {"a": "1"}),
    ("WORKDIR /x/$OWN", "WorkingDir", "/x/1"),
    ("USER $OWN", "User", "1"),
    ("EXPOSE 808$OWN", "ExposedPorts", {"8081/tcp": {}}),
    ("VOLUME /v$OWN", "Volumes", {"/v1": {}}),
    ('VOLUME ["/v$OWN"]', "Volumes", {"/v1": {}}),
    ("CMD echo $OWN", "Cmd", ["/bin/sh", "-c", "echo $OWN"]),  # for the shell to expand
]


@pytest.mark.parametrize(("text", "field", "expected"), EXPANDED)
def test_variables_of_the_environment(text: str, field: str, expected: Any) -> None:
    assert msgspec.to_builtins(apply(Defaults(env=list(ENVIRONMENT)), [text]))[field] == expected


def test_an_entrypoint_takes_the_command_away() -> None:
    assert apply(Defaults(cmd=["x"]), ['ENTRYPOINT ["y"]']).cmd is None
    assert apply(Defaults(cmd=["x"]), ['CMD ["z"]', 'ENTRYPOINT ["y"]']).cmd == ["z"]
    assert apply(Defaults(entrypoint=["y"], cmd=["x"]), ["USER a"]).cmd == ["x"]
