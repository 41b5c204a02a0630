"""What older clients mean by a body that says less: defaults and ignored fields by API version.

Facts from the version history of Docker's API.
"""

from boxwright.types import BindOptions, ContainerConfig, HostConfig, Mount, NetworkingConfig, UpdateRequest

from .versions import Version


def create(version: Version, config: ContainerConfig, host: HostConfig, networking: NetworkingConfig) -> None:
    """Change the body of POST /containers/create to what a client of `version` means by it."""
    networking.endpoints_config = networking.endpoints_config or {}
    if version < (1, 44) and config.healthcheck is not None:
        config.healthcheck.start_interval = 0
    host_config(version, host)


def host_config(version: Version, host: HostConfig) -> None:
    """The same for a HostConfig, of a create or of a start."""
    host.network_mode = host.network_mode or "default"
    if host.pids_limit is not None and host.pids_limit <= 0:
        host.pids_limit = None
    if version < (1, 25):
        # Clients removed such containers themselves.
        host.auto_remove = False
    if version < (1, 40):
        host.kernel_memory_tcp = 0
        host.ipc_mode = host.ipc_mode or "shareable"
    if version < (1, 41):
        host.cgroupns_mode = host.cgroupns_mode or "host"
    if version < (1, 42):
        host.console_size = (0, 0)
    else:
        host.kernel_memory = 0
    if version < (1, 43):
        host.annotations = None
    for mount in host.mounts or ():
        _mount(version, mount)


def update(version: Version, wanted: UpdateRequest) -> None:
    """The same for the body of POST /containers/{name}/update."""
    if version < (1, 40):
        wanted.pids_limit = None
    if version >= (1, 42):
        wanted.kernel_memory = 0


def _mount(version: Version, mount: Mount) -> None:
    bind, volume, tmpfs = mount.bind_options, mount.volume_options, mount.tmpfs_options
    if bind is not None and version < (1, 40):
        bind.non_recursive = False
    if version < (1, 42):
        if bind is not None:
            bind.create_mountpoint = False
        # Options of another type were not looked at.
        if mount.type == "bind":
            mount.volume_options = mount.tmpfs_options = None
        elif mount.type == "volume":
            mount.tmpfs_options = None
    if version < (1, 44) and mount.type == "bind" and mount.read_only:
        # Read-only mounts were not recursive before.
        mount.bind_options = bind = bind or BindOptions()
        bind.read_only_non_recursive = True
    if version < (1, 45) and volume is not None:
        volume.subpath = ""
    if version < (1, 46) and tmpfs is not None:
        tmpfs.options = None
