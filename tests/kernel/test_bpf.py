"""bpf(2): the verifier's words reach the reader, and what is loaded and attached can be found again."""

import os
import uuid

import pytest

from boxwright.libcontainer.cgroups import hierarchy
from boxwright.linux import bpf

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PERMIT = bpf.mov_imm(0, 1) + bpf.exit_()


def load(code: bytes) -> int:
    return bpf.load(bpf.PROG_TYPE_CGROUP_DEVICE, bpf.CGROUP_DEVICE, code, "boxwright_test")


@pytest.fixture
def group():
    mount = hierarchy.host().v2
    if mount is None:
        pytest.skip("cgroup v2 is not mounted here")
    path = f"{mount.point}/boxwright-test-{uuid.uuid4().hex[:8]}"
    os.mkdir(path)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)
    os.rmdir(path)


def test_the_verifier_says_why() -> None:
    with pytest.raises(OSError, match=r"bpf: .*R0 !read_ok") as caught:
        load(bpf.exit_())
    assert caught.value.filename == "program boxwright_test"


def test_a_program_is_attached_replaced_found_and_detached(group: int) -> None:
    assert bpf.query(group, bpf.CGROUP_DEVICE, "group") == []
    first, second = load(PERMIT), load(PERMIT)
    try:
        assert not os.get_inheritable(first)
        bpf.attach(group, first, bpf.CGROUP_DEVICE, bpf.F_ALLOW_MULTI, "group")
        (one,) = bpf.query(group, bpf.CGROUP_DEVICE, "group")
        flags = bpf.F_ALLOW_MULTI | bpf.F_REPLACE
        bpf.attach(group, second, bpf.CGROUP_DEVICE, flags, "group", first)
        (other,) = bpf.query(group, bpf.CGROUP_DEVICE, "group")
        assert one != other
        again = bpf.by_id(other)
        bpf.detach(group, again, bpf.CGROUP_DEVICE, "group")
        os.close(again)
        assert bpf.query(group, bpf.CGROUP_DEVICE, "group") == []
    finally:
        os.close(first)
        os.close(second)


def test_what_is_not_there_is_named(group: int) -> None:
    with pytest.raises(FileNotFoundError, match="bpf") as caught:
        bpf.by_id(0xFFFFFFF0)
    assert caught.value.filename == "program id 4294967280"
    program = load(PERMIT)
    try:
        with pytest.raises(OSError, match="bpf"):
            bpf.detach(group, program, bpf.CGROUP_DEVICE, "group")
    finally:
        os.close(program)
