"""The local driver: a directory below the data root, or, with options, a file system mounted there while it is used.

    volumes/<name>/_data

The mount is in the host's table: containers come and go while one of them uses it, so no container can own it.
"""

import asyncio
import errno
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

from boxwright.errdefs import InvalidParameter, System
from boxwright.linux import inroot, mount
from boxwright.trees.placement import spread
from boxwright.trees.trash import Trash

Result = TypeVar("Result")
_NETWORK = frozenset({"nfs", "nfs4", "cifs"})
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_OPTIONS = ("type", "o", "device")
# mount(2), include/uapi/linux/mount.h: option → (flag, whether the option clears it).
_FLAGS = {
    "defaults": (0, False), "ro": (1, False), "rw": (1, True), "nosuid": (2, False), "suid": (2, True),
    "nodev": (4, False), "dev": (4, True), "noexec": (8, False), "exec": (8, True), "sync": (16, False),
    "async": (16, True), "remount": (32, False), "mand": (64, False), "nomand": (64, True), "dirsync": (128, False),
    "noatime": (1024, False), "atime": (1024, True), "nodiratime": (2048, False), "diratime": (2048, True),
    "bind": (4096, False), "rbind": (4096 | 16384, False), "unbindable": (1 << 17, False),
    "runbindable": (1 << 17 | 16384, False), "private": (1 << 18, False), "rprivate": (1 << 18 | 16384, False),
    "slave": (1 << 19, False), "rslave": (1 << 19 | 16384, False), "shared": (1 << 20, False),
    "rshared": (1 << 20 | 16384, False), "relatime": (1 << 21, False), "norelatime": (1 << 21, True),
    "strictatime": (1 << 24, False), "nostrictatime": (1 << 24, True),
}  # fmt: skip
_BIND, _READ_ONLY, _REMOUNT = 4096, 1, 32
# nosuid, nodev, noexec, noatime, nodiratime, relatime: what a bind has to be given in a second call, with "ro".
_PER_MOUNT = 1 | 2 | 4 | 8 | 1024 | 2048 | 1 << 21
_PROPAGATION = 1 << 17 | 1 << 18 | 1 << 19 | 1 << 20
_REC = 16384


