"""The small values of libcontainer: options, environment, states, sysctl names, namespaces, faults."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright import errdefs
from boxwright.errdefs import StepError
from boxwright.libcontainer import environment, faults, joining, options, state, sysctls
from boxwright.libcontainer.process import InitRequest
from boxwright.linux import capabilities, mount, namespaces


class TestOptions:
    @pytest.mark.parametrize(
        ("words", "add", "remove"),
        [
            (["ro"], mount.ATTR_RDONLY, 0),
            (["ro", "rw"], 0, mount.ATTR_RDONLY),
            (["rw", "ro"], mount.ATTR_RDONLY, 0),
            (["nosuid", "nodev", "noexec"], mount.ATTR_NOSUID | mount.ATTR_NODEV | mount.ATTR_NOEXEC, 0),
            (["noatime"], mount.ATTR_NOATIME, mount.ATTR_ATIME & ~mount.ATTR_NOATIME),
            (["defaults", "async"], 0, 0),
        ],
    )
    def test_attributes(self, words: list[str], add: int, remove: int) -> None:
        found = options.parse(words)
        assert (found.add, found.remove & ~found.add) == (add, remove)

    def test_recursive_attributes_are_apart(self) -> None:
        found = options.parse(["rbind", "rro", "rnosuid", "rprivate"])
        assert (found.add, found.add_all) == (0, mount.ATTR_RDONLY | mount.ATTR_NOSUID)
        assert (found.bind, found.recursive) == (True, True)
        assert found.propagation == (mount.PROPAGATION_PRIVATE, True)

    def test_relatime_is_no_recursive_option(self) -> None:
        found = options.parse(["relatime"])
        assert (found.add_all, found.remove_all, found.remove) == (0, 0, mount.ATTR_ATIME)

    def test_data(self) -> None:
        assert options.parse(["size=64k", "mode=1777", "newinstance", "a=b=c"]).data == [
            ("size", "64k"),
            ("mode", "1777"),
            ("newinstance", None),
            ("a", "b=c"),
        ]

    @pytest.mark.parametrize("word", ["idmap", "ridmap", "tmpcopyup"])
    def test_unsupported(self, word: str) -> None:
        with pytest.raises(ValueError, match=word):
            options.parse([word])

    @given(st.lists(st.sampled_from(["ro", "rw", "nosuid", "suid", "noexec", "exec", "noatime", "relatime"])))
    def test_the_last_word_wins(self, words: list[str]) -> None:
        found = options.parse(words)
        assert not found.add & found.remove & ~mount.ATTR_ATIME
        for word in ("ro", "rw"):
            if word in words and words[::-1].index(word) == min(
                words[::-1].index(w) for w in ("ro", "rw") if w in words
            ):
                assert bool(found.add & mount.ATTR_RDONLY) == (word == "ro")


class TestEnvironment:
    @pytest.mark.parametrize(
        ("entries", "result"),
        [
            ([], {"HOME": "/h"}),
            (["A=1", "B="], {"A": "1", "B": "", "HOME": "/h"}),
            (["A=1", "A=2"], {"A": "2", "HOME": "/h"}),
            (["HOME=/x"], {"HOME": "/x"}),
            (["HOME="], {"HOME": ""}),
            (["FOO", "=x", "", "="], {"HOME": "/h"}),
            (["A=b=c"], {"A": "b=c", "HOME": "/h"}),
            (["A=\0", "B\0=1"], {"HOME": "/h"}),
        ],
    )
    def test_table(self, entries: list[str], result: dict[str, str]) -> None:
        assert environment.build(entries, "/h") == result


class TestState:
    def test_every_target_is_a_state(self) -> None:
        for now, targets in state.TRANSITIONS.items():
            for target in state.TRANSITIONS:
                if target in targets:
                    assert state.move(now, target) == target
                else:
                    with pytest.raises(errdefs.Conflict):
                        state.move(now, target)

    def test_verbs(self) -> None:
        state.require("start", state.CREATED, "x")
        with pytest.raises(errdefs.Conflict, match="cannot start container x: it is running"):
            state.require("start", state.RUNNING, "x")

    def test_stopped_is_the_end_and_always_reachable(self) -> None:
        assert state.TRANSITIONS[state.STOPPED] == ()
        assert all(state.STOPPED in targets for now, targets in state.TRANSITIONS.items() if now != state.STOPPED)


class TestSysctls:
    @pytest.mark.parametrize(
        ("key", "path"),
        [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"),
            ("kernel.msgmax", "kernel/msgmax"),
            ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ],
    )
    def test_path(self, key: str, path: str) -> None:
        assert sysctls.path_of(key) == path

    @pytest.mark.parametrize(
        ("key", "late"),
        [
            ("net.ipv4.conf.eth0.forwarding", True),
            ("net.ipv6.neigh.eth0.gc_stale_time", True),
            ("net.ipv4.conf.all.forwarding", False),
            ("net.ipv4.conf.default.forwarding", False),
            ("net.ipv4.conf.lo.forwarding", False),
            ("net.ipv4.ip_forward", False),
            ("kernel.sem", False),
        ],
    )
    def test_split(self, key: str, late: bool) -> None:
        before, after = sysctls.split({key: "1"})
        assert ((after is not None), (before is not None)) == (late, not late)


class TestJoining:
    def plan(self, *items: dict[str, str], born: bool = False) -> joining.Joining:
        return joining.plan({"linux": {"namespaces": [{"type": "mount"}, *items]}}, born)

    def test_usual(self) -> None:
        found = self.plan({"type": "pid"}, {"type": "cgroup"})
        assert found.clone_flags == namespaces.CLONE_NEWNS | namespaces.CLONE_NEWPID
        assert not found.staged
        assert not found.late_fork

    def test_cgroup_namespace_by_clone_on_v2(self) -> None:
        assert self.plan({"type": "cgroup"}, born=True).clone_flags & namespaces.CLONE_NEWCGROUP

    def test_orders(self) -> None:
        own = "/proc/self/ns/"
        late = self.plan({"type": "pid", "path": own + "pid"})
        assert (late.late_fork, late.staged) == (True, False)
        late.close()
        staged = self.plan({"type": "network", "path": own + "net"}, {"type": "user", "path": own + "user"})
        assert (staged.staged, staged.late_fork, staged.clone_flags) == (True, False, 0)
        assert [kind for kind, _, _ in staged.joins] == ["user", "network"]
        staged.close()
        staged = self.plan({"type": "network", "path": own + "net"}, {"type": "user"}, {"type": "pid"})
        assert staged.second_flags == namespaces.CLONE_NEWNS | namespaces.CLONE_NEWPID
        staged.close()

    @pytest.mark.parametrize(
        "items",
        [
            [{"type": "pid"}, {"type": "pid"}],
            [{"type": "nope"}],
            [{"type": "time"}],
            [{"type": "pid", "path": "/proc/self/ns/nope"}],
        ],
    )
    def test_refused_without_leaking(self, items: list[dict[str, str]]) -> None:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(StepError):
            self.plan({"type": "uts", "path": "/proc/self/ns/uts"}, *items)
        assert len(os.listdir("/proc/self/fd")) == before


class TestFaults:
    @pytest.mark.parametrize(
        ("number", "code"),
        [
            (errno.ENOENT, 127),
            (errno.ENOTDIR, 127),
            (errno.EACCES, 126),
            (errno.EISDIR, 126),
            (errno.ENOEXEC, 126),
            (errno.EIO, 128),
            (errno.EPERM, 128),
        ],
    )
    def test_exit_codes(self, number: int, code: int) -> None:
        assert faults.exit_code(number) == code

    def test_from_an_os_error(self) -> None:
        error = OSError(errno.EPERM, "move_mount: Operation not permitted", "/x")
        found = faults.step_error(error, "mounts")
        assert (found.operation, found.path, found.errno) == ("move_mount", "/x", errno.EPERM)
        assert str(found) == "move_mount /x: operation not permitted"

    def test_dockers_words(self) -> None:
        error = StepError('exec: "foo": executable file not found in $PATH')
        assert faults.docker_text(error) == (
            "failed to create task for container: failed to create shim task: OCI runtime create failed: "
            'unable to start container process: exec: "foo": executable file not found in $PATH: unknown'
        )
        assert faults.docker_text(error, exec_session=True) == (
            "OCI runtime exec failed: exec failed: unable to start container process: "
            'exec: "foo": executable file not found in $PATH: unknown'
        )

    def test_dockers_words_about_a_mount_of_the_wrong_kind(self) -> None:
        error = StepError('error mounting "/a" to rootfs at "/b": not a directory', hint=faults.WRONG_KIND)
        assert faults.docker_text(error).endswith(
            'error mounting "/a" to rootfs at "/b": not a directory: unknown: Are you trying to mount a directory onto a '
            "file (or vice-versa)? Check if the specified host path exists and is the expected type"
        )


class TestCapabilities:
    def test_numbers(self) -> None:
        assert capabilities.NUMBERS["CAP_CHOWN"] == 0
        assert capabilities.NUMBERS["CAP_SYS_ADMIN"] == 21
        assert capabilities.NUMBERS["CAP_CHECKPOINT_RESTORE"] == 40
        assert capabilities.mask(["CAP_CHOWN", "CAP_KILL"]) == 0b100001

    def test_this_process(self) -> None:
        assert capabilities.permitted() & ~capabilities.every() == 0
        assert capabilities.bounding() & ~capabilities.every() == 0


def test_request_defaults() -> None:
    request = InitRequest({"process": {}}, 5)
    assert (request.stdio, request.gate_fd, request.die_with_parent, request.sibling) == (None, -1, True, False)
