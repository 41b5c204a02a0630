"""The ways round where a sealed copy of Python cannot simply be executed: vm.memfd_noexec, and libpython by $ORIGIN."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import boxwright
from boxwright.linux import memfd

SOURCE = str(Path(boxwright.__file__).parents[1])
# Executes itself sealed, then tells how it runs and whether its own file can be written through /proc/self/exe.
PROGRAM = f"""
import os, sys
sys.path.insert(0, {SOURCE!r})
from boxwright.linux import memfd
if len(sys.argv) == 1:
    memfd.execute_sealed(["-c", os.environ["PROGRAM"], "again"], dict(os.environ))
memfd.forget_library_path()
try:
    os.open("/proc/self/exe", os.O_WRONLY)
    writable = True
except OSError:
    writable = False
print(memfd.is_sealed(), writable, "memfd:" in os.readlink("/proc/self/exe"), os.environ.get("LD_LIBRARY_PATH"))
"""


def run(*prefix: str, python: str = sys.executable, **environment: str) -> str:
    ran = subprocess.run(
        [*prefix, python, "-c", PROGRAM], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PROGRAM": PROGRAM, **environment},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_a_sealed_copy() -> None:
    assert run() == f"True False True {os.environ.get('LD_LIBRARY_PATH')}"


@pytest.mark.root
@pytest.mark.skipif(not os.path.exists("/proc/sys/vm/memfd_noexec"), reason="a kernel before 6.3")
@pytest.mark.parametrize(("value", "copied"), [("1", True), ("2", False)])
def test_memfd_noexec(value: str, copied: bool) -> None:
    """The setting belongs to a pid namespace, so the machine's own stays as it is."""
    script = f'echo {value} > /proc/sys/vm/memfd_noexec && exec "$@"'
    before = Path("/proc/sys/vm/memfd_noexec").read_text()
    said = run("unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh")
    assert said.split()[:3] == ["True", "False", str(copied)]
    assert Path("/proc/sys/vm/memfd_noexec").read_text() == before


def layout(directory: Path, program: bytes, library: str) -> str:
    (directory / "bin").mkdir()
    (directory / "lib").mkdir()
    (directory / "bin" / "python").write_bytes(program)
    if library:
        (directory / library).touch()
    return str(directory / "bin" / "python")


@pytest.mark.parametrize(
    ("program", "library", "found"),
    [
        (b"\x7fELF\0$ORIGIN/../lib\0", "lib/libpython3.11.so.1.0", "lib"),
        (b"\x7fELF\0$ORIGIN\0", "bin/libpython3.11.so", "bin"),
        (b"\x7fELF\0$ORIGIN/../lib\0", "", None),  # linked statically all the same
        (b"\x7fELF\0/usr/lib\0", "lib/libpython3.11.so.1.0", None),
    ],
)
def test_where_libpython_is(tmp_path: Path, program: bytes, library: str, found: str | None) -> None:
    path = layout(tmp_path, program, library)
    assert memfd.origin_library_directory(path) == (str(tmp_path / found) if found else "")


@pytest.mark.skipif(not os.path.exists("/usr/bin/gcc"), reason="there is no compiler")
@pytest.mark.parametrize("before", ["", "/somewhere"])
def test_a_program_that_finds_its_library_by_origin(tmp_path: Path, before: str) -> None:
    """A relocatable interpreter in small: a program that is this Python, and needs a library beside itself to start."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib").mkdir()
    (tmp_path / "library.c").write_text("int here(void) { return 42; }\n")
    (tmp_path / "program.c").write_text(
        "#include <unistd.h>\nint here(void);\n"
        f'int main(int n, char **v) {{ v[0] = "{sys.executable}"; if (here() != 42) return 9;'
        f' execv("{sys.executable}", v); return 8; }}\n'
    )
    library = str(tmp_path / "lib" / "libpython3.so")
    program = str(tmp_path / "bin" / "python")
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-Wl,-soname,libpython3.so", "-o", library, str(tmp_path / "library.c")],
        check=True,
        timeout=60,
    )
    command = ["gcc", "-o", program, str(tmp_path / "program.c"), library, "-Wl,-rpath,$ORIGIN/../lib"]
    subprocess.run(command, check=True, timeout=60)
    # The dynamic loader takes $ORIGIN for the directory of /proc/self/fd when it runs from a memfd: without the
    # way round it does not start at all.
    fd = memfd.sealed_copy(program)
    naive = subprocess.run([f"/proc/self/fd/{fd}", "-c", ""], pass_fds=[fd], capture_output=True, text=True, timeout=60)
    os.close(fd)
    assert naive.returncode == 127 and "libpython3.so" in naive.stderr
    script = (
        f"import sys, os; sys.path.insert(0, {SOURCE!r}); sys.executable = {program!r}\n"
        "from boxwright.linux import memfd\n"
        "told = \"import os, sys; sys.path.insert(0, %r); from boxwright.linux import memfd; named = os.environ['LD_LIBRARY_PATH'];"
        " memfd.forget_library_path(); print(named, os.environ.get('LD_LIBRARY_PATH'))\" % sys.path[0]\n"
        "memfd.execute_sealed(['-c', told], dict(os.environ))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    if before:
        environment["LD_LIBRARY_PATH"] = before
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [str(tmp_path / "lib"), before or "None"]
