"""The default policy says what Docker's says, whatever the machine, the kernel and the capabilities."""

import json
import os
from pathlib import Path

import pytest
from support.classic_bpf import ALLOW, ERRNO, verdict

from boxwright.engine.seccomp import Host, builtin, check, resolve
from boxwright.libcontainer.seccomp import unpack
from boxwright.libcontainer.seccomp_filter import compile
from boxwright.specs import seccomp_default

REFERENCE = Path(__file__).resolve().parents[4] / "shared" / "data" / "docker-seccomp-default.json"

DOCKERS_14 = (
    "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID "
    "SYS_CHROOT"
)
DOCKERS = {f"CAP_{name}" for name in DOCKERS_14.split()}
SPECIAL = {f"CAP_{c}" for rule in seccomp_default.RULES for c in (*rule.get("caps", ()), *rule.get("not_caps", ()))}


def rules(profile: dict, capabilities: set[str], host: Host) -> dict:
    config = resolve(profile, capabilities, host)
    assert config is not None
    found = set()
    for call in config["syscalls"]:
        args = tuple(tuple(sorted((k, v) for k, v in a.items() if v)) for a in call["args"])
        errno = call.get("errnoRet")
        found |= {(name, call["action"], errno, args) for name in call["names"]}
    return {**config, "architectures": set(config["architectures"]), "syscalls": found}


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference data is not beside the repository")
@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "s390x", "ppc64le", "riscv64", "mips64", "loongarch64"])
def test_it_is_dockers_policy(machine: str) -> None:
    reference = json.loads(REFERENCE.read_text())
    check(reference)
    for kernel in ((4, 4), (4, 8), (6, 18)):
        host = Host(machine, kernel)
        for capabilities in (set(), DOCKERS, SPECIAL, *({c} for c in sorted(SPECIAL))):
            ours, theirs = rules(builtin(), capabilities, host), rules(reference, capabilities, host)
            for config in (ours, theirs):
                # Families are compared by what they let through, below.
                config["syscalls"] = {rule for rule in config["syscalls"] if rule[0] != "socket"}
            assert ours == theirs, capabilities


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference data is not beside the repository")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86_64's")
def test_socket_families_are_dockers_and_no_high_bits_get_around_them() -> None:
    host = Host("x86_64", (6, 18))
    ours, theirs = (
        unpack(compile(resolve(profile, set(), host) or {}))[0]
        for profile in (builtin(), json.loads(REFERENCE.read_text()))
    )
    for family in range(64):
        said = verdict(ours, 0xC000003E, 41, (family,))
        assert said == verdict(theirs, 0xC000003E, 41, (family,)), family
        assert said == (ERRNO | 1 if family in (seccomp_default.AF_ALG, seccomp_default.AF_VSOCK) else ALLOW)
        assert said == verdict(ours, 0xC000003E, 41, (family | 1 << 32,))


def test_no_call_is_listed_twice() -> None:
    names = [name for text in seccomp_default.ALLOWED.values() for name in text.split()]
    assert sorted(names) == sorted(set(names))


def test_the_default_capabilities_of_docker_open_no_more_than_chroot() -> None:
    host = Host("x86_64", (6, 1))
    more = rules(builtin(), DOCKERS, host)["syscalls"] - rules(builtin(), set(), host)["syscalls"]
    assert more == {("chroot", "SCMP_ACT_ALLOW", None, ())}
