"""Packed: encoded images inside large files, reached by offset; nothing is ever unpacked beside them.

Tar shards and zip archives are read where they lie; parquet, which cannot be read by row, is laid out in the cache once.
"""

import os
from collections import OrderedDict
from pathlib import Path, PurePosixPath

from otherview.data.files import LARGEST_IMAGE
from otherview.data.first_level import NO_LABEL
from otherview.data.index import Table
from otherview.data.source import printable
from otherview.errors import BrokenImage, WrongRequest

MOST_OPEN = 64
"""Files that one process keeps open, however many shards there are."""


class Packed:
    """Byte ranges of one file: a row per image with `offset`, `size` and `label` (−1: none)."""

    def __init__(self, file: Path, table: Table) -> None:
        self.file, self.table = file, table
        self.classes = table.classes

    def __len__(self) -> int:
        return len(self.table)

    def read(self, index: int) -> bytes:
        offset, size = self.table.number("offset", index), self.table.number("size", index)
        if size > LARGEST_IMAGE:
            raise BrokenImage(f"{self.name(index)}: {size:,} bytes for one image")
        try:
            data = os.pread(_opened(self.file), size, offset)
        except OSError as error:
            raise BrokenImage(f"{self.name(index)}: {self.file} {error.strerror}") from error
        if len(data) < size:
            raise BrokenImage(f"{self.name(index)}: {self.file} ends too early")
        return data

    def label(self, index: int) -> int | None:
        label = self.table.number("label", index)
        return None if label == NO_LABEL else label

    def name(self, index: int) -> str:
        """The file's name and the member's."""
        return printable(f"{self.file.name}/{self.table.name(index)}")


_open: OrderedDict[tuple[int, Path], int] = OrderedDict()


def _opened(file: Path) -> int:
    """A descriptor of this process; the one not used for longest is closed when there are too many."""
    key = (os.getpid(), file)  # a forked worker opens its own
    if key not in _open:
        _open[key] = os.open(file, os.O_RDONLY)
        if len(_open) > MOST_OPEN:
            os.close(_open.popitem(last=False)[1])
    _open.move_to_end(key)
    return _open[key]


def check_name(archive: Path, name: str) -> None:
    """Refuse an archive whose members would leave its folder if it were unpacked."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise WrongRequest(
            f"{archive} names a file outside itself ({printable(name)!r}): such archives are not read; pack it again"
        )
