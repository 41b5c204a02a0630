"""The launcher: a small, warm interpreter that forks, so that no start pays for one.

Executed by `client.py` as `python -I -c BOOT …`; it leaves its parent, re-executes itself from a sealed memfd (whatever
enters a container must not lead back to a file of the host), loads everything that its children will need, freezes the
garbage collector and listens.  One packet on a connection with one descriptor means: fork a child that serves that
descriptor, a control socket; the packet's bytes are the child's too.  The launcher reads nothing of what goes through
that socket, so its pages stay as they are and shared with every child (decoding requests here doubled the memory of
each shim).

It is the subreaper of what its children leave behind, and goes when nobody is connected and no child is left.
"""

import gc
import os
import select
import sys
from _socket import CMSG_SPACE, MSG_CMSG_CLOEXEC, SHUT_RDWR, socket

from boxwright.launcher import packets
from boxwright.launcher.gathering import fill_holes
from boxwright.linux import memfd, process, signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Handler = Callable[[socket, bytes], None]

# `-c` text for the interpreter: argv is [-c, directory of the package, kind, exec root, listening descriptor].
# The package comes by its directory, because without `site` (-S: fewer pages, nobody's .pth files) nothing else leads
# to it.
BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from boxwright.launcher.launcher import main; main(sys.argv)"
OPTIONS = {"shim": ["-I", "-S", "-X", "utf8"], "worker": ["-I", "-X", "utf8"]}

RETIRE = b"retire"  # a packet without a descriptor: let another take over; children keep this one alive
_SPARE_NAME = b"boxwright-spare"  # of a shim that waits for its container
IDLE_SECONDS = 2.0  # without a connection and without a child
AGAIN_SECONDS = packets.AGAIN_NS / 1e9
BACKLOG = 1024
_ONE_FD = CMSG_SPACE(4)


def main(argv: list[str]) -> None:
    """The launcher's whole life; does not return."""
    kind, exec_root, listening = argv[2], argv[3], int(argv[4])
    if not memfd.is_sealed():
        _leave_parent()
        os.set_inheritable(listening, True)
        memfd.execute_sealed([*OPTIONS[kind], "-c", BOOT, *argv[1:]], dict(os.environ))
    memfd.forget_library_path()
    os.set_inheritable(listening, False)
    _settle(kind, listening)
    _Launcher(socket(fileno=listening), kind, _preload(kind, exec_root)).run()
    os._exit(0)


def _leave_parent() -> None:
    """Become a session of its own whose parent is init: the engine has no child to reap, and may die."""
    if os.fork():
        os._exit(0)
    os.setsid()


def _settle(kind: str, listening: int) -> None:
    process.close_all_except({0, 1, 2, listening})
    process.reset_signals()
    process.become_subreaper()
    process.set_dumpable(False)
    os.chdir("/")
    os.umask(0o022)
    # Inherited by every child; what enters a container takes the defaults again.
    for number in (signals.SIGPIPE, signals.SIGXFSZ, signals.SIGHUP, signals.SIGINT):
        signals.ignore(number)


def _preload(kind: str, exec_root: str) -> "Handler":
    """Load what children need, then make sure that nothing is ever loaded again, and freeze.  What children do."""
    if kind == "worker":
        from boxwright.launcher import worker

        worker.warm_up()
        serve: Handler = worker.serve
    else:
        from boxwright.launcher import rehearsal, shim

        rehearsal.warm_up(exec_root)
        # What few shims need comes last: between what all of them use it would spread that over more pages.
        import boxwright.launcher.logpipe
        import boxwright.launcher.relay
        import boxwright.logger.local
        import boxwright.logger.packing  # noqa: F401

        serve = shim.serve
    # A child that has entered a container's root must not import from it: there is nowhere left to import from.
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
    gc.collect()
    gc.disable()
    fill_holes()
    gc.freeze()
    return serve


