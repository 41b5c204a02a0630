"""`hostfs`: the host's own root as an image.  A container of it is a disposable copy of the machine.

The lower layer is the host's root file system, the upper a tmpfs of bounded size; what else is mounted on the host is
added read-only, one mount after the other.  What must stay secret is masked, and so is what is ours.
"""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from boxwright.images.image import Image, host_architecture
from boxwright.images.reference import Reference
from boxwright.specs.image import Defaults, History, ImageConfig
from boxwright.storage.snapshotter import HOSTFS

NAME = "hostfs"
REFERENCE = Reference("docker.io", f"library/{NAME}", "latest")

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Patterns: passwords, private keys and tokens, where programs keep them.
_SECRETS = (
    "/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/security/opasswd", "/etc/sudoers.d",
    "/etc/ssh/ssh_host_*_key", "/etc/ssl/private", "/etc/pki/tls/private", "/etc/letsencrypt", "/etc/wireguard",
    "/etc/openvpn", "/etc/ipsec.secrets", "/etc/krb5.keytab", "/etc/NetworkManager/system-connections",
    "/etc/kubernetes", "/etc/rancher", "/etc/docker/certs.d", "/etc/containers/auth.json", "/root/.docker/config.json",
    "/root/.ssh", "/root/.gnupg", "/root/.aws", "/root/.kube", "/root/.netrc", "/root/.config/gcloud", "/root/.azure",
    "/home/*/.ssh", "/home/*/.gnupg", "/home/*/.aws", "/home/*/.kube", "/home/*/.netrc", "/home/*/.docker/config.json",
    "/home/*/.config/gcloud", "/home/*/.azure", "/var/lib/docker", "/var/lib/containerd", "/var/lib/containers",
    "/var/lib/kubelet", "/var/lib/boxwright", "/var/lib/private", "/var/lib/sss",
)  # fmt: skip
# File systems that hold files of the host.  Everything else is the kernel's own, or somebody else's runtime state.
_FILE_SYSTEMS = frozenset(
    "ext2 ext3 ext4 xfs btrfs f2fs zfs bcachefs erofs squashfs vfat exfat nfs nfs4 cifs 9p virtiofs".split()  # noqa: SIM905
)
# Places that every container makes for itself.
_OWN = ("/proc", "/sys", "/dev", "/run", "/tmp")
_MOST_MOUNTS = 64


def image(private: Sequence[str]) -> Image:
    """The virtual image as it is now.  private: more paths that are masked (data root, run directory)."""
    config = ImageConfig(
        architecture=host_architecture(),
        os="linux",
        created="1970-01-01T00:00:00Z",
        config=Defaults(env=[_PATH], cmd=["bash"] if os.path.exists("/bin/bash") else ["sh"], working_dir="/"),
        history=[History(created="1970-01-01T00:00:00Z", created_by="the root file system of this host")],
    )
    found = Image("sha256:" + "0" * 64, config, [HOSTFS], repo_tags=[str(REFERENCE)])
    found.masked_paths = masked_paths(private)
    found.mounts = mounts(found.masked_paths)
    return found


def masked_paths(private: Sequence[str]) -> list[str]:
    """Every secret that exists, and `private`; resolved, because a mask lies on what a path leads to."""
    paths = {os.path.realpath(path) for path in private}
    for pattern in _SECRETS:
        paths.update(os.path.realpath(path) for path in glob.glob(pattern))
    paths.discard("/")
    # A mask below a mask would have nothing to lie on.
    return sorted(path for path in paths if not any(path.startswith(other + "/") for other in paths))


def mounts(masked: Sequence[str]) -> list[dict[str, Any]]:
    """OCI mounts: a /run and a /tmp of its own, then the host's other file systems, parents first.

    None below something masked.
    """
    found: list[dict[str, Any]] = [
        {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", *options]}
        for path, options in (("/run", ["mode=755", "size=64m"]), ("/tmp", ["mode=1777", "size=1g"]))
        if os.path.isdir(path)
    ]
    for point in _mount_points():
        if not any(point == other or point.startswith(other + "/") for other in (*masked, *_OWN)):
            options = ["bind", "ro", "nosuid", "nodev", "rprivate"]
            found.append({"destination": point, "type": "bind", "source": point, "options": options})
    return sorted(found[:_MOST_MOUNTS], key=lambda mount: str(mount["destination"]))


def _mount_points() -> Iterator[str]:
    """Directories of the host, other than /, that carry a file system with files in it."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" ")
            point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
            if point != "/" and fields[fields.index("-") + 1] in _FILE_SYSTEMS and os.path.isdir(point):
                yield point
