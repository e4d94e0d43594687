"""Packed: encoded images inside large files, reached by offset; nothing is ever unpacked beside them.

Tar shards and zip archives are read where they lie; parquet, which cannot be read by row, is laid out in the cache once.
"""

import os
from collections import OrderedDict
from pathlib import Path, PurePosixPath

from otherview.data.folder import LARGEST_IMAGE
from otherview.data.index import Indexed, Table
from otherview.data.source import printable
from otherview.errors import BrokenImage, WrongRequest

MOST_OPEN = 64
"""Files that one process keeps open, however many shards there are."""


class Packed(Indexed):
    """Byte ranges of one file: a row per image with `offset` and `size`."""

    def __init__(self, file: Path, table: Table) -> None:
        super().__init__(table)
        self.file = file

    def read(self, index: int) -> bytes:
        offset, size = self.table.number("offset", index), self.table.number("size", index)
        self.check_size(index, size)
        try:
            data = read_at(_opened(self.file), size, offset)
        except OSError as error:
            raise BrokenImage(f"{self.name(index)}: {self.file} {error.strerror}") from error
        if len(data) < size:
            raise BrokenImage(f"{self.name(index)}: {self.file} ends too early")
        return data

    def check_size(self, index: int, size: int) -> None:
        """Raise BrokenImage where an image claims more bytes than one may have."""
        if size > LARGEST_IMAGE:
            raise BrokenImage(f"{self.name(index)}: {size:,} bytes for one image")

    def name(self, index: int) -> str:
        """The file's name and the member's."""
        return printable(f"{self.file.name}/{self.table.name(index)}")


_open: OrderedDict[tuple[int, Path], int] = OrderedDict()


def _opened(file: Path) -> int:
    """A descriptor of this process; the one not used for longest is closed when there are too many."""
    key = (os.getpid(), file)  # a forked worker opens its own
    if key not in _open:
        _open[key] = os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        if len(_open) > MOST_OPEN:
            os.close(_open.popitem(last=False)[1])
    _open.move_to_end(key)
    return _open[key]


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """Bytes at an offset; where the system cannot read at one, by going there first: a process reads from one thread."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, size)


def leads_outside(name: str) -> bool:
    """Whether a name in an archive or a list of annotations leaves the folder it is meant for."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts


def check_name(archive: Path, name: str) -> None:
    """Refuse an archive whose members would leave its folder if it were unpacked."""
    if leads_outside(name):
        raise WrongRequest(
            f"{archive} names a file outside itself ({printable(name)!r}): such archives are not read; pack it again"
        )