class _Launcher:
    """Forks a child for each request.

    serve(control, asked): what a child does with its control socket and the bytes of the request.
    """

    def __init__(self, listener: socket, kind: str, serve: "Handler") -> None:
        listener.setblocking(False)
        self._listener, self._serve = listener, serve
        self._connections: dict[int, socket] = {}
        self._deaf = False  # whether connections wait for a descriptor
        self._ended = signals.descriptor(signals.SIGCHLD)
        self._epoll = select.epoll()
        self._epoll.register(listener.fileno(), select.EPOLLIN)
        self._epoll.register(self._ended, select.EPOLLIN)
        # A child takes its name from here: a name of its own making would cost each of them twelve pages.
        self._comm = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
        self._name, self._child_name = f"bw-launch-{kind}"[:15].encode(), f"boxwright-{kind}"[:15].encode()
        os.write(self._comm, self._name)

    def run(self) -> None:
        """Accept, fork, reap, until nobody is connected and no child is left."""
        connections = self._connections
        while True:
            ready = self._epoll.poll(AGAIN_SECONDS if self._deaf else -1 if connections else IDLE_SECONDS)
            if self._deaf:
                self._hear()
            elif not ready and not _has_children() and self._close_door():
                return
            for fd, _ in ready:
                if fd == self._listener.fileno():
                    self._accept()
                elif fd == self._ended:
                    os.read(fd, 4096)
                    _has_children()
                elif (connection := connections.get(fd)) and not self._request(connection):
                    self._disconnect(fd)

    def _accept(self) -> None:
        try:
            connection = packets.accept(self._listener)
        except BlockingIOError:  # gone again
            return
        except OSError:  # no descriptor for it: it stays in the backlog, which is not looked at for a moment
            self._epoll.modify(self._listener.fileno(), 0)
            self._deaf = True
            return
        self._connections[connection.fileno()] = connection
        self._epoll.register(connection.fileno(), select.EPOLLIN)

    def _hear(self) -> None:
        self._deaf = False
        if self._listener.fileno() >= 0:
            self._epoll.modify(self._listener.fileno(), select.EPOLLIN)

    def _close_door(self) -> bool:
        """Listen no more; False when somebody came before that, and is to be served still.

        Shut down first: whoever connects from then on is refused, and executes another launcher.  What had connected
        by then is in the backlog, and would be lost with it.
        """
        if self._listener.fileno() < 0:
            return True
        self._listener.shutdown(SHUT_RDWR)
        before = -1
        while len(self._connections) != before:
            before = len(self._connections)
            self._accept()
        self._epoll.unregister(self._listener.fileno())
        self._listener.close()
        self._deaf = False
        return not self._connections

    def _disconnect(self, fd: int) -> None:
        self._epoll.unregister(fd)
        self._connections.pop(fd).close()

    def _request(self, connection: socket) -> bool:
        """One packet from an engine; False when the connection is over."""
        try:
            data, ancillary, _, _ = connection.recvmsg(packets.LONGEST_REQUEST, _ONE_FD, MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if data == RETIRE and self._listener.fileno() >= 0:
            self._epoll.unregister(self._listener.fileno())
            self._listener.close()
        if len(ancillary) == 1:
            control = int.from_bytes(ancillary[0][2][:4], sys.byteorder)
            self._fork(control, data)
            os.close(control)
        return bool(data)

    def _fork(self, sock: int, asked: bytes) -> None:
        """One child that serves `sock`, which stays the caller's to close.

        What the launcher itself touches here counts for every shim: the page it writes to is shared with none of them
        any more.  So this is os.fork (which calls the same hooks as our clone), and plain numbers.
        """
        os.write(self._comm, _SPARE_NAME if asked.startswith(packets.SPARE) else self._child_name)
        try:
            pid = os.fork()
        except OSError as failure:
            os.write(self._comm, self._name)
            _refuse(sock, failure)
            return
        if pid:
            os.write(self._comm, self._name)
            return
        code = 1
        try:
            os.closerange(3, sock)
            os.closerange(sock + 1, packets.HIGHEST_FD)
            os.setsid()
            self._serve(socket(fileno=sock), asked)
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())  # to the launcher's log; in C, so that nothing is imported
        finally:
            os._exit(code)


def _refuse(control: int, failure: OSError) -> None:
    """Tell the engine that there is no child (a limit on processes or memory): it would wait for ever."""
    sock = socket(fileno=os.dup(control))
    error = {"class": "System", "message": f"cannot fork: {failure.strerror}", "errno": failure.errno}
    try:
        packets.send(sock, {"type": "failed", "generation": -1, "error": error})
    except OSError:
        pass
    sock.close()


def _has_children() -> bool:
    """Reap what has ended; whether a child is left.  How a shim ended nobody asks: the engine sees its socket close."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return False
    return True
