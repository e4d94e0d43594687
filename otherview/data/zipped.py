"""A zip archive of images, read in place; the first folder level names the class, as in a folder."""

import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from otherview.data.folder import ARRAYS, ENDINGS
from otherview.data.index import FirstLevel, Table, TableWriter, cached
from otherview.data.packed import Packed, check_name, read_at
from otherview.errors import BrokenImage, WrongRequest

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
    archive = Zipped(file, Table(cached("zip", file, lambda place: _index(file, place))))
    if not len(archive):
        raise WrongRequest(f"{file} holds no images: it needs members such as *.jpg or *.png")
    return archive


def _index(file: Path, place: Path) -> list[Path]:
    writer, classes = TableWriter(place, "offset", "size", "deflated", "length", "crc", "label"), FirstLevel()
    try:
        with zipfile.ZipFile(file) as archive, file.open("rb") as raw:
            for member in _images(file, archive):
                writer.add(
                    member.filename,
                    offset=_data_offset(raw.fileno(), member.header_offset),
                    size=member.compress_size,
                    deflated=int(member.compress_type == zipfile.ZIP_DEFLATED),
                    length=member.file_size,
                    crc=member.CRC,
                    label=classes.label(member.filename),
                )
    except WrongRequest:
        raise
    except (zipfile.BadZipFile, OSError, struct.error, ValueError, OverflowError, NotImplementedError) as error:
        raise WrongRequest(f"{file} is no readable zip archive ({error}): pack it again") from error
    classes.finish(writer)
    return [file]


def _images(file: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The members that are images (arrays only where there are no others), in sorted order."""
    members = sorted(archive.infolist(), key=lambda member: member.filename)
    for endings in (ENDINGS, ARRAYS):
        chosen = []
        for member in members:
            check_name(file, member.filename)
            path = PurePosixPath(member.filename)
            if not member.is_dir() and path.suffix.lower() in endings and path.parts[0] != "__MACOSX":
                _check(file, member)
                chosen.append(member)
        if chosen:
            return chosen
    return []


def _check(file: Path, member: zipfile.ZipInfo) -> None:
    if member.flag_bits & ENCRYPTED:
        raise WrongRequest(f"{file} is encrypted ({member.filename!r}): unpack it and give the folder")
    if member.compress_type not in METHODS:
        raise WrongRequest(f"{file} uses compression {member.compress_type}: pack it again, stored or deflated")


def _data_offset(descriptor: int, header: int) -> int:
    """Where a member's bytes begin: behind its local header, whose name and extra field have their own lengths."""
    name, extra = struct.unpack("<HH", read_at(descriptor, 30, header)[26:30])
    return header + 30 + name + extra
