"""Confined job of a build: a commit of a Git repository, and of its submodules, becomes archives.

git runs in a child that is nobody (`launcher/programs.py`).  Nothing is checked out: the commit is fetched into a bare
repository below /work, and git writes its tree as an archive, which is as hostile as any other and unpacked like it.
No hook, filter, credential helper or configuration of the host takes part, and of protocols only http, https and git.
"""

import json
import os
import re
import resource

from boxwright.confined import Args, Confinement
from boxwright.errdefs import System
from boxwright.storage.tarwriter import Described, Writer, described

_PLACES = ("/usr/bin/git", "/usr/local/bin/git", "/bin/git")
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/work",
    "TMPDIR": "/work",
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "SSH_ASKPASS": "",
    "GIT_ALLOW_PROTOCOL": "http:https:git",
    "GIT_PROTOCOL_FROM_USER": "0",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
}
_SETTINGS = (
    "core.hooksPath=/dev/null", "core.fsmonitor=false", "core.bigFileThreshold=8m", "core.packedGitWindowSize=16m",
    "core.packedGitLimit=256m", "core.deltaBaseCacheLimit=64m", "credential.helper=", "fetch.recurseSubmodules=false",
    "fetch.unpackLimit=1", "fetch.writeCommitGraph=false", "gc.auto=0", "http.followRedirects=initial",
    "http.lowSpeedLimit=1", "http.lowSpeedTime=60", "maintenance.auto=false", "pack.threads=1", "protocol.version=2",
    "tar.umask=0022", "transfer.bundleURI=false", "transfer.unpackLimit=1",
)  # fmt: skip
# Over what the repository says of itself: its own attributes would leave files out, or fill in words.
_ATTRIBUTES = b"* -export-ignore -export-subst\n"
_WHOLE = "--depth=2147483647"
_EVERYTHING = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
_MOST_SUBMODULES, _DEEPEST = 300, 8
_LARGEST_ANSWER = 1 << 20  # of git, where it is not an archive, bytes
_LONGEST_PROBLEM = 700
_SIGXFSZ = 25
_PASSWORD = re.compile(r"://[^/\s'\"]*@")
_HEX = frozenset("0123456789abcdef")
_SCHEMES = ("https://", "http://", "git://")


def fetch(args: Args, fds: list[int], confinement: Confinement) -> Args:
    """Job `build.repository`: write the archives of a commit to the file fds[0], one after the other.

    args: remote (a URL), ref ("" the remote's HEAD), keep (whether .git is a part of it), submodules, environment
    (proxies), limit (of what is fetched, and of the archives, bytes).  fds[1]: an empty directory to work in.
    Result: commit (its id), parts: [[offset, size], …] of the archives, to be unpacked in this order.
    Raises System for what git says.
    """
    out, work = fds
    data, wait = confinement.programs(lambda answer: _answer(args, out, answer), [out], work, int(args["limit"]))
    os.close(work)
    confinement.enter(-1)
    answer = b""
    while piece := os.read(data, 1 << 16):
        answer += piece
    if problem := wait():
        raise System(problem)
    found: Args = json.loads(answer)
    return found


def _answer(args: Args, out: int, answer: int) -> None:
    """In the child."""
    found = _Fetch(args, out).run()
    data = json.dumps(found).encode()
    while data:
        data = data[os.write(answer, data) :]


