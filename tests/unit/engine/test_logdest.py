"""What the log options of a container make of names that its image chose."""

from types import SimpleNamespace
from typing import Any

import pytest

from boxwright.engine import logdest
from boxwright.errdefs import InvalidParameter


def container(labels: dict[str, str], **config: str) -> Any:
    log = SimpleNamespace(config={name.replace("_", "-"): value for name, value in config.items()})
    return SimpleNamespace(
        host_config=SimpleNamespace(log_config=log), config=SimpleNamespace(labels=labels, env=["SIZE=1", "B=2"])
    )


def test_patterns_choose_labels_and_variables() -> None:
    found = logdest.attributes(container({"color": "red", "shape": "x"}, labels_regex="^co|^z", env_regex="^SI"))
    assert found == {"color": "red", "SIZE": "1"}


@pytest.mark.timeout(20)
def test_a_pattern_takes_linear_time() -> None:
    """A pattern that looks harmless and a label that is not: Python's own engine would be at it for years."""
    assert logdest.attributes(container({"a" * 60 + "!": ""}, labels_regex="^(a+)+$")) == {}


@pytest.mark.parametrize("pattern", ["(", "[", "a{2,1}", "(?=a)", "x" * 1001])
def test_patterns_that_are_none(pattern: str) -> None:
    with pytest.raises(InvalidParameter, match="log opt env-regex: "):
        logdest.validate_templates({"env-regex": pattern})
