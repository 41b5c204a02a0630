"""A virtual machine that boots Debian's cloud kernel into a file system made of this Python, and runs a test suite.

For kernels and cgroup layouts that the host does not have.  No disk, no network, no root on the host: qemu emulates the
processor, the whole file system is a cpio archive, the report comes back over the serial line.
"""

import fnmatch
import glob
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

REPOSITORY = Path(__file__).resolve().parents[2]
# Large parts of the standard library that no test imports.
LEFT_OUT = {"test", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "site-packages", "dist-packages"}
INI = "[pytest]\nmarkers =\n  root\n  network\n  timeout\n  vm\naddopts = -p no:cacheprovider --import-mode=importlib\n"

# The first file system cannot be pivoted away from, so a mount of it goes on top, as an installed system's root does.
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/local/bin:/usr/bin HOME=/tmp LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /dev/pts /tmp /run /new
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
ifconfig lo up
for module in /modules/*.ko; do insmod "$module"; done
{prepare}
mount --rbind / /new
cd /new
mount --move . /
exec chroot . sh /tests/run
"""

RUN = """cd /tests
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={path} BOXWRIGHT_TEST_DEADLINE=150
{python} -m pytest -c /tests/pytest.ini --rootdir=/tests --confcutdir=/tests -rs --tb=short --color=no {arguments} 2>&1
code=$?
[ $code = 0 ] || dmesg | tail -n 40
echo "machine: exit status $code"
poweroff -f
"""

UNIFIED = "mount -t cgroup2 cgroup2 /sys/fs/cgroup"
# Co-mounted as systemd does, unlike a host that mounts them one by one.
LEGACY = """mount -t tmpfs tmpfs /sys/fs/cgroup
for set in cpu,cpuacct memory cpuset devices freezer blkio pids hugetlb net_cls,net_prio perf_event; do
    mkdir /sys/fs/cgroup/$set
    mount -t cgroup -o $set cgroup /sys/fs/cgroup/$set
done
mkdir /sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd"""


def kernel() -> Path | None:
    """Debian's cloud kernel: unpacked by scripts/vm-kernel, or installed."""
    found = glob.glob(f"{REPOSITORY}/.build/vm/root/boot/vmlinuz-*-cloud-*") or glob.glob("/boot/vmlinuz-*-cloud-*")
    return Path(max(found)) if found else None


def missing() -> str:
    """Why no machine can be booted here; "" when one can."""
    if os.uname().machine != "x86_64":
        return "the machine is an x86_64 one"
    if shutil.which("qemu-system-x86_64") is None:
        return "qemu-system-x86_64 is not installed (scripts/vm-kernel)"
    if kernel() is None:
        return "Debian's linux-image-cloud-amd64 is not there (scripts/vm-kernel)"
    if not os.path.exists("/bin/busybox"):
        return "busybox-static is not installed"
    return ""


def run(
    directory: Path,
    prepare: str,
    tests: Iterable[str],
    *,
    distributions: Iterable[str] = ("pytest",),
    files: Iterable[str] = (),
    modules: Iterable[str] = (),
    seconds: float = 110,
) -> str:
    """Boot, run `tests` (paths below tests/), return all that the machine printed.

    prepare: shell commands before the tests, such as UNIFIED.  distributions: Python packages, which bring those that
    they require.  files: programs and libraries of the host, which bring their libraries.  modules: patterns of kernel
    module names ("nft_*"), which bring those that they depend on.
    A machine that is not done after `seconds` is ended, and the last line says so.
    """
    image = kernel()
    assert image is not None
    archive = directory / "initramfs.cpio"
    with archive.open("wb") as file:
        content = _content(prepare, list(tests), _with_required(distributions), list(files))
        Archive(file).add_all([*content, *_modules(image.parent.parent / "lib/modules", list(modules))])
    command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"]
    command += ["-kernel", str(image), "-initrd", str(archive), "-nographic", "-no-reboot", "-nic", "none"]
    # The mitigations cost an emulated processor most of its time.
    command += ["-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable"]
    console = directory / "console"
    try:
        with console.open("wb") as file:
            # Into a file, not a pipe: a machine that hangs has said where.
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=seconds, check=True)
    except subprocess.TimeoutExpired:
        return f"{_printed(console)}\nmachine: not done after {seconds} s"
    finally:
        # pytest keeps the directories of three runs; hundreds of megabytes each are too much to keep.
        archive.unlink()
    return _printed(console)


def _printed(console: Path) -> str:
    return console.read_text(errors="replace").replace("\r", "")


def passed(output: str) -> bool:
    """Whether the suite in the machine ended well."""
    return re.search(r"^machine: exit status 0$", output, re.MULTILINE) is not None


Entry = tuple[str, int, bytes, float]
"""Path in the machine, mode with file type, content, modification time."""


def _content(prepare: str, tests: list[str], distributions: list[str], files: list[str]) -> Iterator[Entry]:
    stdlib, packages = sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")
    python = os.path.realpath(sys.executable)
    arguments = " ".join(f"/tests/{test}" for test in tests)
    yield "/init", 0o100755, INIT.format(prepare=prepare).encode(), 0
    run = RUN.format(path=f"{packages}:{REPOSITORY}/src:/tests", python=sys.executable, arguments=arguments)
    yield "/tests/run", 0o100644, run.encode(), 0
    yield "/tests/pytest.ini", 0o100644, INI.encode(), 0
    yield "/etc/passwd", 0o100644, b"root:x:0:0:root:/tmp:/bin/sh\n", 0
    yield "/etc/group", 0o100644, b"root:x:0:\n", 0
    yield "/etc/hosts", 0o100644, b"127.0.0.1 localhost\n", 0
    for name in ("proc", "sys", "dev", "tmp", "run", "bin"):
        yield f"/{name}", 0o040755, b"", 0
    yield from _file("/bin/busybox")
    # The environment's own interpreter: it knows its packages without being told.
    yield sys.executable, 0o120777, python.encode(), 0
    yield from _file(f"{sys.prefix}/pyvenv.cfg")
    libraries = [python, *glob.glob(f"{stdlib}/lib-dynload/*.so"), *glob.glob("/usr/lib/*/libseccomp.so.2"), *files]
    for name in distributions:
        for part in importlib.metadata.files(name) or []:
            if os.path.isfile(part.locate()) and ".." not in part.parts:
                yield from _file(str(part.locate()))
                libraries += [str(part.locate())] if part.suffix == ".so" else []
    for file in {python, *files} | _needed(libraries):
        yield from _file(file)
    yield from _tree(stdlib, LEFT_OUT)
    yield from _tree(f"{REPOSITORY}/src/boxwright", set())
    for test in (*tests, "support", "conftest.py"):
        yield from _tree(str(REPOSITORY / "tests" / test), set(), f"/tests/{test}")