class Local:
    """The directories of one data root."""

    name = "local"

    def __init__(self, data_root: str, trash: Trash) -> None:
        self.root = f"{data_root}/volumes"
        self._trash = trash
        os.makedirs(self.root, 0o711, exist_ok=True)
        spread(self.root)

    def check_name(self, name: str) -> None:
        """Raises InvalidParameter with the driver's texts."""
        if len(name.encode(errors="surrogateescape")) == 1:
            raise InvalidParameter("volume name is too short, names should be at least two alphanumeric characters")
        if not _NAME.fullmatch(name):
            raise InvalidParameter(
                f'"{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are'
                " allowed. If you intended to pass a host directory, use absolute path"
            )
        if len(name) > 255:
            raise InvalidParameter(f"error while creating volume root path '{self.root}/{name}': file name too long")

    @staticmethod
    def check_options(options: dict[str, str]) -> None:
        """Raises InvalidParameter for an option that does not exist, and for a type without its device."""
        for name in options:
            if name not in _OPTIONS:
                raise InvalidParameter(f'invalid option: "{name}"')
        for name in ("device", "type"):
            # A device without a type is a network share that the mount options describe; dockerd demands both, too.
            if options and not options.get(name):
                raise InvalidParameter(f'missing required option: "{name}"')

    def path(self, name: str) -> str:
        """Where the volume's files are."""
        return f"{self.root}/{name}/_data"

    def make(self, name: str) -> None:
        """Make the directory."""
        os.makedirs(f"{self.root}/{name}", 0o711, exist_ok=True)
        try:
            os.mkdir(self.path(name), 0o755)
        except FileExistsError:
            return
        os.chmod(self.path(name), 0o755)

    def remove(self, name: str) -> None:
        """Remove the directory and all that is in it; a file system of the volume's own is left alone."""
        self.unmount(name)
        self._trash.discard(f"{self.root}/{name}")

    def mounted(self, name: str) -> bool:
        """Whether a file system is mounted there."""
        try:
            parent = os.open(f"{self.root}/{name}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            os.close(inroot.openat2(parent, "_data", os.O_PATH, inroot.RESOLVE_NO_XDEV))
        except OSError as error:
            return error.errno == errno.EXDEV  # os.path.ismount does not notice a bind of the same file system
        finally:
            os.close(parent)
        return False

    def mount(self, name: str, options: dict[str, str]) -> None:
        """Mount the volume's own file system, unless it is mounted.  May take as long as a server; raises System."""
        if self.mounted(name):
            return
        target, device, kind = self.path(name), options.get("device", ""), options.get("type", "")
        flags, data = parse_options(options.get("o", ""))
        if kind in _NETWORK:
            device, data = _addresses(kind, device, data)
        try:
            propagation = flags & _PROPAGATION
            mount.mount(device, target, kind, flags & ~_PROPAGATION, data)
            if flags & _BIND and flags & _PER_MOUNT:
                mount.mount("none", target, "", flags & (_PER_MOUNT | _BIND | _REC) | _REMOUNT)
            if propagation:
                mount.mount("none", target, "", propagation | flags & _REC)
        except OSError as error:
            # A half-made bind must not stay: the next user would take it for the whole.
            if self.mounted(name):
                self.unmount(name)
            shown = (
                f"{device}:{target}"
                + (f", flags: {flags:#x}" if flags else "")
                + (f", data: {_masked(data)}" if data else "")
            )
            reason = os.strerror(error.errno or 0).lower()
            raise System(f"failed to mount local volume: mount {shown}: {reason}") from error

    def unmount(self, name: str) -> None:
        """Take the file system away; one that is busy goes when its last file is closed."""
        if self.mounted(name):
            try:
                mount.umount(self.path(name), mount.MNT_DETACH)
            except OSError as error:
                raise System(f"unmounting the volume {name}: {error.strerror}") from error

    def names(self) -> list[str]:
        """The volumes that have a directory."""
        return [name for name in os.listdir(self.root) if os.path.isdir(self.path(name))]

    def prune_empty(self, name: str) -> bool:
        """Remove the directory of a volume that was never used; False when there is something in it."""
        try:
            os.rmdir(self.path(name))
        except OSError:
            return False
        shutil.rmtree(f"{self.root}/{name}", ignore_errors=True)
        return True


async def in_thread(function: Callable[..., Result], *arguments: object) -> Result:
    """Run what may wait for another machine for as long as it likes in a thread of its own.

    The engine's pool has few threads, and its end waits for them: a server that hangs would stop both.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def tell(setter: Callable[..., None], value: object) -> None:
        if not future.done():
            setter(value)

    def run() -> None:
        try:
            told: tuple[Callable[..., None], object] = future.set_result, function(*arguments)
        except BaseException as error:
            told = future.set_exception, error
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, *told)

    threading.Thread(target=run, name="volume", daemon=True).start()
    return await asyncio.shield(future)


def parse_options(text: str) -> tuple[int, str]:
    """Flags and data of an option string, as mount(8) tells them apart."""
    flags, data = 0, []
    for option in filter(None, text.split(",")):
        found = _FLAGS.get(option)
        if found is None:
            data.append(option)
        elif found[1]:
            flags &= ~found[0]
        else:
            flags |= found[0]
    return flags, ",".join(data)


def _addresses(kind: str, device: str, data: str) -> tuple[str, str]:
    """Device and data with addresses for host names: the kernel takes no others.  Raises System."""
    options = data.split(",")
    for index, option in enumerate(options):
        if option.startswith("addr="):
            options[index] = f"addr={_address(option[5:])}"
            return device, ",".join(options)
    if kind == "cifs" and (host := urlsplit(device).hostname):
        parts = urlsplit(device)
        address = _address(host)
        device = urlunsplit(
            parts._replace(netloc=parts.netloc.replace(host, f"[{address}]" if ":" in address else address))
        )
    return device, data


def _address(host: str) -> str:
    """The host's address, of IPv4 if it has one."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise System(f"error resolving passed in network volume address: lookup {host}: no such host") from None
    return str(min(found, key=lambda entry: entry[0] != socket.AF_INET)[4][0])


def _masked(text: str) -> str:
    """Without the password, which is in the options of a cifs share: errors are logged."""
    return re.sub(r"(^|,)(pass(?:word)?)=[^,]*", r"\1\2=********", text)
