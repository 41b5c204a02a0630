"""A disk that is full at one step of a build, a load or a pull, for every step: it works or says why, nothing is left, and a
second attempt succeeds.

    calls   the n-th call of a kind has no room (ENOSPC), in the engine, or in launcher, shim and confined jobs   (strace)
    pages   the data root has so much room and no more, from none to what the work takes                         (tmpfs)

`make test` takes some steps of each, by a seed that is printed; `make faults` (BOXWRIGHT_FAULT_ALL=1) takes all.
"""

import http.client
import io
import json
import os
import random
import shutil
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from faults.test_images_killed import orphans
from faults.test_injected import ALL, DISK, SEED, sample
from support import below, builds, images, injection
from support.engine import Engine, Response, wait_for
from support.hostile_registry import HostileRegistry

pytestmark = [
    pytest.mark.root,
    pytest.mark.network,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]

ANSWER = 60.0  # seconds
SETTLE = 5.0  # seconds for what goes by itself
# What the engine keeps free beside an archive, pages: with less than that the work is refused as it begins.
RESERVE = (256 << 20) // 4096
ENGINE_CALLS = ("openat", "mkdir", "pwrite64", "ftruncate", "rename")
BELOW_CALLS = (
    "write", "pwrite64", "openat", "mkdir", "mkdirat", "symlinkat", "linkat", "mknodat", "fsetxattr", "ftruncate",
    "renameat", "copy_file_range", "fallocate",
)  # fmt: skip
MOST, CHOSEN = 40, 6  # steps of one call, and of all calls in `make test`
Fault = Callable[[], AbstractContextManager[None]]


