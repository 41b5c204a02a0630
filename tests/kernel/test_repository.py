"""Git repositories of builds: what the job fetches, what it refuses, and what git could do if it were taken over."""

import asyncio
import errno
import io
import os
import ssl
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import repositories
from support.certificates import Authority
from support.jobs import ForkedJobs
from support.repositories import commit, git, make

from boxwright.errdefs import System
from boxwright.launcher import worker
from boxwright.launcher.confine import Confinement

pytestmark = [pytest.mark.root, pytest.mark.network]

FILES = {"Dockerfile": "FROM scratch\n", "bin/run": "#!/bin/sh\n", "link": "-> bin/run", "d/f": "f"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[repositories.Server]:
    with repositories.served(tmp_path / "served") as server:
        yield server


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """app: branch main, tag v1 (annotated), branch other; one commit each."""
    path = make(tmp_path / "served" / "app.git")
    commit(path, FILES)
    git(path, "tag", "-a", "-m", "t", "v1")
    git(path, "checkout", "-q", "-b", "other")
    commit(path, {"other": "o"})
    git(path, "checkout", "-q", "main")
    commit(path, {"new": "n"})
    return path


class Found:
    """What the job gave: its result, and the members of its archives by name."""

    def __init__(self, result: dict[str, Any], data: bytes) -> None:
        self.commit = result["commit"]
        self.members: dict[str, tarfile.TarInfo] = {}
        self.content: dict[str, bytes] = {}
        for offset, size in result["parts"]:
            with tarfile.open(fileobj=io.BytesIO(data[offset : offset + size])) as tar:
                for member in tar:
                    self.members[member.name] = member
                    if member.isfile():
                        file = tar.extractfile(member)
                        assert file is not None
                        self.content[member.name] = file.read()

    @property
    def files(self) -> set[str]:
        return {name for name, member in self.members.items() if not member.isdir()}


def fetch(tmp_path: Path, remote: str, ref: str = "", **more: Any) -> Found:
    work = tmp_path / f"work-{os.urandom(4).hex()}"
    work.mkdir(0o700)
    fd, out = os.open(work, os.O_RDONLY), os.memfd_create("archive")
    args = {
        "remote": remote,
        "ref": ref,
        "keep": False,
        "submodules": True,
        "environment": {},
        "limit": 1 << 30,
        **more,
    }
    try:
        result = asyncio.run(ForkedJobs().run("build.repository", args, [out, fd]))
        return Found(result, os.pread(out, os.fstat(out).st_size, 0))
    finally:
        os.close(fd)
        os.close(out)


def test_a_commit_as_it_would_be_checked_out(tmp_path: Path, repository: Path, server: repositories.Server) -> None:
    commit(
        repository,
        {".gitattributes": "hidden export-ignore\nfilled export-subst\n", "hidden": "h", "filled": "$Format:%H$"},
    )
    found = fetch(tmp_path, f"{server.url}/app.git")
    assert found.commit == git(repository, "rev-parse", "main")
    assert found.files == {*FILES, "new", ".gitattributes", "hidden", "filled"}
    assert found.content["filled"] == b"$Format:%H$"
    modes = {name: oct(member.mode) for name, member in found.members.items()}
    assert (modes["bin/run"], modes["d/f"], modes["d"]) == ("0o755", "0o644", "0o755")
    assert found.members["link"].linkname == "bin/run" and found.members["d/f"].uid == 0


@pytest.mark.parametrize("ref", ["main", "v1", "refs/heads/other", "other"])
def test_refs(tmp_path: Path, repository: Path, server: repositories.Server, ref: str) -> None:
    found = fetch(tmp_path, f"{server.url}/app.git", ref)
    assert found.commit == git(repository, "rev-parse", f"{ref}^{{commit}}")
    assert ("new" in found.files, "other" in found.files) == (ref == "main", "other" in ref)


@pytest.mark.parametrize("modern", [True, False])
def test_commits_that_nothing_names(
    tmp_path: Path, repository: Path, server: repositories.Server, modern: bool
) -> None:
    """The first one is no branch's; servers of protocol 0 give it away with the whole history."""
    server.modern = modern
    git(repository, "config", "uploadpack.allowAnySHA1InWant", "false")
    first = git(repository, "rev-list", "--max-parents=0", "main")
    commit(repository, {"later": "l"})
    git(repository, "tag", "-d", "v1")
    found = fetch(tmp_path, f"{server.url}/app.git", first)
    assert found.commit == first and found.files == set(FILES)


def test_git_protocol(tmp_path: Path, repository: Path) -> None:
    with repositories.daemon(repository.parent) as url:
        assert fetch(tmp_path, f"{url}/app.git", "other").content["other"] == b"o"


def test_submodules(tmp_path: Path, repository: Path, server: repositories.Server) -> None:
    inner, deep = make(repository.parent / "inner"), make(repository.parent / "deep")
    commit(deep, {"deep": "d"})
    commit(inner, {"inner": "i"})
    git(inner, "submodule", "add", "-q", str(deep), "below")
    git(inner, "config", "-f", ".gitmodules", "submodule.below.url", f"{server.url}/deep")
    commit(inner, {})
    git(repository, "submodule", "add", "-q", str(inner), "libs/inner")
    git(repository, "config", "-f", ".gitmodules", "submodule.libs/inner.url", "../inner")
    commit(repository, {})
    commit(inner, {"inner": "of a later commit"})
    found = fetch(tmp_path, f"{server.url}/app.git")
    assert found.content["libs/inner/inner"] == b"i" and found.content["libs/inner/below/deep"] == b"d"
    assert "libs/inner/inner" not in fetch(tmp_path, f"{server.url}/app.git", submodules=False).files


@pytest.mark.parametrize(
    "url", ["{deep}", "file://{deep}", "ext::sh -c 'touch {deep}/ran'", "ssh://127.0.0.1/x", "-u./x"]
)
def test_submodules_of_the_host(tmp_path: Path, repository: Path, server: repositories.Server, url: str) -> None:
    deep = make(tmp_path / "deep")
    commit(deep, {"secret": "s"})
    git(repository, "submodule", "add", "-q", str(deep), "below")
    git(repository, "config", "-f", ".gitmodules", "submodule.below.url", url.format(deep=deep))
    commit(repository, {})
    with pytest.raises(System, match="only https, http and git are fetched"):
        fetch(tmp_path, f"{server.url}/app.git")
    assert not (deep / "ran").exists()


def test_the_repository_comes_along(tmp_path: Path, repository: Path, server: repositories.Server) -> None:
    for ref, head in (("main", "main"), ("v1", "HEAD"), ("", "HEAD")):
        found = fetch(tmp_path, f"{server.url}/app.git", ref, keep=True)
        place = tmp_path / f"kept-{ref}"
        for name in sorted(found.members):
            member = found.members[name]
            target = place / name
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            elif member.issym():
                target.symlink_to(member.linkname)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(found.content[name])
                target.chmod(member.mode)
        assert git(place, "status", "--porcelain") == ""
        assert git(place, "rev-parse", "--abbrev-ref", "HEAD") == head
        assert git(place, "remote", "get-url", "origin") == f"{server.url}/app.git"
        if ref == "v1":
            assert git(place, "describe") == "v1"


def test_a_password_is_used_and_not_told(tmp_path: Path, repository: Path, server: repositories.Server) -> None:
    server.password = "Basic dXNlcjpzZWNyZXQ="
    found = fetch(tmp_path, f"http://user:secret@{server.address}/app.git", keep=True)
    assert not [name for name, content in found.content.items() if b"secret" in content]
    with pytest.raises(System) as caught:
        fetch(tmp_path, f"http://user:wrong-one@{server.address}/app.git")
    assert "wrong-one" not in str(caught.value) and "Authentication failed" in str(caught.value)
    with pytest.raises(System, match="terminal prompts disabled"):
        fetch(tmp_path, f"{server.url}/app.git")


def test_a_proxy(tmp_path: Path, repository: Path, server: repositories.Server) -> None:
    found = fetch(tmp_path, "http://nowhere.invalid/app.git", environment={"http_proxy": server.url})
    assert found.files == {*FILES, "new"} and server.asked[0][0].startswith("http://nowhere.invalid/app.git/")


def test_a_certificate_that_nobody_has_signed(tmp_path: Path, repository: Path, server: repositories.Server) -> None:
    certificate = Authority(tmp_path / "ca").issue("server", "serverAuth")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with pytest.raises(System, match="certificate"):
        fetch(tmp_path, f"https://{server.address}/app.git")


@pytest.mark.parametrize(
    "remote", ["file://{path}", "{path}", "ext::sh -c 'touch {path}/ran'", "ssh://127.0.0.1{path}"]
)
def test_other_protocols(tmp_path: Path, repository: Path, remote: str) -> None:
    with pytest.raises(System, match="git fetch"):
        fetch(tmp_path, remote.format(path=repository))
    assert not (repository / "ran").exists()


@pytest.mark.parametrize("target", ["file://{path}", "ftp://127.0.0.1:1", "ext::sh"])
def test_redirects_to_other_protocols(
    tmp_path: Path, repository: Path, server: repositories.Server, target: str
) -> None:
    server.redirects["/there.git"] = f"{server.url}/app.git"
    assert fetch(tmp_path, f"{server.url}/there.git").files == {*FILES, "new"}
    server.redirects["/moved.git"] = target.format(path=repository)
    with pytest.raises(System, match="git fetch"):
        fetch(tmp_path, f"{server.url}/moved.git")


def test_servers_without_git(tmp_path: Path, repository: Path, server: repositories.Server) -> None:
    """Plain files would be fetched one by one, without a bound on them all."""
    git(repository, "update-server-info")
    git(repository, "config", "http.uploadpack", "false")
    with pytest.raises(System):
        fetch(tmp_path, f"{server.url}/app.git")
    with pytest.raises(System):
        fetch(tmp_path, f"{server.url}/app.git", "0" * 40)


def test_what_is_too_large(tmp_path: Path, repository: Path, server: repositories.Server) -> None:
    (repository / "noise").write_bytes(os.urandom(3 << 20))
    commit(repository, {})
    with pytest.raises(System, match="the Git repository is larger than 1048576 bytes"):
        fetch(tmp_path, f"{server.url}/app.git", limit=1 << 20)
    assert len(fetch(tmp_path, f"{server.url}/app.git", limit=8 << 20).content["noise"]) == 3 << 20


def test_a_tree_that_grows_when_it_is_written_out(
    tmp_path: Path, repository: Path, server: repositories.Server
) -> None:
    """Ten trees of ten names each, one in the other: 10^10 files out of a few objects.  git wants them all in memory."""
    blob = git(repository, "hash-object", "-w", "--stdin", stdin=b"x" * 1000)
    kind, name = "100644 blob", blob
    for _ in range(10):
        lines = "".join(f"{kind} {name}\td{number}\n" for number in range(10))
        kind, name = "040000 tree", git(repository, "mktree", stdin=lines.encode())
    git(repository, "update-ref", "refs/heads/bomb", git(repository, "commit-tree", "-m", "b", name))
    with pytest.raises(System, match="git archive: fatal: Out of memory"):
        fetch(tmp_path, f"{server.url}/app.git", "bomb")
    many = "".join(f"100644 blob {blob}\tf{number}\n" for number in range(2000))
    commit_ = git(repository, "commit-tree", "-m", "b", git(repository, "mktree", stdin=many.encode()))
    git(repository, "update-ref", "refs/heads/many", commit_)
    with pytest.raises(System, match="the Git repository is larger than"):
        fetch(tmp_path, f"{server.url}/app.git", "many", limit=1 << 20)


def test_names_that_lead_out_are_only_names(tmp_path: Path, repository: Path, server: repositories.Server) -> None:
    blob = git(repository, "hash-object", "-w", "--stdin", stdin=b"planted")
    tree = git(repository, "hash-object", "-w", "-t", "tree", "--literally", "--stdin",
               stdin=b"100644 ../../planted\0" + bytes.fromhex(blob))  # fmt: skip
    git(repository, "update-ref", "refs/heads/bad", git(repository, "commit-tree", "-m", "b", tree))
    try:
        found = fetch(tmp_path, f"{server.url}/app.git", "bad")
    except System:
        return  # git has seen it itself
    assert found.files <= {"../../planted"}
    assert not [path for path in tmp_path.rglob("planted") if path.is_file()]


# -- the child that runs git ------------------------------------------------------------------------------------------


def attempt(action: Callable[[], object]) -> int:
    try:
        action()
    except OSError as error:
        return error.errno or -1
    return 0


SCRIPT = """
echo "id $(id -u) $(id -g) $(id -G)"
echo "root $(ls / | tr '\\n' ' ')"
echo "etc $(ls /etc | tr '\\n' ' ')"
echo "dev $(ls /dev | tr '\\n' ' ')"
for path in / /usr /etc /dev /etc/ssl; do touch $path/planted 2>/dev/null && echo "wrote $path"; done
touch /work/mine && echo "work $(stat -c %u /work)"
printf '#!/bin/sh\\necho ran\\n' > /work/program; chmod 755 /work/program; /work/program 2>/dev/null
echo "pid $$"
kill -0 HOST 2>/dev/null && echo "reached"
unshare -U true 2>/dev/null && echo "namespace"
"""


def test_what_its_programs_can_reach(tmp_path: Path) -> None:
    def job(args: dict[str, Any], fds: list[int], confinement: Confinement) -> dict[str, Any]:
        def child(out: int) -> None:
            opened = [fd for fd in range(3, 2048) if fd != out and attempt(lambda: os.fstat(fd)) == 0]  # noqa: B023
            os.write(out, f"descriptors {len(opened)}\n".encode())
            os.write(out, f"mount {attempt(lambda: os.chroot('/work'))}\n".encode())
            actions = [(os.POSIX_SPAWN_DUP2, out, 1)]
            script = SCRIPT.replace("HOST", str(args["pid"]))
            pid = os.posix_spawn("/bin/sh", ["sh", "-c", script], {"PATH": "/usr/bin:/bin"}, file_actions=actions)
            os.waitpid(pid, 0)

        data, wait = confinement.programs(child, [], fds[0], 1 << 20)
        confinement.enter(-1)
        said = b""
        while piece := os.read(data, 1 << 16):
            said += piece
        return {"said": said.decode(), "problem": wait()}

    work = tmp_path / "work"
    work.mkdir(0o700)
    fd = os.open(work, os.O_RDONLY)
    worker.JOBS["test"] = worker.Job(job, ())
    try:
        found = asyncio.run(ForkedJobs().run("test", {"pid": os.getpid()}, [fd]))
    finally:
        del worker.JOBS["test"]
        os.close(fd)
    assert not found["problem"]
    said = dict(line.partition(" ")[::2] for line in found["said"].splitlines())
    assert said.pop("id") == "65534 65534 65534"
    assert set(said.pop("root").split()) <= {
        "bin",
        "dev",
        "etc",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "sbin",
        "usr",
        "work",
    }
    assert not {"shadow", "passwd", "group", "sudoers"} & set(said.pop("etc").split())
    assert set(said.pop("dev").split()) == {"null", "zero", "urandom"}
    assert said.pop("mount") == str(errno.EPERM)
    assert said.pop("descriptors") == "1"  # a pipe for what goes wrong, beside the one that it writes to
    assert said.pop("work") == "65534" and int(said.pop("pid")) < 10
    assert not said  # wrote nowhere else, ran nothing of its own, reached no process, made no namespace
    assert (work / "mine").exists()


def test_its_programs_end_with_the_job(tmp_path: Path, repository: Path, server: repositories.Server) -> None:
    """A fetch that waits for its server is over when the engine lets go of the job."""
    import socket

    work = tmp_path / "work"
    work.mkdir()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"git://127.0.0.1:{listener.getsockname()[1]}/x.git"
        args = {"remote": url, "ref": "", "keep": False, "submodules": True, "environment": {}, "limit": 1 << 20}
        fd, out = os.open(work, os.O_RDONLY), os.memfd_create("archive")
        jobs = ForkedJobs()

        async def main() -> None:
            task = asyncio.ensure_future(jobs.run("build.repository", args, [out, fd]))
            connection, _ = await asyncio.to_thread(listener.accept)
            with connection:
                connection.settimeout(30)
                assert connection.recv(4096)  # what git asks for
                jobs.hang_up(next(iter(jobs.running)))
                while connection.recv(4096):
                    pass  # until git is gone, and its socket with it
            with pytest.raises(System):
                await task

        asyncio.run(main())
        os.close(fd)
        os.close(out)
