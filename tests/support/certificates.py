"""Certificates for tests, made by the openssl command: an authority, and what it (or nobody) has signed."""

import subprocess
from pathlib import Path


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


class Authority:
    """A directory with `ca.pem` and `ca-key.pem`."""

    def __init__(self, directory: Path, name: str = "test authority") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout", str(self.key), "-out", str(self.certificate),
        )  # fmt: skip

    @property
    def certificate(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def key(self) -> Path:
        return self.directory / "ca-key.pem"

    def issue(self, name: str, usage: str, address: str = "127.0.0.1") -> Path:
        """A directory in docker's shape (ca.pem, cert.pem, key.pem); usage: serverAuth or clientAuth."""
        directory = self.directory / name
        directory.mkdir()
        request, extensions = directory / "request", directory / "extensions"
        _openssl(
            "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-subj", f"/CN={name}", "-keyout", str(directory / "key.pem"), "-out", str(request),
        )  # fmt: skip
        # What RFC 5280 asks for, and Python checks since 3.13.
        extensions.write_text(
            f"subjectAltName=IP:{address},DNS:localhost\nextendedKeyUsage={usage}\nkeyUsage=digitalSignature\n"
            "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
        _openssl(
            "x509", "-req", "-in", str(request), "-CA", str(self.certificate), "-CAkey", str(self.key),
            "-CAcreateserial", "-days", "2", "-extfile", str(extensions), "-out", str(directory / "cert.pem"),
        )  # fmt: skip
        (directory / "ca.pem").write_bytes(self.certificate.read_bytes())
        return directory
