"""`boxwright-runtime`: an OCI runtime on bundles, on the same libcontainer as the engine.

What enters a container runs from a sealed copy of the interpreter (CVE-2019-5736): `create` and `run` execute
themselves again from one first, so this module imports next to nothing.
"""

import os
import sys

import boxwright
from boxwright import errdefs
from boxwright.linux import memfd
from boxwright.runtime import arguments

DEFAULT_ROOT = "/run/boxwright-runtime"
OCI_VERSION = "1.2.0"
_ENTERS = frozenset(("create", "run"))
_USAGE = """usage: boxwright-runtime [--root DIR] [--log FILE] [--log-format text|json] COMMAND

  run    [-b BUNDLE] [-d] [--keep] [--pid-file F] [--console-socket S] [--preserve-fds N] ID   create, start and wait
  create [-b BUNDLE] [--pid-file F] [--console-socket S] [--preserve-fds N] ID
  start  ID                 run the program of a created container
  state  ID                 print its OCI state
  kill   [--all] ID [SIGNAL]
  delete [--force] ID
"""


def main(words: "list[str] | None" = None, sealed: bool = False) -> int:
    """Run one command; the exit status: 0, the program's own for `run`, 1 after an error."""
    words = sys.argv[1:] if words is None else words
    given = None
    try:
        given = arguments.parse(words)
        if given.flag("--help"):
            print(_USAGE, end="")
            return 0
        if given.flag("--version"):
            print(f"boxwright-runtime version {boxwright.__version__}\nspec: {OCI_VERSION}")
            return 0
        if given.verb in _ENTERS and not sealed:
            _execute_sealed(words)
        memfd.forget_library_path()
        from boxwright.runtime.verbs import VERBS

        return VERBS[given.verb](given.value("--root", DEFAULT_ROOT), given)
    except errdefs.StepError as error:
        _report(given, f"{given.verb if given else ''} failed: unable to start container process: {error}", error.hint)
        return error.exit_code if given and given.verb == "run" else 1
    except (errdefs.Error, OSError, ValueError) as error:
        _report(given, str(error))
        return 1


def run_sealed() -> None:
    """What `_execute_sealed` executes; ends without taking the interpreter apart."""
    code = main(sealed=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _execute_sealed(words: "list[str]") -> None:
    source = os.path.dirname(os.path.dirname(os.path.abspath(boxwright.__file__)))
    program = f"import sys; sys.path[:0] = [{source!r}]; from boxwright.runtime.main import run_sealed; run_sealed()"
    memfd.execute_sealed(["-I", "-S", "-c", program, *words], dict(os.environ))


def _report(given: "arguments.Arguments | None", message: str, hint: str = "") -> None:
    """To stderr, and to --log in the form that containerd's shim reads back."""
    print(f"boxwright-runtime: {message}" + (f" ({hint})" if hint else ""), file=sys.stderr)
    path = given.value("--log") if given else ""
    if not path or given is None:
        return
    from time import gmtime, strftime

    from boxwright.libcontainer import jsontext

    moment = strftime("%Y-%m-%dT%H:%M:%SZ", gmtime())
    if given.value("--log-format") == "json":
        line = jsontext.dumps({"level": "error", "msg": message, "time": moment})
    else:
        line = f'time="{moment}" level=error msg={jsontext.dumps(message)}'
    with open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
