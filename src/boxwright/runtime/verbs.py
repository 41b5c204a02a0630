"""The verbs of the OCI runtime."""

import sys

from boxwright import errdefs
from boxwright.libcontainer import jsontext, state
from boxwright.libcontainer.container import Container
from boxwright.linux import signals
from boxwright.runtime import create

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from boxwright.runtime.arguments import Arguments


def start(root: str, given: "Arguments") -> int:
    """Open the gate of a created container."""
    Container.load(root, given.operands[0]).start()
    return 0


def show_state(root: str, given: "Arguments") -> int:
    """Print the OCI state document."""
    sys.stdout.write(jsontext.dumps(Container.load(root, given.operands[0]).oci_state()) + "\n")
    return 0


def kill(root: str, given: "Arguments") -> int:
    """Send a signal, SIGTERM by default."""
    container = Container.load(root, given.operands[0])
    try:
        number = signals.number(given.operands[1] if len(given.operands) > 1 else "TERM")
    except ValueError as error:
        raise errdefs.InvalidParameter(str(error)) from None
    everything = given.flag("--all")
    if not everything:
        state.require("kill", container.status(), container.id)
    container.kill(number, everything)
    return 0


def delete(root: str, given: "Arguments") -> int:
    """Remove a container that is stopped or was never started; with --force whatever it is, existing or not."""
    force = given.flag("--force")
    try:
        container = Container.load(root, given.operands[0])
    except errdefs.NotFound:
        if force:
            return 0
        raise
    status = container.status()
    if status != state.STOPPED:
        if status != state.CREATED and not force:
            raise errdefs.Conflict(f"cannot delete container {container.id} that is not stopped: {status}")
        try:
            container.kill(signals.SIGKILL)
        except errdefs.Conflict:  # it ended by itself
            pass
    create.remove(container)
    return 0


VERBS: "dict[str, Callable[[str, Arguments], int]]" = {
    "create": create.create,
    "run": create.run,
    "start": start,
    "state": show_state,
    "kill": kill,
    "delete": delete,
}
