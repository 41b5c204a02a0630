"""What `POST /build` asks for."""

from typing import Any, NamedTuple

from .container import Ulimit


class BuildOptions(NamedTuple):
    """The request's parameters; names as the API has them, sizes in bytes, CPU times in microseconds.

    dockerfile: its path in the context. build_args: None for a name without a value. remote: a URL in place of the
    body. keep: the containers of steps; force_remove: those of failed ones go and that is told. build_id: what
    /build/cancel names it by. registries: credentials as X-Registry-Config has them, by registry. aux: whether the
    client takes messages for programs. squash: the last stage's layers become one.
    """

    tags: tuple[str, ...] = ()
    dockerfile: str = "Dockerfile"
    remote: str = ""
    target: str = ""
    platform: str = ""
    build_id: str = ""
    no_cache: bool = False
    pull: bool = False
    quiet: bool = False
    keep: bool = False
    force_remove: bool = False
    aux: bool = True
    squash: bool = False
    cache_from: tuple[str, ...] = ()
    build_args: dict[str, str | None] = {}
    labels: dict[str, str] = {}
    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    cgroup_parent: str = ""
    shm_size: int = 0
    ulimits: tuple[Ulimit, ...] = ()
    network_mode: str = ""
    extra_hosts: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    registries: dict[str, Any] = {}
