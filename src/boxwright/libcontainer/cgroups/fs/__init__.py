"""cgroup v1: one directory in each mounted hierarchy."""

from boxwright.libcontainer.cgroups.fs.manager import Manager

__all__ = ["Manager"]
