"""What the launcher and the OCI runtime import, down to the last module: each is memory of every container's shim and
time of every start.  A module that joins the set has to be listed here, with its reason in the commit."""

import subprocess
import sys

import pytest

CORE = {
    # the interpreter itself, before any of our code (python -I -S)
    "__main__", "_abc", "_codecs", "_frozen_importlib", "_frozen_importlib_external", "_imp", "_io", "_signal", "_stat",
    "_thread", "_warnings", "_weakref", "abc", "builtins", "codecs", "encodings", "encodings.aliases", "encodings.utf_8",
    "genericpath", "io", "marshal", "os", "os.path", "posix", "posixpath", "stat", "sys", "time", "zipimport",
}  # fmt: skip


def closure(statement: str) -> set[str]:
    """Names in sys.modules after `statement` in a fresh isolated interpreter."""
    program = f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}; {statement}; print(*sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


def foreign(names: set[str]) -> set[str]:
    return {name for name in names if not name.startswith("boxwright")} - CORE


# `socket` brings selectors and enum, `json` brings re: both are worth it.  The rest is C, or small; `zlib` checks the
# local driver's blocks and packs rotated logs.
ALLOWED = {
    "_collections", "_collections_abc", "_ctypes", "_functools", "_json", "_operator", "_socket", "_sre", "_struct",
    "_typing", "array", "collections", "collections.abc", "copyreg", "ctypes", "ctypes._endian", "enum", "errno",
    "fcntl", "functools", "gc", "itertools", "json", "json.decoder", "json.encoder", "json.scanner", "keyword", "math",
    "operator", "re", "re._casefix", "re._compiler", "re._constants", "re._parser", "reprlib", "resource", "select",
    "selectors", "signal", "socket", "struct", "termios", "types", "zlib",
}  # fmt: skip
if sys.version_info >= (3, 14):  # what ctypes brings there
    ALLOWED |= {"_contextvars", "_py_warnings", "_types", "_weakrefset", "ctypes._layout", "linecache", "sysconfig"}
    ALLOWED |= {"threading", "warnings"}


@pytest.mark.parametrize(
    "module",
    [
        "boxwright.launcher.launcher",
        "boxwright.launcher.shim",
        "boxwright.launcher.logpipe",
        "boxwright.launcher.relay",
        "boxwright.runtime.main",
    ],
)
def test_closure_stays_inside_the_list(module: str) -> None:
    assert foreign(closure(f"import {module}")) <= ALLOWED


def test_heavy_modules_stay_out() -> None:
    found = closure("import boxwright.launcher.launcher, boxwright.launcher.shim, boxwright.launcher.logpipe")
    assert not found & {"asyncio", "logging", "dataclasses", "typing", "argparse", "pathlib", "subprocess", "inspect"}
    assert not {name for name in found if name.split(".")[0] in ("msgspec", "aiohttp", "uvloop", "pyroute2")}
