"""cgroup v2: one directory in the unified hierarchy, devices by an eBPF program."""

from boxwright.libcontainer.cgroups.fs2.manager import Manager

__all__ = ["Manager"]
