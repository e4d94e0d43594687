"""A zip archive of images, read in place; the first folder level names the class, as in a folder."""

import os
import struct
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np

from otherview.data.files import ARRAYS, ENDINGS, NO_LABEL
from otherview.data.index import Table, TableWriter, cached
from otherview.data.packed import Packed, check_name
from otherview.errors import WrongRequest

ENCRYPTED = 1


def open_zip(file: Path) -> Packed:
    """All images of an archive, in the order of their names."""
    packed = Packed(file, Table(cached("zip", file, lambda place: _index(file, place))), compressed=True)
    if not len(packed):
        raise WrongRequest(f"{file} holds no images: it needs members such as *.jpg or *.png")
    return packed


def _index(file: Path, place: Path) -> list[Path]:
    writer = TableWriter(place, "offset", "size", "deflated", "label")
    classes: dict[str, int] = {}
    flat = False
    try:
        with zipfile.ZipFile(file) as archive, file.open("rb") as raw:
            for member in sorted(archive.infolist(), key=lambda member: member.filename):
                check_name(file, member.filename)
                path = PurePosixPath(member.filename)
                if member.is_dir() or path.suffix.lower() not in ENDINGS | ARRAYS or path.parts[0] == "__MACOSX":
                    continue
                if member.flag_bits & ENCRYPTED:
                    raise WrongRequest(f"{file} is encrypted ({member.filename}): unpack it and give the folder")
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise WrongRequest(
                        f"{file} uses compression {member.compress_type}: pack it again stored or deflated"
                    )
                flat = flat or len(path.parts) == 1
                writer.add(
                    member.filename,
                    offset=_data_offset(raw.fileno(), member.header_offset),
                    size=member.compress_size,
                    deflated=int(member.compress_type == zipfile.ZIP_DEFLATED),
                    label=classes.setdefault(path.parts[0], len(classes)),
                )
    except (zipfile.BadZipFile, OSError, struct.error) as error:
        raise WrongRequest(f"{file} is no readable zip archive ({error}): pack it again") from error
    if flat:
        writer.replace("label", np.full(len(writer), NO_LABEL))
    writer.close()
    return [file]


def _data_offset(descriptor: int, header: int) -> int:
    """Where a member's bytes begin: behind its local header, whose name and extra field have their own lengths."""
    name, extra = struct.unpack("<HH", os.pread(descriptor, 30, header)[26:30])
    return header + 30 + name + extra
