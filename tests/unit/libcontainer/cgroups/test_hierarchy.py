"""Where hierarchies are found, from the texts that kernels and distributions really print."""

import pytest

from boxwright.errdefs import StepError
from boxwright.libcontainer.cgroups import hierarchy

ONE_BY_ONE = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
"""
ONE_BY_ONE_OWN = """\
9:name=systemd:/
4:memory:/sessions/5f65
2:cpuacct:/
1:cpu:/
0::/user.slice
"""

SYSTEMD = """\
30 24 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/systemd/agent,name=systemd
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/net_cls,net_prio rw - cgroup cgroup rw,net_cls,net_prio
34 30 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset,clone_children
"""

UNIFIED = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"

INSIDE = r"""\
700 600 0:29 /docker/abc /sys/fs/cgroup/cpu ro,nosuid master:12 - cgroup cgroup rw,cpu
701 600 0:32 /docker/abc /sys/fs/cgroup/my\040memory ro - cgroup cgroup rw,memory
702 600 0:32 / /elsewhere ro - cgroup cgroup rw,memory
"""
INSIDE_OWN = "4:memory:/docker/abc/child\n1:cpu:/docker/abc\n"


def test_hierarchies_mounted_one_by_one() -> None:
    host = hierarchy.parse(ONE_BY_ONE, ONE_BY_ONE_OWN)
    assert {name: mount.point for name, mount in host.v1.items()} == {
        "cpu": "/sys/fs/cgroup/cpu",
        "cpuacct": "/sys/fs/cgroup/cpuacct",
        "memory": "/sys/fs/cgroup/memory",
        "name=systemd": "/sys/fs/cgroup/systemd",
    }
    assert host.v2 is not None and host.v2.point == "/sys/fs/cgroup/unified"
    assert host.own == {"name=systemd": "/", "memory": "/sessions/5f65", "cpuacct": "/", "cpu": "/", "": "/user.slice"}


def test_co_mounted_hierarchies_and_options_that_are_no_controllers() -> None:
    host = hierarchy.parse(SYSTEMD, "3:cpu,cpuacct:/a\n")
    assert set(host.v1) == {"name=systemd", "cpu", "cpuacct", "net_cls", "net_prio", "cpuset"}
    assert host.v1["cpu"].point == host.v1["cpuacct"].point == "/sys/fs/cgroup/cpu,cpuacct"
    assert host.own == {"cpu": "/a", "cpuacct": "/a"}
    assert host.v2 is None


def test_inside_a_container() -> None:
    host = hierarchy.parse(INSIDE, INSIDE_OWN)
    memory = host.v1["memory"]
    assert (memory.root, memory.point) == ("/docker/abc", "/sys/fs/cgroup/my memory")
    assert hierarchy.directory(memory, host.own["memory"], "/p", "c") == "/sys/fs/cgroup/my memory/p/c"
    assert hierarchy.directory(memory, host.own["memory"], "p", "c") == "/sys/fs/cgroup/my memory/child/p/c"


@pytest.mark.parametrize(
    ("parent", "name", "expected"),
    [
        ("/boxwright-1", "c", "/m/boxwright-1/c"),
        ("/", "c", "/m/c"),
        ("", "c", "/m/c"),
        ("//a//b/", "c", "/m/a/b/c"),
        ("a/b", "c", "/m/own/a/b/c"),
        ("/../../etc", "c", "/m/etc/c"),
        ("../../etc", "c", "/m/own/etc/c"),
        ("/a", "../../../c", "/m/c"),
        ("/boxwright-1", "", "/m/boxwright-1"),
    ],
)
def test_directories_stay_below_the_mount_point(parent: str, name: str, expected: str) -> None:
    assert hierarchy.directory(hierarchy.Mount(("cpu",), "/", "/m"), "/own", parent, name) == expected


@pytest.mark.parametrize(("text", "driver"), [(ONE_BY_ONE, "fs"), (SYSTEMD, "fs"), (UNIFIED, "fs2"), (INSIDE, "fs")])
def test_the_driver_follows_the_controllers(monkeypatch: pytest.MonkeyPatch, text: str, driver: str) -> None:
    monkeypatch.setattr(hierarchy, "_host", hierarchy.parse(text, ""))
    assert hierarchy.detect() == driver


def test_a_named_hierarchy_beside_v2_is_no_v1(monkeypatch: pytest.MonkeyPatch) -> None:
    named = "31 30 0:27 / /run/x rw - cgroup cgroup rw,name=systemd\n"
    monkeypatch.setattr(hierarchy, "_host", hierarchy.parse(named + UNIFIED, "0::/\n"))
    assert hierarchy.detect() == "fs2"


def test_a_host_without_cgroups_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hierarchy, "_host", hierarchy.parse("", ""))
    with pytest.raises(StepError, match="no cgroup file system is mounted") as caught:
        hierarchy.detect()
    assert "mount -t cgroup2" in caught.value.hint
