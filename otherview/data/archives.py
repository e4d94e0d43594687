"""Images inside large files, read where they lie by offset; nothing is ever unpacked beside them.

In a zip archive the first folder level names the class, as in a folder. Shards are data/shards.py.
"""

import os
import struct
import zipfile
import zlib
from collections import Counter, OrderedDict
from pathlib import Path, PurePosixPath

from otherview.data.folder import LARGEST_IMAGE
from otherview.data.foreign import ARRAYS, ENDINGS, READS, ending_of, has_litter
from otherview.data.index import FirstLevel, Indexed, Table, TableWriter
from otherview.data.index_cache import cached
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

    def depends(self) -> list[Path]:
        """The files that it is made of."""
        return [self.file]

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


ENCRYPTED = 1
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Zipped(Packed):
    """Members of an archive, checked by length and sum: more columns are `deflated`, `length` and `crc`."""

    def read(self, index: int) -> bytes:
        data, length = super().read(index), self.table.number("length", index)
        if self.table.number("deflated", index):
            self.check_size(index, length)
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, length + 1)
            except zlib.error as error:
                raise BrokenImage(f"{self.name(index)}: {error}") from error
        if len(data) != length or zlib.crc32(data) != self.table.number("crc", index):
            raise BrokenImage(f"{self.name(index)}: its content is not what the archive says of it")
        return data


def open_zip(file: Path) -> Zipped:
    """All images of an archive, in the order of their names."""
    archive = Zipped(file, Table(cached(f"zip{READS}", file, lambda place: _index_zip(file, place))))
    if not len(archive):
        raise WrongRequest(f"{file} holds no images: it needs members such as *.jpg or *.png")
    return archive


def _index_zip(file: Path, place: Path) -> list[Path]:
    writer, classes = (
        TableWriter(place, "offset", "size", "deflated", "length", "crc", "label"),
        FirstLevel(),
    )
    try:
        with zipfile.ZipFile(file) as archive, file.open("rb") as raw:
            members, others = _images(file, archive)
            writer.leave_out(others)
            for member in members:
                writer.add(
                    member.filename,
                    offset=_data_offset(raw.fileno(), member.header_offset),
                    size=member.compress_size,
                    deflated=int(member.compress_type == zipfile.ZIP_DEFLATED),
                    length=member.file_size,
                    crc=member.CRC,
                    label=classes.label(member.filename.replace("\\", "/")),
                )
    except WrongRequest:
        raise
    except (zipfile.BadZipFile, OSError, struct.error, ValueError, OverflowError, NotImplementedError) as error:
        raise WrongRequest(f"{file} is no readable zip archive ({error}): pack it again") from error
    classes.finish(writer)
    writer.close()
    return [file]


def _images(file: Path, archive: zipfile.ZipFile) -> tuple[list[zipfile.ZipInfo], Counter[str]]:
    """The members that are images (arrays only where there are no others), in sorted order, and what else there is."""
    members = sorted(archive.infolist(), key=lambda member: member.filename)
    chosen, others = list[zipfile.ZipInfo](), Counter[str]()
    for endings in (ENDINGS, ARRAYS):
        others.clear()
        for member in members:
            check_name(file, member.filename)
            if member.is_dir() or has_litter(member.filename.replace("\\", "/")):
                continue
            if (ending := ending_of(member.filename)) in endings:
                _check(file, member)
                chosen.append(member)
            else:
                others[ending] += 1
        if chosen:
            break
    return chosen, others


def _check(file: Path, member: zipfile.ZipInfo) -> None:
    if member.flag_bits & ENCRYPTED:
        raise WrongRequest(f"{file} is encrypted ({member.filename!r}): unpack it and give the folder")
    if member.compress_type not in METHODS:
        raise WrongRequest(f"{file} uses compression {member.compress_type}: pack it again, stored or deflated")


def _data_offset(descriptor: int, header: int) -> int:
    """Where a member's bytes begin: behind its local header, whose name and extra field have their own lengths."""
    name, extra = struct.unpack("<HH", read_at(descriptor, 30, header)[26:30])
    return header + 30 + name + extra
