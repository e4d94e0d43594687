"""Tar shards in the WebDataset convention: KEY.jpg and KEY.cls side by side, read in place by offset."""

import tarfile
from pathlib import Path, PurePosixPath

from otherview.data.folder import ARRAYS, ENDINGS
from otherview.data.index import NO_LABEL, Table, TableWriter, cached
from otherview.data.packed import Packed, check_name
from otherview.errors import WrongRequest

LONGEST_LABEL = 18
"""Digits of a KEY.cls."""
Members = dict[str, tuple[int, int, str]]
"""Offset, size and name by key."""


def open_tar(file: Path) -> Packed:
    """All images of a shard, in the order of its members."""
    packed = Packed(file, Table(cached("tar", file, lambda place: _index(file, place))))
    if not len(packed):
        raise WrongRequest(f"{file} holds no images: tar shards need members such as KEY.jpg and KEY.cls")
    return packed


def _index(file: Path, place: Path) -> list[Path]:
    try:
        images, labels = _members(file)
    except WrongRequest:
        raise
    except (tarfile.TarError, ValueError, OverflowError, OSError) as error:
        raise WrongRequest(
            f"{file} is no readable tar shard ({error}): it must be uncompressed, with KEY.cls numbers"
        ) from error
    writer = TableWriter(place, "offset", "size", "label")
    for key, (offset, size, name) in images.items():
        writer.add(name, offset=offset, size=size, label=labels.get(key, NO_LABEL))
    writer.close()
    return [file]


def _members(file: Path) -> tuple[Members, dict[str, int]]:
    """The first image of every key (arrays only where the shard has no images), and the labels."""
    images: Members = {}
    arrays: Members = {}
    labels: dict[str, int] = {}
    with tarfile.open(file, "r:") as archive:
        reached = -1
        while (member := archive.next()) is not None:
            archive.members = []  # pyright: ignore[reportAttributeAccessIssue]  # a million members stay no objects
            if member.size < 0 or archive.offset <= reached or member.issparse():
                raise tarfile.ReadError(f"a damaged or sparse member at byte {member.offset:,}")
            reached = archive.offset
            check_name(file, member.name)
            key, ending = _split(member.name)
            if not member.isfile():
                continue
            if ending in ENDINGS or ending in ARRAYS:
                found = images if ending in ENDINGS else arrays
                found.setdefault(key, (member.offset_data, member.size, member.name))
            elif ending == ".cls" and (content := archive.extractfile(member)):
                labels[key] = int(content.read(LONGEST_LABEL))
        _check_end(file, archive.offset)
    return images or arrays, labels


def _check_end(file: Path, offset: int) -> None:
    """tarfile takes a damaged header for the end; behind the true end there are zeros or nothing."""
    with file.open("rb") as raw:
        raw.seek(offset)
        if raw.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"a damaged header at byte {offset:,}")


def _split(name: str) -> tuple[str, str]:
    """WebDataset splits at the first dot of the file name."""
    path = PurePosixPath(name)
    stem, dot, rest = path.name.partition(".")
    return str(path.parent / stem), (dot + rest).lower()
