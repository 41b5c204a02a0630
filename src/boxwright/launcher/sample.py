"""A start's work on a container that is not, up to what would show outside of this process.

What runs for the first time after a fork copies the pages that it touches, and costs three times what it costs later.
The launcher plays this before it forks, so that the interpreter has specialised the code; a first process that is
cloned in advance plays it once while it waits, and has its pages copied by then.
"""

import os

from boxwright import errdefs
from boxwright.launcher import packets, starter
from boxwright.libcontainer import handover, init, sync, users
from boxwright.linux import mount, namespaces
from boxwright.trace import Timeline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CAPABILITIES = '["CAP_CHOWN","CAP_KILL"]'
_REQUEST = (
    '{"init":false,"seccomp_path":null,"spec":{"process":{"user":{"username":""},"args":["true"],"env":["PATH=/bin"],"cwd":"/","oomScoreAdj":0,'
    f'"capabilities":{{"bounding":{_CAPABILITIES},"effective":{_CAPABILITIES},"permitted":{_CAPABILITIES}}}}},'
    '"mounts":[{"destination":"/proc","type":"proc","source":"proc","options":["nosuid","noexec","nodev"]},'
    '{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","strictatime","mode=755"]},'
    '{"destination":"/dev/pts","type":"devpts","source":"devpts","options":["nosuid","newinstance","gid=5"]},'
    '{"destination":"/sys","type":"sysfs","source":"sysfs","options":["nosuid","noexec","nodev","ro"]},'
    '{"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":["nosuid","ro"]},'
    '{"destination":"/etc/hosts","type":"bind","source":"/dev/null","options":["rbind","rprivate"]}],'
    '"linux":{"resources":{"devices":[]},"devices":[],'
    '"namespaces":[{"type":"mount"},{"type":"network"},{"type":"pid"},{"type":"ipc"},{"type":"uts"}],'
    '"maskedPaths":["/proc/kcore","/sys/firmware"],"readonlyPaths":["/proc/sys"]}}}'
).encode()
_GROUP = {"driver": "fs", "parent": "/boxwright-sample", "name": "sample"}


def play(root: "dict[str, Any] | None" = None) -> None:
    """Once; what this host refuses ends it early.

    root: a Mount value (`libcontainer/rootfs.py`) to play on, rather than an empty file system.
    """
    try:
        _play(root)
    except (errdefs.StepError, OSError):
        return


def _play(root: "dict[str, Any] | None") -> None:
    timeline = Timeline()
    header = _received({"sent_ns": 0, "configure_network": False, "cgroup": _GROUP})
    request = starter.decode(timeline, header)
    starter.group_for(header, request)
    fds = list(starter.make_root(timeline, {"rootfs": root})) if root else [mount.make("tmpfs", "sample")]
    ours, theirs = sync.pair()
    try:
        wanted = starter.init_request(header, request, fds[0], None, (0, 1, 2))
        with timeline.step("plan"):
            plan = init.Plan(wanted, True)
        try:
            plan.descriptors()
            user, variables = _build(init.Init(plan, theirs, timeline, {}, networked=True))
        finally:
            plan.close()
        handover.Program(plan.process["args"], variables, user, plan.credentials)
        sync.send(theirs, sync.READY, {"steps": timeline.steps})
        sync.receive(ours)
    finally:
        ours.close()
        theirs.close()
        packets.close_all(fds)


def _received(header: "dict[str, Any]") -> "dict[str, Any]":
    """`header` and the request, as they come from the shim."""
    ours, theirs = packets.pair()
    try:
        packets.send(ours, header, (), _REQUEST)
        got = packets.receive(theirs)
    finally:
        ours.close()
        theirs.close()
    return got[0] if got is not None else {}


def _build(sample: init.Init) -> "tuple[users.User, dict[str, str]]":
    """Have the root made and entered, in a mount namespace that is left again."""
    home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespaces.unshare(namespaces.CLONE_NEWNS, "sample")
        try:
            sample.prepare()
        finally:
            try:
                namespaces.setns(home, namespaces.CLONE_NEWNS, "sample")
                os.chdir("/")
            except OSError:  # in a root that is none nothing can go on
                os._exit(1)
    finally:
        os.close(home)
    sample.world.close()
    return sample.user, sample.variables
