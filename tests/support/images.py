"""Images that the tests make themselves: busybox from Debian's static binary, a Debian from debootstrap."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

BUILD = Path(__file__).parents[2] / ".build" / "images"
CREATED = "2024-01-01T00:00:00Z"
BUSYBOX: dict[str, object] = {
    "Cmd": ["sh"],
    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
}
Entry = tuple[str, bytes | str | None]  # name, content (bytes), link target (str) or directory (None)


def layer(entries: list[Entry], mode: int = 0o755) -> bytes:
    """An uncompressed layer tar; a str is a symlink target, None a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = mode, 1_700_000_000
            if content is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def archive(path: Path, images: list[tuple[str, list[bytes], dict[str, object]]]) -> Path:
    """Write a docker-archive: images as (reference, layers bottom first, container config)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest = []
    written: set[str] = set()
    temporary = path.with_suffix(f".{os.getpid()}")
    with tarfile.open(temporary, "w") as tar:

        def add(name: str, data: bytes) -> None:
            if name not in written:
                written.add(name)
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))

        for reference, layers, config in images:
            digests = [hashlib.sha256(data).hexdigest() for data in layers]
            document = json.dumps(
                {
                    "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
                    "os": "linux",
                    "created": CREATED,
                    "config": config,
                    "rootfs": {"type": "layers", "diff_ids": [f"sha256:{d}" for d in digests]},
                    "history": [{"created": CREATED, "created_by": f"layer {i}"} for i in range(len(layers))],
                }
            ).encode()
            for digest, data in zip(digests, layers, strict=True):
                add(f"{digest}/layer.tar", data)
            name = f"{hashlib.sha256(document).hexdigest()}.json"
            add(name, document)
            manifest.append({"Config": name, "RepoTags": [reference], "Layers": [f"{d}/layer.tar" for d in digests]})
        add("manifest.json", json.dumps(manifest).encode())
    temporary.rename(path)
    return path


def busybox_layer() -> bytes:
    """Debian's static busybox with every applet as a symbolic link, and the files that a container expects."""
    binary = Path("/bin/busybox").read_bytes()
    applets = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    entries: list[Entry] = [(d, None) for d in ("bin", "etc", "root", "tmp", "var", "usr", "usr/bin", "home", "data")]
    entries.append(("bin/busybox", binary))
    entries += [(f"bin/{name}", "/bin/busybox") for name in applets if name != "busybox"]
    entries += [("usr/bin/env", "/bin/busybox"), ("data/seed", b"from the image\n")]
    entries.append(
        (
            "etc/passwd",
            b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/usr/sbin:/bin/false\nuser:x:1000:1000::/home/user:/bin/sh\n",
        )
    )
    entries.append(("etc/group", b"root:x:0:\ndaemon:x:1:\nuser:x:1000:\nextra:x:2000:user\n"))
    return layer(entries)


def busybox_archive() -> Path:
    """`busybox:latest` (one layer) and `layers:latest` (the same with 12 small layers on top); made once."""
    path = BUILD / "busybox.tar"
    if not path.exists():
        base = busybox_layer()
        config = BUSYBOX
        tops = [layer([(f"layer{i}", f"{i}\n".encode())]) for i in range(12)]
        volume = {
            **config,
            "Volumes": {"/data": {}},
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
            "Labels": {"kind": "test"},
            "User": "user",
            "WorkingDir": "/work",
            "StopSignal": "SIGINT",
        }
        archive(
            path,
            [
                ("busybox:latest", [base], config),
                ("layers:latest", [base, *tops], config),
                ("configured:1.0", [base], volume),
            ],
        )
    return path


def debian_archive() -> Path:
    """`debian:bookworm`, a minimal Debian made by debootstrap; made once (about a minute)."""
    path = BUILD / "debian.tar"
    if not path.exists():
        root = BUILD / "debian-root"
        shutil.rmtree(root, ignore_errors=True)
        BUILD.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["debootstrap", "--variant=minbase", "bookworm", str(root)],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=600,
        )
        shutil.rmtree(root / "var/cache/apt", ignore_errors=True)
        out = BUILD / "debian-layer.tar"
        subprocess.run(
            [
                "tar",
                "-C",
                str(root),
                "--one-file-system",
                "--exclude=./proc/*",
                "--exclude=./dev/*",
                "-cf",
                str(out),
                ".",
            ],
            check=True,
        )
        archive(
            path,
            [
                (
                    "debian:bookworm",
                    [out.read_bytes()],
                    {"Cmd": ["bash"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
                )
            ],
        )
        shutil.rmtree(root)
        out.unlink()
    return path