def _with_required(names: Iterable[str]) -> list[str]:
    """Distributions and what they require, as far as it is installed."""
    found: list[str] = []
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            # For another Python or another system.
            continue
        if name not in found:
            found.append(name)
            waiting += [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in required if "extra ==" not in text]
    return found


def _modules(directory: Path, patterns: list[str]) -> Iterator[Entry]:
    """Kernel modules, numbered so that each comes after those that it depends on."""
    files = {path.stem.replace("-", "_"): path for path in directory.rglob("*.ko")}
    order: list[str] = []

    def take(name: str) -> None:
        match = re.search(rb"\0depends=([^\0]*)\0", files[name].read_bytes())
        for other in match[1].decode().split(",") if match else []:
            if other and other.replace("-", "_") in files:
                take(other.replace("-", "_"))
        if name not in order:
            order.append(name)

    for pattern in patterns:
        for name in sorted(fnmatch.filter(files, pattern)):
            take(name)
    for number, name in enumerate(order):
        yield from _file(str(files[name]), f"/modules/{number:03}-{name}.ko")


def _needed(files: list[str]) -> set[str]:
    """The shared libraries of programs and libraries, themselves included when they are libraries."""
    text = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False).stdout
    needed = set(re.findall(r"(/\S+) \(0x", text)) | {f for f in files if ".so" in f}
    return {f for f in needed if os.path.exists(f)}


def _tree(root: str, left_out: set[str], at: str = "") -> Iterator[Entry]:
    if os.path.isfile(root):
        yield from _file(root, at)
        return
    for base, directories, names in os.walk(root):
        directories[:] = sorted(d for d in directories if d not in left_out and not d.startswith("config-"))
        for name in sorted(names):
            if not name.endswith((".opt-1.pyc", ".opt-2.pyc", ".a")):
                source = os.path.join(base, name)
                yield from _file(source, at + source[len(root) :] if at else source)


def _file(source: str, at: str = "") -> Iterator[Entry]:
    info = os.stat(source)
    yield at or source, 0o100000 | (info.st_mode & 0o777), Path(source).read_bytes(), info.st_mtime


class Archive:
    """A cpio archive in the "newc" format that the kernel unpacks; directories are made as they are needed."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.made: set[str] = set()

    def add_all(self, entries: Iterable[Entry]) -> None:
        for path, mode, content, modified in entries:
            self._parents(path)
            self._add(path, mode, content, modified)
        self._add("TRAILER!!!", 0, b"", 0)

    def _parents(self, path: str) -> None:
        parent = os.path.dirname(path)
        if parent not in self.made and parent != "/":
            self._parents(parent)
            self._add(parent, 0o040755, b"", 0)

    def _add(self, path: str, mode: int, content: bytes, modified: float) -> None:
        if path in self.made:
            return
        self.made.add(path)
        name = path.lstrip("/").encode() + b"\0"
        fields = (len(self.made), mode, 0, 0, 1, int(modified), len(content), 0, 0, 0, 0, len(name), 0)
        self._write(b"070701" + b"".join(b"%08x" % field for field in fields) + name)
        self._write(content)

    def _write(self, data: bytes) -> None:
        self.file.write(data + b"\0" * (-len(data) % 4))
