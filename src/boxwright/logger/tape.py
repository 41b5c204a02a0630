"""The files of one log, rotated and packed ones as well, as one sequence of whole records.  Blocks; runs in threads."""

import os
import tempfile
import zlib

from boxwright.logger.formats import Format, Record
from boxwright.logger.packing import packed_inode
from boxwright.logger.rotation import Lock

_BLOCK = 256 << 10  # bytes of a file for one batch


class _File:
    """One open file: what it is known by (the inode number that it had before it was packed), and its contents."""

    def __init__(self, fd: int, packed: bool) -> None:
        self._fd, self._packed = fd, packed
        self.identity = packed_inode(fd) if packed else os.fstat(fd).st_ino

    def fd(self) -> int:
        """A descriptor of the plain contents; a packed file is unpacked now, into one without a name."""
        if self._packed:
            with tempfile.TemporaryFile() as plain:
                _unpack(self._fd, plain.fileno())
                os.dup2(plain.fileno(), self._fd, inheritable=False)
            os.lseek(self._fd, 0, os.SEEK_SET)
            self._packed = False
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


def _unpack(source: int, target: int) -> None:
    """What can be had of a packed file: one that is damaged ends where the damage begins."""
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        while not unpacker.eof and (data := os.read(source, _BLOCK)):
            while data:
                plain = unpacker.decompress(data, 4 * _BLOCK)
                while plain:
                    plain = plain[os.write(target, plain) :]
                data = unpacker.unconsumed_tail
    except zlib.error:
        return


class Tape:
    """Reads the log at `path`, which is kept in form `form`."""

    def __init__(self, path: str, form: Format) -> None:
        self._path, self._form = path, form
        self._files: list[_File] = []  # oldest first; reading is in the first
        self._rest = b""
        self._skip = 0  # records still to be left out
        self._end = -1  # of the last file: where reading stops, or -1

    def begin(self, tail: int, follow: bool) -> None:
        """Open what is there, at the start or `tail` records before the end; without `follow` that is all there is."""
        self._files = self._open_all()
        if not follow:
            self._end = os.fstat(self._files[-1].fd()).st_size if self._files else 0
        if tail >= 0:
            self._seek_tail(tail)

    def read(self) -> list[Record]:
        """The next records, none when there are none at the moment."""
        while data := self._read_whole():
            records = self._form.decode(data)
            if self._skip:
                skipped = min(self._skip, len(records))
                self._skip -= skipped
                records = records[skipped:]
            if records:
                return records
        return []

    def _read_whole(self) -> bytes:
        while True:
            if not self._files and (self._end >= 0 or not self._open_current()):
                return b""
            fd, size = self._files[0].fd(), _BLOCK
            if self._end >= 0 and len(self._files) == 1:
                size = min(size, self._end - os.lseek(fd, 0, os.SEEK_CUR))
                if size <= 0:
                    return b""
            data = os.read(fd, size)
            if data:
                data = self._rest + data
                cut = self._form.whole(data)
                self._rest = data[cut:]
                if len(self._rest) > self._form.longest:
                    self._rest = b""
                if cut:
                    return data[:cut]
            elif os.fstat(fd).st_size < os.lseek(fd, 0, os.SEEK_CUR):
                os.lseek(fd, 0, os.SEEK_SET)  # max-file=1: the writer starts the same file again
                self._rest = b""
            elif len(self._files) > 1:
                self._files.pop(0).close()
                self._rest = b""
            elif self._end >= 0 or not self._open_next():
                return b""
            # It has been rotated away, and is complete now: what came between its last read and that is still to read.

    def close(self) -> None:
        """Close all files."""
        for file in self._files:
            file.close()
        self._files.clear()

    def _names(self) -> list[str]:
        """The names that are there, newest first."""
        names = [self._path]
        while name := self._rotated(len(names)):
            names.append(name)
        return names

    def _rotated(self, index: int) -> str:
        """The name of a rotated file: the plain one while there is one, as it is whole in any case; "" for none."""
        plain = f"{self._path}.{index}"
        return plain if os.path.exists(plain) else f"{plain}.gz" if os.path.exists(f"{plain}.gz") else ""

    def _open_all(self) -> list[_File]:
        """Every file, oldest first."""
        try:
            with Lock(self._path):
                files = [_open(name) for name in self._names()]
        except FileNotFoundError:  # the directory itself
            return []
        return [file for file in files if file is not None][::-1]

    def _open_current(self) -> bool:
        file = _open(self._path)
        if file is not None:
            self._files.append(file)
        return file is not None

    def _open_next(self) -> bool:
        """When the file being read was rotated away, open the one after it."""
        own = self._files[-1].identity
        if _identity(self._path) == own:
            return False
        try:
            with Lock(self._path):
                names = self._names()
                # The newest one that is known by this number is it: an older one had it before.
                position = next((n for n, name in enumerate(names) if _identity(name) == own), len(names))
                # Not there: it was deleted meanwhile, and the oldest that is left comes next.
                file = _open(names[position - 1]) if position else None
        except FileNotFoundError:
            return False
        if file is None:
            return False
        self._files.append(file)
        return True

    def _seek_tail(self, tail: int) -> None:
        """Skip to the last `tail` records."""
        for position in range(len(self._files) - 1, -1, -1):
            fd = self._files[position].fd()
            last = self._end if position == len(self._files) - 1 else -1
            end = last if last >= 0 else os.fstat(fd).st_size
            offset, self._skip, tail = self._form.from_end(fd, end, tail)
            os.lseek(fd, offset, os.SEEK_SET)
            if not tail:
                for old in self._files[:position]:
                    old.close()
                del self._files[:position]
                return


def _open(path: str) -> _File | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    return _File(fd, path.endswith(".gz"))


def _identity(path: str) -> int:
    """What the file at `path` is known by; 0 when there is none."""
    if not path.endswith(".gz"):
        try:
            return os.lstat(path).st_ino
        except FileNotFoundError:
            return 0
    file = _open(path)
    if file is None:
        return 0
    file.close()
    return file.identity
