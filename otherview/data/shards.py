"""Shards in the WebDataset convention: KEY.jpg and KEY.cls (a number or a word) or KEY.json with a label, side by side.

WebDataset takes what stands before a name's first dot for its KEY, photographers write dots into names. Where a key has an
image of its own, pictures such as KEY.seg.png are beside it; every other image counts, and what stands before its last
dot is its key. Nothing is ever unpacked: images are read where they lie.
"""

import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath

from otherview.data.archives import Packed, check_name
from otherview.data.foreign import ARRAYS, ENDINGS, READS, ending_of, has_litter
from otherview.data.index import FirstLevel, Table, TableWriter
from otherview.data.index_cache import cached
from otherview.data.labels import Labels
from otherview.errors import WrongRequest

LONGEST_LABEL = 2**20
"""Bytes of a KEY.cls or KEY.json."""
BESIDE = re.compile(r"\.[a-z_]+\.\w+", re.IGNORECASE)
"""What follows the key of a picture that stands beside an image: .seg.png."""


def open_tar(file: Path) -> Packed:
    """All images of a shard, in the order of its members."""
    packed = Packed(file, Table(cached(f"tar{READS}", file, lambda place: _index_tar(file, place))))
    if not len(packed):
        raise WrongRequest(f"{file} holds no images: tar shards need members such as KEY.jpg and KEY.cls")
    return packed


def _index_tar(file: Path, place: Path) -> list[Path]:
    try:
        members = _members(file)
    except WrongRequest:
        raise
    except (tarfile.TarError, ValueError, OverflowError, OSError) as error:
        raise WrongRequest(
            f"{file} is no readable tar shard ({error}): it must be uncompressed, with images such as KEY.jpg"
        ) from error
    writer = TableWriter(place, "offset", "size", "label")
    labels, folders = Labels(), FirstLevel()
    kept, dotted = members.kept()
    for offset, size, name in kept:
        label = labels.add(members.label(name)) if members.labelled else folders.label(name)
        writer.add(name, offset=offset, size=size, label=label)
    writer.leave_out(members.others)
    if dotted:
        writer.note(f"{file.name}: dots belong to the names of {dotted:,} images")
    if members.labelled:
        labels.finish(writer)
    else:
        folders.finish(writer)
    writer.close()
    return [file]


class _Members:
    """What a shard holds: images, arrays, labels by key, and what else there is."""

    def __init__(self) -> None:
        self.images: list[tuple[int, int, str]] = []
        """Offset, size and name."""
        self.arrays: list[tuple[int, int, str]] = []
        self.classes: dict[str, object] = {}
        self.objects: dict[str, object] = {}
        """Labels from KEY.json."""
        self.others = Counter[str]()

    def kept(self) -> tuple[list[tuple[int, int, str]], int]:
        """The images (arrays only where there are none) without the pictures beside others, and how many have dotted names."""
        found = self.images or self.arrays
        plain = {key for _, _, name in found if _first_dot(name) == (key := _last_dot(name))}
        twice = self._always_twice(found)
        kept = []
        for member in found:
            name = member[2]
            rest = name[len(_first_dot(name)) :]
            if (_first_dot(name) in plain and BESIDE.fullmatch(rest)) or ending_of(name) in twice:
                self.others[rest.lower()] += 1
            else:
                kept.append(member)
        return kept, sum(_first_dot(name) != _last_dot(name) for _, _, name in kept)

    @property
    def labelled(self) -> bool:
        return bool(self.classes or self.objects)

    @staticmethod
    def _always_twice(found: list[tuple[int, int, str]]) -> set[str]:
        """The second ending of a shard in which every key has two pictures, an image and what belongs to it."""
        endings: dict[str, list[str]] = {}
        for _, _, name in found:
            endings.setdefault(_last_dot(name), []).append(ending_of(name))
        pairs = {tuple(some) for some in endings.values()}
        return {next(iter(pairs))[1]} if len(pairs) == 1 and len(endings) > 1 and len(next(iter(pairs))) == 2 else set()

    def label(self, name: str) -> object:
        """That of an image: the nearest in name, a .cls before a .json."""
        keys = _last_dot(name), _first_dot(name)
        return next((known[key] for known in (self.classes, self.objects) for key in keys if key in known), None)

    def take(self, name: str, offset: int, size: int, content: Callable[[], bytes]) -> None:
        """Sort a member in; `content` reads its beginning."""
        ending = ending_of(name)
        if ending in ENDINGS or ending in ARRAYS:
            (self.images if ending in ENDINGS else self.arrays).append((offset, size, name))
        elif ending == ".cls":
            self.classes[_last_dot(name)] = content()
        elif ending == ".json" and (label := _label_in(content())) is not None:
            self.objects[_last_dot(name)] = label
        else:
            self.others[ending] += 1


OBJECT_LABELS = ("label", "cls", "class", "class_id", "class_name", "category", "target")


def _label_in(content: bytes) -> object:
    """What an object says of the class, if it does."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return next((found[name] for name in OBJECT_LABELS if isinstance(found.get(name), int | float | str)), None)


def _first_dot(name: str) -> str:
    """A member's key as WebDataset has it: up to the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _last_dot(name: str) -> str:
    return name.removesuffix(PurePosixPath(name).suffix)


def _members(file: Path) -> _Members:
    found = _Members()
    with tarfile.open(file, "r:") as archive:
        reached = -1
        while (member := archive.next()) is not None:
            archive.members = []  # pyright: ignore[reportAttributeAccessIssue]  # a million members stay no objects
            if member.size < 0 or archive.offset <= reached or member.issparse():
                raise tarfile.ReadError(f"a damaged or sparse member at byte {member.offset:,}")
            reached = archive.offset
            check_name(file, member.name)
            if member.isfile() and not has_litter(member.name):
                found.take(member.name, member.offset_data, member.size, partial(_beginning, archive, member))
        _check_end(file, archive.offset)
    return found


def _beginning(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    opened = archive.extractfile(member)
    return opened.read(LONGEST_LABEL) if opened else b""


def _check_end(file: Path, offset: int) -> None:
    """tarfile takes a damaged header for the end; behind the true end there are zeros or nothing."""
    with file.open("rb") as raw:
        raw.seek(offset)
        if raw.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"a damaged header at byte {offset:,}")
