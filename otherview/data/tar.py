"""Tar shards in the WebDataset convention: KEY.jpg and KEY.cls side by side, read in place by offset."""

import tarfile
from pathlib import Path, PurePosixPath

from otherview.data.files import ARRAYS, ENDINGS, NO_LABEL
from otherview.data.index import Table, TableWriter, cached
from otherview.data.packed import Packed, check_name
from otherview.errors import WrongRequest

LONGEST_LABEL = 20
"""Bytes of a KEY.cls."""


def open_tar(file: Path) -> Packed:
    """All images of a shard, in the order of its members."""
    packed = Packed(file, Table(cached("tar", file, lambda place: _index(file, place))))
    if not len(packed):
        raise WrongRequest(f"{file} holds no images: tar shards need members such as KEY.jpg and KEY.cls")
    return packed


def _index(file: Path, place: Path) -> list[Path]:
    images: dict[str, tuple[int, int, str]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(file, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # pyright: ignore[reportAttributeAccessIssue]  # a million members stay no objects
                check_name(file, member.name)
                key, ending = _split(member.name)
                if not member.isfile():
                    continue
                if ending in ENDINGS | ARRAYS:
                    images[key] = (member.offset_data, member.size, member.name)
                elif ending == ".cls" and (content := archive.extractfile(member)):
                    labels[key] = int(content.read(LONGEST_LABEL))
    except (tarfile.TarError, ValueError, OSError) as error:
        if isinstance(error, WrongRequest):
            raise
        raise WrongRequest(
            f"{file} is no readable tar shard ({error}): it must be uncompressed, with KEY.cls numbers"
        ) from error
    writer = TableWriter(place, "offset", "size", "label")
    for key, (offset, size, name) in images.items():
        writer.add(name, offset=offset, size=size, label=labels.get(key, NO_LABEL))
    writer.close()
    return [file]


def _split(name: str) -> tuple[str, str]:
    """WebDataset splits at the first dot of the file name."""
    path = PurePosixPath(name)
    stem, dot, rest = path.name.partition(".")
    return str(path.parent / stem), (dot + rest).lower()
