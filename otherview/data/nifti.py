"""NIfTI: one slice of a volume as an image, seen as a reader of scans sees it.

    values = read_nifti(data)                         # the middle slice along the third axis
    values = read_nifti(data, frame=30, axis=0)

Axes are patient axes (0 from left to right, 1 from back to front, 2 from feet to head), whatever the order in the file.
Values are scaled as the header says; black and white are its cal_min and cal_max where it has them.
Nothing else of the header is read.
"""

import gzip
import io
import logging
import zlib
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from otherview.data.values import Values
from otherview.errors import BrokenImage

INSTALLED = find_spec("nibabel") is not None
NEEDED = "pip install 'otherview[nifti]'"
GZIP = b"\x1f\x8b"
LARGEST = 2**32
"""Bytes of an unpacked volume; more is taken for a bomb."""
AXES = 0, 1, 2


def is_nifti(data: bytes) -> bool:
    """Whether a file begins as a NIfTI volume in one file, packed or not."""
    start = data[:352]
    if start.startswith(GZIP):
        try:
            start = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(data[: 2**16], 352)
        except zlib.error:
            return False
    return start[344:348] in (b"n+1\0", b"n+2\0") or start[4:8] in (b"n+1\0", b"n+2\0")


class _Axis(NamedTuple):
    """Where a patient axis lies in a file."""

    place: int
    turned: bool


def frames_of(data: bytes, axis: int) -> int:
    """How many slices a volume has along an axis, over all of its times; raises BrokenImage."""
    volume, axes = _opened(data)
    return volume.shape[axes[axis].place] * int(np.prod(volume.shape[3:]))


def read_nifti(data: bytes, frame: int | None = None, *, axis: int = 2) -> Values:
    """One slice [H, W], the middle one of the first volume by default; raises BrokenImage."""
    volume, axes = _opened(data)
    along, across = axes[axis], [axes[other] for other in range(3) if other != axis]
    count, times = volume.shape[along.place], int(np.prod(volume.shape[3:]))
    frame = int(count // 2 if frame is None else frame)
    if not 0 <= frame < count * times:
        raise BrokenImage(f"it has {count * times} slices along axis {axis}, and slice {frame} was asked for")
    place: list[Any] = [slice(None)] * 3
    place[along.place] = count - 1 - frame % count if along.turned else frame % count
    later = np.unravel_index(frame // count, volume.shape[3:]) if volume.shape[3:] else ()
    try:
        found = np.asanyarray(volume.dataobj[(*place, *map(int, later))])
    except Exception as error:
        raise BrokenImage(f"its values cannot be read ({type(error).__name__})") from None
    if across[0].place > across[1].place:
        found = found.T
    found = found[tuple(slice(None, None, -1 if one.turned else 1) for one in across)]
    if found.dtype.kind == "f":
        found = found.astype(np.float32)
    low, high = (float(volume.header[name]) for name in ("cal_min", "cal_max"))
    return Values(np.rot90(found), "NIfTI", (low, high) if low < high else None)


def _opened(data: bytes) -> tuple[Any, list[_Axis]]:
    """A volume whose values are not read yet, and where the patient axes lie in it."""
    if not INSTALLED:
        raise BrokenImage(f"NIfTI needs nibabel: {NEEDED}")
    import nibabel

    logging.getLogger("nibabel").setLevel(logging.CRITICAL)
    try:
        plain = unpacked(data)
        kind = nibabel.Nifti2Image if plain[4:8] == b"n+2\0" else nibabel.Nifti1Image
        volume: Any = kind.from_bytes(plain)
        lie = nibabel.io_orientation(volume.affine)
    except BrokenImage:
        raise
    except Exception as error:
        raise BrokenImage(f"no NIfTI volume that can be read ({type(error).__name__})") from None
    if volume.get_data_dtype().names:
        raise BrokenImage("its values are colours, where a volume of numbers is read")
    if len(volume.shape) < 3 or 0 in volume.shape:
        raise BrokenImage(f"its shape is {volume.shape}, where a volume has three axes or more")
    if not np.isfinite(lie).all():
        return volume, [_Axis(axis, turned=False) for axis in AXES]
    places = lie[:, 0].astype(int).tolist()
    return volume, [_Axis(places.index(axis), turned=bool(lie[places.index(axis), 1] < 0)) for axis in AXES]


def unpacked(data: bytes) -> bytes:
    """The volume's own bytes."""
    if not data.startswith(GZIP):
        return data
    with gzip.open(io.BytesIO(data)) as file:
        plain = file.read(LARGEST + 1)
    if len(plain) > LARGEST:
        raise BrokenImage(f"it unpacks to more than {LARGEST:,} bytes: it is taken for a bomb")
    return plain
