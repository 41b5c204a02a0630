"""The configuration of a container: portable (`ContainerConfig`) and of this host (`HostConfig`).

Every field of API 1.51 is here, supported or not: what the engine does not honour has to be refused by its name.
"""

from typing import ClassVar

from msgspec import field

from .base import ConsoleSize, Empty, Int64, Model, StrSlice, Uint16, Uint64
from .mount import Mount
from .network import NetworkingConfig, PortBinding


class HealthConfig(Model):
    """A health check; times are nanoseconds, 0 or null inherits from the image."""

    omitempty: ClassVar = frozenset({"test", "interval", "timeout", "start_period", "start_interval", "retries"})
    test: list[str] | None = None
    interval: Int64 = 0
    timeout: Int64 = 0
    start_period: Int64 = 0
    start_interval: Int64 = 0
    retries: Int64 = 0


class ContainerConfig(Model):
    """What a container runs, independent of the host; `stop_timeout` is in seconds, null means the default."""

    omitempty: ClassVar = frozenset(
        {
            "exposed_ports",
            "healthcheck",
            "args_escaped",
            "network_disabled",
            "mac_address",
            "stop_signal",
            "stop_timeout",
            "shell",
        }
    )
    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, Empty] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: StrSlice | None = None
    healthcheck: HealthConfig | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, Empty] | None = None
    working_dir: str = ""
    entrypoint: StrSlice | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: Int64 | None = None
    shell: StrSlice | None = None


class LogConfig(Model):
    """The log driver ("" is the engine's default) and its options."""

    type: str = ""
    config: dict[str, str] | None = None


class RestartPolicy(Model):
    """When an ended container starts again: "", no, always, unless-stopped, or on-failure with a count (0: no end)."""

    name: str = ""
    maximum_retry_count: Int64 = 0


class WeightDevice(Model):
    """The block I/O weight of one device."""

    path: str = ""
    weight: Uint16 = 0


class ThrottleDevice(Model):
    """A limit of one block device, in bytes or operations a second."""

    path: str = ""
    rate: Uint64 = 0


class DeviceMapping(Model):
    """A device of the host, its place in the container and what may be done: letters of "rwm"."""

    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Model):
    """Devices by capability (GPUs); `count` -1 asks for all."""

    driver: str = ""
    count: Int64 = 0
    device_ids: list[str] | None = field(default=None, name="DeviceIDs")
    capabilities: list[list[str] | None] | None = None
    options: dict[str, str] | None = None


class Ulimit(Model):
    """A resource limit by its short name (`nofile`); -1 is unlimited."""

    name: str = ""
    hard: Int64 = 0
    soft: Int64 = 0


class Resources(Model):
    """Limits of a container; memory and I/O in bytes, CPU times in microseconds, `nano_cpus` in 10^-9 CPUs."""

    omitempty: ClassVar = frozenset({"kernel_memory", "kernel_memory_tcp"})
    cpu_shares: Int64 = 0
    memory: Int64 = 0
    nano_cpus: Int64 = 0
    cgroup_parent: str = ""
    blkio_weight: Uint16 = 0
    blkio_weight_device: list[WeightDevice] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_iops: list[ThrottleDevice] | None = field(default=None, name="BlkioDeviceReadIOps")
    blkio_device_write_iops: list[ThrottleDevice] | None = field(default=None, name="BlkioDeviceWriteIOps")
    cpu_period: Int64 = 0
    cpu_quota: Int64 = 0
    cpu_realtime_period: Int64 = 0
    cpu_realtime_runtime: Int64 = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: list[str] | None = None
    device_requests: list[DeviceRequest] | None = None
    kernel_memory: Int64 = 0
    kernel_memory_tcp: Int64 = field(default=0, name="KernelMemoryTCP")
    memory_reservation: Int64 = 0
    memory_swap: Int64 = 0
    memory_swappiness: Int64 | None = None
    oom_kill_disable: bool | None = None
    pids_limit: Int64 | None = None
    ulimits: list[Ulimit] | None = None
    cpu_count: Int64 = 0
    cpu_percent: Int64 = 0
    io_maximum_iops: Uint64 = field(default=0, name="IOMaximumIOps")
    io_maximum_bandwidth: Uint64 = field(default=0, name="IOMaximumBandwidth")


class HostConfig(Resources):
    """What a container gets from this host; `console_size` is (height, width), `shm_size` bytes.

    Ours, not Docker's: timeout, seconds of life after which the container is stopped (0: no limit); owner
    ("pid:starttime") and lease (an id), with whose end it is removed.
    """

    omitempty: ClassVar = Resources.omitempty | {
        "annotations",
        "storage_opt",
        "tmpfs",
        "sysctls",
        "runtime",
        "mounts",
        "init",
        "timeout",
        "owner",
        "lease",
    }
    binds: list[str] | None = None
    container_id_file: str = field(default="", name="ContainerIDFile")
    log_config: LogConfig = field(default_factory=LogConfig)
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding] | None] | None = None
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] | None = None
    console_size: ConsoleSize = (0, 0)
    annotations: dict[str, str] | None = None
    cap_add: StrSlice | None = None
    cap_drop: StrSlice | None = None
    cgroupns_mode: str = ""
    dns: list[str] | None = None
    dns_options: list[str] | None = None
    dns_search: list[str] | None = None
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] | None = None
    oom_score_adj: Int64 = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    storage_opt: dict[str, str] | None = None
    tmpfs: dict[str, str] | None = None
    uts_mode: str = field(default="", name="UTSMode")
    userns_mode: str = ""
    shm_size: Int64 = 0
    sysctls: dict[str, str] | None = None
    runtime: str = ""
    isolation: str = ""
    mounts: list[Mount] | None = None
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    init: bool | None = None
    timeout: Int64 = 0
    owner: str = ""
    lease: str = ""


class CreateRequest(ContainerConfig):
    """Body of POST /containers/create: the container's configuration with two more members."""

    host_config: HostConfig | None = None
    networking_config: NetworkingConfig | None = None

    def config(self) -> ContainerConfig:
        """The container's configuration alone."""
        return ContainerConfig(**{name: getattr(self, name) for name in ContainerConfig.__struct_fields__})


class UpdateRequest(Resources):
    """Body of POST /containers/{id}/update."""

    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)
