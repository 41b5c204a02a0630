"""A whole Debian, made by debootstrap, as an image: a real dynamic user land under the default policy."""

import re
from collections.abc import Iterator

import pytest
from support import images
from support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def debian(engine: Engine) -> Iterator[Engine]:
    yield engine.load(images.debian_archive())


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        (["bash", "-c", "echo $BASH_VERSION"], r"5\..*"),
        (["sh", "-c", ". /etc/os-release; echo $PRETTY_NAME"], r"Debian GNU/Linux 12 \(bookworm\)"),
        (["perl", "-e", "print 6 * 7"], r"42"),
        (["apt-get", "--version"], r"(?s)apt 2.*"),
        (["getent", "passwd", "root"], r"root:x:0:0:root:/root:/bin/bash"),
        (["getent", "hosts", "localhost"], r"(::1|127\.0\.0\.1)\s+localhost.*"),
        (["dpkg-query", "-W", "-f", "${Status}", "libc6"], r"install ok installed"),
        (["sh", "-c", "useradd -m someone && su someone -c 'id -un; cd; pwd'"], r"someone\n/home/someone"),
        (["sh", "-c", "mkfifo /p; (echo through > /p &); cat /p"], r"through"),
        (["sh", "-c", "tar -C /usr/share -cf - doc | tar -tf - | wc -l | xargs test 100 -lt && echo many"], r"many"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_programs_of_a_real_distribution(debian: Engine, arguments: list[str], out: str) -> None:
    assert re.fullmatch(out, debian.ok("run", "--rm", "debian:bookworm", *arguments))


def test_packages_can_be_removed_and_the_image_stays(debian: Engine) -> None:
    remove = "dpkg --force-all --purge login >/dev/null 2>&1; ls /bin/login 2>/dev/null | wc -l"
    assert debian.ok("run", "--rm", "debian:bookworm", "sh", "-c", remove) == "0"
    assert debian.ok("run", "--rm", "debian:bookworm", "ls", "/bin/login") == "/bin/login"