def packed(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in entries:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", xattr: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.mtime = kind, link, 0o755, 1_700_000_000
    if xattr:
        info.pax_headers = {"SCHILY.xattr.user.a": xattr}
    return info


DATA = bytes(range(256)) * 1200
LAYERS = [
    packed(
        (entry("d", tarfile.DIRTYPE), b""), (entry("d/f"), DATA), (entry("d/hard", tarfile.LNKTYPE, "d/f"), b""),
        (entry("d/soft", tarfile.SYMTYPE, "f"), b""), (entry("d/pipe", tarfile.FIFOTYPE), b""),
        (entry("d/x", xattr="b"), b"x"),
    ),
    packed((entry("d/.wh.x"), b""), (entry("e/f/g/h"), DATA[::-1])),
]  # fmt: skip
TEXT = """FROM busybox AS one
WORKDIR /w/x
COPY data /w/
ADD a.tar /a/
RUN --mount=type=cache,target=/c --mount=target=/m cp /m/data /c/data; echo 1 > /one; ln /one /two; ln -s /one /three
FROM busybox
COPY --from=one /one /a /z/
COPY <<E /doc
text
E
ENV A=1
"""


class Work(ABC):
    """What is tried twice: it makes an image, of the same things each time."""

    name = "full:1"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @abstractmethod
    def ask(self) -> Response:
        """One attempt."""

    @abstractmethod
    def check(self) -> None:
        """What an attempt that worked has made is right."""

    def attempt(self) -> tuple[bool, str]:
        """(whether it worked, what was said); of a connection that broke nothing."""
        try:
            answer = self.ask()
            if answer.status != 200:
                assert answer.message, f"{answer.status} without a word"
                return False, answer.message
            messages = [json.loads(line) for line in answer.raw.splitlines()]
        except (OSError, http.client.HTTPException, ValueError):
            return False, ""
        errors = [message["error"] for message in messages if "error" in message]
        assert all(errors), "an error without a word"
        return not errors, str(errors or messages[-1:])


class Build(Work):
    def ask(self) -> Response:
        context = builds.archive({"data": DATA, "a.tar": LAYERS[0]}, TEXT)
        path = f"/build?t={self.name}&nocache=1"
        return self.engine.api("POST", path, context, {"Content-Type": "application/x-tar"}, ANSWER)

    def check(self) -> None:
        script = "cat /z/one /doc; wc -c < /z/d/f; readlink /z/d/soft"
        said = self.engine.ok("run", "--rm", self.name, "sh", "-c", script)
        assert said == f"1\ntext\n{len(DATA)}\nf"


class Load(Work):
    def __init__(self, engine: Engine, directory: Path) -> None:
        super().__init__(engine)
        self.archive = images.archive(directory / "i.tar", [(self.name, LAYERS, {"Cmd": ["x"]})]).read_bytes()

    def ask(self) -> Response:
        return self.engine.api("POST", "/images/load", self.archive, {"Content-Type": "application/x-tar"}, ANSWER)

    def check(self) -> None:
        saved = self.engine.api("GET", f"/images/get?names={self.name}").raw
        with tarfile.open(fileobj=io.BytesIO(saved)) as tar:
            (image,) = json.load(tar.extractfile("manifest.json") or io.BytesIO())
            found = [(tar.extractfile(name) or io.BytesIO()).read() for name in image["Layers"]]
        assert found == LAYERS


class Pull(Load):
    def __init__(self, engine: Engine, directory: Path, registry: HostileRegistry) -> None:
        super().__init__(engine, directory)
        registry.image("full", "1", LAYERS)
        self.repository = f"{registry.address}/full"
        self.name = f"{self.repository}:1"

    def ask(self) -> Response:
        return self.engine.api("POST", f"/images/create?fromImage={self.repository}&tag=1", timeout=ANSWER)


@pytest.fixture(scope="module")
def own(nothing_left_behind: None) -> Iterator[Engine]:
    with injection.engine_on_small_disk(DISK) as made:
        made.ok("rmi", "configured:1.0", "layers:latest")
        yield made


@pytest.fixture(params=["build", "load", "pull"])
def work(request: pytest.FixtureRequest, own: Engine, tmp_path: Path) -> Iterator[Work]:
    if request.param == "pull":
        with HostileRegistry() as registry:
            yield Pull(own, tmp_path, registry)
    else:
        yield Build(own) if request.param == "build" else Load(own, tmp_path)


def residue(engine: Engine) -> dict[str, Any]:
    """What there is besides the witness and its image."""
    witness = engine.inspect("witness")["Id"]
    listed = [image["RepoTags"] for image in engine.api("GET", "/images/json?all=1").json]
    caches = engine.data_root / "build-cache"
    found = {
        **orphans(engine),
        "images": [tags for tags in listed if tags != ["busybox:latest"]],
        "containers": [c["Names"] for c in engine.api("GET", "/containers/json?all=1").json if c["Id"] != witness],
        "caches": engine.api("GET", "/system/df?type=build-cache").json["BuildCache"] or [],
        "directories of caches": os.listdir(caches) if caches.exists() else [],
        "cgroups": below.groups(engine) - {witness},
        "files": unnamed(engine),
    }
    return {key: value for key, value in found.items() if value}


def unnamed(engine: Engine) -> list[str]:
    """Files without a name in its data root that the engine has open."""
    assert engine.process
    found = []
    for path in Path(f"/proc/{engine.process.pid}/fd").iterdir():
        try:
            target = os.readlink(path)
        except FileNotFoundError:
            continue
        if target.startswith(str(engine.data_root)) and target.endswith(" (deleted)"):
            found.append(target)
    return found


def clear(work: Work) -> None:
    """Take away what an attempt has made, as people do: the steps of a build that has failed stay as its cache."""
    work.engine.docker("rmi", work.name)
    work.engine.ok("image", "prune", "-f")
    work.engine.ok("builder", "prune", "-af")


def settled(engine: Engine) -> bool:
    try:
        wait_for(lambda: not residue(engine), "nothing is left", SETTLE)
    except AssertionError:
        return False
    return True


def give_back(work: Work, what: str) -> None:
    """Nothing is left of an attempt, or of what could not be taken away in it once another engine has begun."""
    clear(work)
    if not settled(work.engine):
        work.engine.restart()
        clear(work)
        assert settled(work.engine), f"{what}: {residue(work.engine)}"


def fails(work: Work, fault: Fault, what: str) -> bool:
    """One run: without room, and again with it.  Returns whether the first attempt has worked all the same."""
    engine = work.engine
    engine.ok("cp", "witness:/etc/group", "-")  # now there is a launcher of jobs
    with fault():
        worked, said = work.attempt()
    alive = engine.process and engine.process.poll() is None
    assert alive, f"{what}: the engine died: {engine.log.read_text()[-2000:]}"
    if not worked:
        if engine.docker("image", "inspect", work.name).code == 0:
            work.check()  # only what came after the image has failed
        give_back(work, f"{what}: left behind after {said!r}")
    again, answer = work.attempt()
    assert again, f"{what}: first {said!r}, again {answer!r}"
    work.check()
    give_back(work, f"{what}: left behind")
    assert engine.inspect("witness")["State"]["Running"], what
    return worked


def try_each(work: Work, faults: list[tuple[str, Fault]]) -> list[bool]:
    """Each of them; one that is not survived is cleared away, and all are told at the end."""
    found, worked = [], []
    for what, fault in faults:
        try:
            worked.append(fails(work, fault, f"{what} (seed {SEED})"))
        except AssertionError as error:
            found.append(str(error))
            work.engine.restart()
            clear(work)
    assert not found, "\n\n".join(found)
    return worked


def chosen(counts: dict[str, int], *key: object) -> list[tuple[str, int]]:
    """(call, its number) of all that were counted, of many the like MOST; or the seed's choice of them."""
    pairs = [(call, n) for call, most in sorted(counts.items()) for n in range(1, most + 1, 1 + most // MOST)]
    return pairs if ALL else random.Random(f"{SEED}/{key}").sample(pairs, min(CHOSEN, len(pairs)))


@pytest.mark.parametrize(("where", "calls"), [("the engine", ENGINE_CALLS), ("launcher, shim or job", BELOW_CALLS)])
def test_a_call_finds_no_room(work: Work, where: str, calls: tuple[str, ...], tmp_path: Path) -> None:
    engine, kind = work.engine, type(work).__name__

    def targets() -> list[int]:
        assert engine.process
        if where == "the engine":
            return [engine.process.pid]
        found = {**below.processes(engine), **below.processes(engine, "worker")}
        return [pid for pid, name in found.items() if name != below.SHIM]

    def failing(call: str, nth: int) -> AbstractContextManager[None]:
        return injection.failing(targets(), call, "ENOSPC", nth, tmp_path / f"{call}-{nth}")

    counted = tmp_path / "counted"
    assert fails(work, lambda: injection.traced(targets(), ",".join(calls), counted), "counting")
    counts = {call: n for call, n in injection.count(counted).items() if call in calls}
    print(f"{kind}: calls in {where}: {counts}")
    steps = chosen(counts, kind, where)
    try_each(
        work, [(f"{kind}: {c} {n} of {counts[c]} in {where} finds no room", partial(failing, c, n)) for c, n in steps]
    )


def test_the_disk_is_full(work: Work) -> None:
    """From nothing at all, over what a look at the start lets begin, to what is just enough."""
    engine, kind = work.engine, type(work).__name__
    clear(work)
    before = os.statvfs(engine.data_root).f_bfree
    assert work.attempt()[0]
    taken = before - os.statvfs(engine.data_root).f_bfree
    work.check()
    clear(work)
    few = sample(range(24), "few", kind)
    some = sample(range(RESERVE, RESERVE + 4 * taken, max(1, taken // (10 if ALL else 4))), "some", kind)
    steps = [
        (f"{kind}: room for {n} pages", partial(injection.full_disk, engine.data_root, n, DISK)) for n in few + some
    ]
    worked = try_each(work, steps)
    assert not any(worked[: len(few)]), "there was room after all"
