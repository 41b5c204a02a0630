"""Git repositories, and servers of them on loopback: git's own http-backend behind a small web server, and git daemon."""

import contextlib
import http.server
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

DEADLINE = 30.0  # seconds
_ENVIRONMENT = {
    **os.environ,
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_DATE": "1700000000 +0000",
    "GIT_COMMITTER_DATE": "1700000000 +0000",
    **{f"GIT_{who}_{what}": "t@example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


def git(directory: Path, *arguments: str, stdin: bytes = b"") -> str:
    """Run git in a directory; returns its output.  Raises CalledProcessError."""
    command = ["git", "-c", "protocol.file.allow=always", "-C", str(directory), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, env=_ENVIRONMENT)
    if done.returncode:
        raise RuntimeError(f"git {' '.join(arguments)}: {done.stderr.decode()}")
    return done.stdout.decode().strip()


def make(path: Path, branch: str = "main") -> Path:
    """A new repository with a work tree."""
    path.mkdir(parents=True)
    git(path, "init", "-q", "-b", branch)
    for name, value in (("uploadpack.allowAnySHA1InWant", "true"), ("receive.denyCurrentBranch", "ignore")):
        git(path, "config", name, value)
    return path


def commit(path: Path, files: Mapping[str, str]) -> str:
    """Write files ("-> x" is a link), commit them; returns the commit's id."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        if content.startswith("-> "):
            (path / name).symlink_to(content[3:])
        else:
            (path / name).write_text(content)
            (path / name).chmod(0o755 if content.startswith("#!") else 0o644)
    git(path, "add", "-A", "-f")
    git(path, "commit", "-q", "-m", "c")
    return git(path, "rev-parse", "HEAD")


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""

    def _serve(self) -> None:
        server = cast("Server", self.server)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        # As whoever asks a proxy says it, too.
        path, _, query = self.path.removeprefix(f"http://{self.headers.get('Host')}").partition("?")
        server.asked.append((self.path, dict(self.headers)))
        for prefix, target in server.redirects.items():
            if path.startswith(prefix):
                self.send_response(302)
                self.send_header("Location", target + self.path[len(prefix) :])
                self.end_headers()
                return
        if server.password and self.headers.get("Authorization") != server.password:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="test"')
            self.end_headers()
            return
        environment = {
            **_ENVIRONMENT,
            "GIT_PROJECT_ROOT": str(server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", "") if server.modern else "",
        }
        done = subprocess.run(
            ["git", "-c", "safe.directory=*", "http-backend"], input=body, capture_output=True, env=environment
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Server(http.server.ThreadingHTTPServer):
    """The repositories below `root`, by http.

    asked: (path, headers) of every request.  redirects: by the beginning of a path.  password: the header that has to
    come, "" none.  modern: whether protocol 2 is spoken.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.redirects: dict[str, str] = {}
        self.password = ""
        self.modern = True

    @property
    def address(self) -> str:
        """HOST:PORT"""
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        """http://HOST:PORT"""
        return f"http://{self.address}"


@contextlib.contextmanager
def served(root: Path) -> Iterator[Server]:
    """A server that ends with the block."""
    server = Server(root)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def daemon(root: Path) -> Iterator[str]:
    """The same repositories by git's own protocol; the URL's beginning."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = ["git", "-c", "safe.directory=*", "daemon", f"--base-path={root}", "--export-all", "--listen=127.0.0.1"]
    process = subprocess.Popen(
        [*command, f"--port={port}", "--reuseaddr"], env=_ENVIRONMENT, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        end = time.monotonic() + DEADLINE
        while True:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("git daemon does not answer")
            select.select([], [], [], 0.02)
        yield f"git://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)  # git runs the daemon as a child
        process.wait(30)
