"""slices:SPEC[@AXIS]: every slice of volumes, and every frame of files with several, as an image of its own.

    source = open_source("slices:scans/")        # axial slices of NIfTI volumes, frames of DICOM files, pages of TIFF
    source = open_source("slices:scans/@0")      # sagittal slices

Slices of one file have its label. Files with one image are one image. How many slices each file has is looked up once and
kept in the cache. AXIS is a patient axis: 0 from left to right, 1 from back to front, 2 from feet to head (the default).
"""

import io
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from otherview.data import dicom, nifti, tiff
from otherview.data.decode import faults_named
from otherview.data.index import NO_LABEL, Parts, Table, TableWriter
from otherview.data.index_cache import cached
from otherview.data.source import Source, names_fingerprint, paths_of
from otherview.data.values import Values, packed
from otherview.errors import BrokenImage, WrongRequest

HELD = 2
"""Files whose bytes a process keeps, since their slices are often read one after another."""


class Slices(Parts):
    """A row per slice: `image`, the file's index in the source behind, and `frame`; −1 for a file that is one image."""

    def __init__(self, base: Source, table: Table, axis: int) -> None:
        super().__init__(base, table)
        self.axis = axis
        self._held: OrderedDict[int, bytes] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_held": OrderedDict()}

    def name(self, index: int) -> str:
        """The file's name and the slice's number."""
        frame = self.table.number("frame", index)
        return self.base.name(self.whole(index)) + (f"#{frame}" if frame >= 0 else "")

    def read(self, index: int) -> bytes:
        image, frame = (self.table.number(column, index) for column in ("image", "frame"))
        try:
            with faults_named():
                data = self._bytes(image)
                return data if frame < 0 else packed(_slice(data, frame, self.axis))
        except BrokenImage as error:
            raise BrokenImage(f"{self.name(index)}: {error}") from error

    def _bytes(self, image: int) -> bytes:
        if image not in self._held:
            self._held[image] = _unpacked(self.base.read(image))
            if len(self._held) > HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(image)
        return self._held[image]


def _unpacked(data: bytes) -> bytes:
    return nifti.unpacked(data) if nifti.is_nifti(data) else data


def _slice(data: bytes, frame: int, axis: int) -> Values:
    if dicom.is_dicom(data):
        return dicom.read_dicom(data, frame)
    if nifti.is_nifti(data):
        return nifti.read_nifti(data, frame, axis=axis)
    return tiff.read_page(data, frame)


def _count(data: bytes, axis: int) -> int:
    """How many slices a file has; 0 where it is one image of a kind that has no slices."""
    if dicom.is_dicom(data):
        count = dicom.frames_of(data)
    elif nifti.is_nifti(data):
        return nifti.frames_of(data, axis)
    elif data.startswith(tiff.STARTS) and tiff.INSTALLED:
        count = tiff.pages_of(io.BytesIO(data))
    else:
        return 0
    return 0 if count == 1 else count


def open_slices(words: str, open_base: Callable[[str], Source], *, named: str) -> Slices:
    """The slices of a SPEC; `named` says where it lies from anywhere."""
    spec, at, axis = words.rpartition("@")
    if not at or not axis.isdigit():
        spec, axis = words, "2"
    if int(axis) not in nifti.AXES:
        raise WrongRequest(f"slices:{words} asks for axis {axis}: give 0, 1 or 2")
    base = open_base(spec)
    key = Path(f"{named} {names_fingerprint(base)}")
    table = Table(cached(f"slices {axis}", key, lambda place: _index(base, int(axis), place)))
    if not len(table):
        raise WrongRequest(f"{spec} holds no slices that can be read: `otherview doctor --data {spec}` says why")
    return Slices(base, table, int(axis))


def _index(base: Source, axis: int, place: Path) -> list[Path]:
    """A file that cannot be read has one row, so that it is named and counted as any broken image."""
    writer = TableWriter(place, "image", "frame", "label")
    for image in range(len(base)):
        try:
            count = _count(base.read(image), axis)
        except BrokenImage:
            count = 0
        for frame in range(count) if count else (-1,):
            writer.add("", image=image, frame=frame, label=NO_LABEL)
    writer.close()
    return paths_of(base)