class _Fetch:
    """One repository and those below it."""

    def __init__(self, args: Args, out: int) -> None:
        self._args, self._out = args, out
        self._environment = {**_ENVIRONMENT, **args["environment"]}
        self._limit = self._left = int(args["limit"])
        self._parts: list[list[int]] = []
        self._count = 0
        self._git = next((path for path in _PLACES if os.access(path, os.X_OK)), "")
        if not self._git:
            raise System("git is not installed on this host (Debian's package: git)")

    def run(self) -> Args:
        """The job's result."""
        remote, ref = str(self._args["remote"]), str(self._args["ref"])
        commit = self._repository("0", remote, ref or "HEAD", b"", 0)
        if self._args["keep"]:
            self._keep("0", remote, commit)
        return {"commit": commit, "parts": self._parts}

    def _repository(self, name: str, remote: str, ref: str, prefix: bytes, depth: int) -> str:
        """Fetch into the directory `name` and write the archive, below `prefix`; returns the commit's id."""
        self._run(name, "init", "--quiet", "--bare", "--template=", f"/work/{name}", inside=False)
        os.makedirs(f"/work/{name}/info", exist_ok=True)
        with open(f"/work/{name}/info/attributes", "wb") as file:
            file.write(_ATTRIBUTES)
        self._fetch(name, remote, ref)
        commit = self._run(name, "rev-parse", "--verify", "FETCH_HEAD^{commit}").decode().strip()
        start = os.lseek(self._out, 0, os.SEEK_CUR)
        options: list[str | bytes] = ["--format=tar", *([b"--prefix=" + prefix + b"/"] if prefix else [])]
        self._run(name, "archive", *options, commit, out=self._out)
        self._parts.append([start, os.lseek(self._out, 0, os.SEEK_CUR) - start])
        if self._args["submodules"]:
            self._submodules(name, remote, commit, prefix, depth)
        return commit

    def _fetch(self, name: str, remote: str, ref: str) -> None:
        command = ["fetch", "--quiet", "--no-tags", "--no-recurse-submodules"]
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._left, hard))
        try:
            self._run(name, *command, "--depth=1", "--", remote, ref)
        except System:
            if max(self._sizes(name), default=0) >= self._left:
                raise self._too_large() from None
            # Older servers give away only what a branch or a tag names, and what leads there.
            if not (len(ref) in (40, 64) and _HEX.issuperset(ref)):
                raise
            self._run(name, *command, _WHOLE, "--", remote, *_EVERYTHING)
            self._run(name, "rev-parse", "--verify", f"{ref}^{{commit}}")
            with open(f"/work/{name}/FETCH_HEAD", "wb") as file:
                file.write(ref.encode() + b"\t\t\n")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self._limit, hard))
        self._left -= sum(self._sizes(name))
        if self._left <= 0:
            raise self._too_large()

    def _sizes(self, name: str) -> list[int]:
        walk = os.walk(f"/work/{name}/objects")
        return [os.stat(f"{directory}/{file}").st_size for directory, _, files in walk for file in files]

    def _too_large(self) -> System:
        return System(f"the Git repository is larger than {self._limit} bytes")

    # -- submodules ----------------------------------------------------------------------------------------------------

    def _submodules(self, name: str, remote: str, commit: str, prefix: bytes, depth: int) -> None:
        modules = f"{commit}:.gitmodules"
        if not self._run(name, "ls-tree", "-z", commit, "--", ".gitmodules").startswith(b"100"):
            return
        listed = self._run(
            name, "config", "--no-includes", "--blob", modules, "-z", "--get-regexp", r"^submodule\..*\.(path|url)$",
            codes=(0, 1),
        )  # fmt: skip
        found: dict[bytes, dict[bytes, bytes]] = {}
        for line in listed.split(b"\0"):
            key, _, value = line.partition(b"\n")
            module, _, field = key.rpartition(b".")
            found.setdefault(module, {}).setdefault(field, value)
        for fields in found.values():
            path, url = fields.get(b"path", b"").rstrip(b"/"), fields.get(b"url", b"")
            entry = self._run(name, "ls-tree", "-z", commit, "--", path) if path else b""
            if not entry.startswith(b"160000 commit "):
                continue
            self._count += 1
            if self._count > _MOST_SUBMODULES or depth >= _DEEPEST:
                raise System(f"the Git repository has too many submodules: {path.decode(errors='replace')[:200]}")
            below = prefix + b"/" + path if prefix else path
            where = _joined(remote, url.decode("utf-8", "surrogateescape"))
            self._repository(str(self._count), where, entry.split(b"\t")[0].split()[2].decode(), below, depth + 1)

    # -- .git ----------------------------------------------------------------------------------------------------------

    def _keep(self, name: str, remote: str, commit: str) -> None:
        """Add the repository itself, as one that has been checked out."""
        fetched = self._run(name, "rev-parse", "--verify", "FETCH_HEAD").decode().strip()
        with open(f"/work/{name}/FETCH_HEAD", "rb") as file:
            said = file.read(1 << 16).split(b"\n")[0].split(b"\t")[-1].decode("utf-8", "surrogateescape")
        kind, _, rest = said.partition(" '")
        called = rest.partition("'")[0]
        if kind in ("branch", "tag") and called:
            full = f"refs/{'heads' if kind == 'branch' else 'tags'}/{called}"
            self._run(name, "update-ref", full, fetched if kind == "tag" else commit)
        if kind == "branch" and called:
            self._run(name, "symbolic-ref", "HEAD", f"refs/heads/{called}")
        else:
            self._run(name, "update-ref", "--no-deref", "HEAD", commit)
        self._run(name, "read-tree", commit)
        self._run(name, "config", "remote.origin.url", _PASSWORD.sub("://", remote))
        self._run(name, "config", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*")
        self._run(name, "config", "core.bare", "false")
        for leftover in ("FETCH_HEAD", "info/attributes"):
            os.unlink(f"/work/{name}/{leftover}")
        start = os.lseek(self._out, 0, os.SEEK_CUR)
        writer = Writer(self._write, _as_root)
        _add(writer, f"/work/{name}", b".git")
        writer.finish()
        self._parts.append([start, os.lseek(self._out, 0, os.SEEK_CUR) - start])

    def _write(self, data: memoryview) -> None:
        while data:
            data = data[os.write(self._out, data) :]

    # -- git -----------------------------------------------------------------------------------------------------------

    def _run(
        self, name: str, *arguments: "str | bytes", out: int = -1, inside: bool = True, codes: tuple[int, ...] = (0,)
    ) -> bytes:
        """Run git to its end; what it wrote, where that does not go to `out`.  Raises System with its last words."""
        command: list[str | bytes] = [self._git]
        for setting in _SETTINGS:
            command += ["-c", setting]
        command += [f"--git-dir=/work/{name}"] if inside else []
        said = os.open("/work", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, writer if out < 0 else out, 1),
            (os.POSIX_SPAWN_DUP2, said, 2),
        ]
        try:
            pid = os.posix_spawn(self._git, [*command, *arguments], self._environment, file_actions=actions)
            os.close(writer)
            writer = -1
            answer = b""
            while len(answer) <= _LARGEST_ANSWER and (piece := os.read(reader, 1 << 16)):
                answer += piece
            os.close(reader)
            reader = -1
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            problem = os.pread(said, 1 << 16, 0).decode(errors="replace").strip()
        finally:
            for fd in (said, reader, writer):
                if fd >= 0:
                    os.close(fd)
        if len(answer) > _LARGEST_ANSWER:
            raise System(f"git {arguments[0]!s} answers more than {_LARGEST_ANSWER} bytes")
        if code not in codes:
            if code == -_SIGXFSZ or "File too large" in problem or f"died of signal {_SIGXFSZ}" in problem:
                raise self._too_large()
            problem = _PASSWORD.sub("://", problem)
            raise System(f"git {arguments[0]!s}: {problem[-_LONGEST_PROBLEM:] or f'ended with code {code}'}")
        return answer


def _joined(remote: str, url: str) -> str:
    """Where a submodule comes from; a relative URL leads on from the repository's own.  Raises System."""
    if url.startswith(("./", "../")):
        scheme, _, rest = remote.partition("://")
        parts = rest.rstrip("/").split("/")
        for part in url.split("/"):
            if part == ".." and len(parts) > 1:
                parts.pop()
            elif part not in ("", ".", ".."):
                parts.append(part)
        return f"{scheme}://{'/'.join(parts)}"
    if not url.lower().startswith(_SCHEMES) or not url.isprintable() or " " in url:
        raise System(f"a submodule at {url[:200]!r}: only https, http and git are fetched")
    return url


def _as_root(status: os.stat_result) -> Described:
    return described(status)._replace(uid=0, gid=0)


def _add(writer: Writer, directory: str, member: bytes) -> None:
    head, _, name = directory.rpartition("/")
    parent = os.open(head, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    writer.add(member, parent, os.fsencode(name))
    os.close(parent)
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            below = member + b"/" + os.fsencode(entry.name)
            if entry.is_dir(follow_symlinks=False):
                _add(writer, entry.path, below)
                continue
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            writer.add(below, fd, os.fsencode(entry.name))
            os.close(fd)
