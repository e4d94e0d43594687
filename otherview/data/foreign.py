"""Which files are images, and what lies beside them: litter that systems leave, files of other kinds, masks, all counted.

is_litter("._photo.jpg")                    # True: skipped without a word
said_of(left_out(source))                   # ["left out, since they are no images that are read: 3 *.dcm (DICOM), 2 *.txt"]
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath

from otherview.data import dicom, nifti, tiff
from otherview.data.decode import HEIF
from otherview.data.index import Indexed, Parts
from otherview.data.source import Joined, Selected, Source, printable

PHONES = ".heic", ".heif", ".hif"
ENDINGS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".avif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".pnm", ".tga", ".jp2",
    *((".dcm", ".dicom", ".ima") if dicom.INSTALLED else ()),
    *((".nii", ".nii.gz") if nifti.INSTALLED else ()),
    *((".svs", ".ndpi", ".scn", ".btf") if tiff.INSTALLED else ()),
    *(PHONES if HEIF else ()),
))  # fmt: skip
ARRAYS = frozenset((".npy",))
"""Arrays count only in a folder that holds no images, where they are not somebody's side files."""
READS = f"{dicom.INSTALLED}{nifti.INSTALLED}{tiff.INSTALLED}{HEIF}"
"""Stands in the names of indexes, which are made again once an extra is there."""
LITTER = frozenset((
    "thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found",
))  # fmt: skip
KNOWN = {
    **dict.fromkeys((".dcm", ".dicom", ".ima"), f"DICOM: {dicom.NEEDED}"),
    **dict.fromkeys((".nii", ".nii.gz"), f"NIfTI: {nifti.NEEDED}"),
    **dict.fromkeys((".svs", ".ndpi", ".scn", ".btf"), f"whole slide: {tiff.NEEDED}"),
    **dict.fromkeys(PHONES, "HEIC: pip install 'otherview[heic]'"),
    ".jxl": "JPEG XL", ".czi": "Zeiss", ".nd2": "Nikon", ".cr2": "raw", ".nef": "raw",
    ".arw": "raw", ".dng": "raw", ".mp4": "video", ".mov": "video", ".avi": "video", ".psd": "Photoshop", ".svg": "drawing",
    ".pdf": "document",
}  # fmt: skip
"""Files with pictures in them that are not read, by what a person calls them."""
MASKS = "masks"
"""Stands in a count for images that look like the masks of others; they are among the images."""
MASK_NAME = re.compile(r"(.+)[_-](?:masks?|seg(?:mentation)?|labels?|labelids|gt|annotations?)", re.IGNORECASE)
SHOWN = 8


def ending_of(name: str) -> str:
    """The ending of a file's name in small letters, with its dot; both of a packed volume."""
    path = PurePosixPath(name)
    if path.suffix.lower() == ".gz":
        return "".join(path.suffixes[-2:]).lower()
    return path.suffix.lower()


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name was left by a system or a program: hidden, thumbnails, macOS's companions."""
    return name.startswith(".") or name.lower() in LITTER


def has_litter(path: str) -> bool:
    """Whether a part of a path inside an archive is litter."""
    return any(is_litter(part) for part in PurePosixPath(path).parts)


def count_masks(stems: set[str]) -> int:
    """How many of a folder's images are named as the mask of another one of them: a.png and a_mask.png."""
    named = (MASK_NAME.fullmatch(stem) for stem in stems)
    return sum(match is not None and match[1] in stems for match in named)


def left_out(source: Source) -> Counter[str]:
    """By ending, what is no image beside the images of a source; under MASKS, images that look like masks."""
    match source:
        case Joined():
            return sum((left_out(part) for part in source.parts), Counter[str]())
        case Selected():
            return left_out(source.source)
        case Parts():
            return left_out(source.base)
        case Indexed():
            return Counter(source.table.left_out)
    return Counter()


def told_of(source: Source) -> list[str]:
    """What a person should know of how a source's images were found and what was left out, a line each."""
    return [*said_of(left_out(source)), *dict.fromkeys(_notes(source))]


def _notes(source: Source) -> list[str]:
    match source:
        case Joined():
            return [note for part in source.parts for note in _notes(part)]
        case Selected():
            return _notes(source.source)
        case Parts():
            return [*_notes(source.base), *source.notes]
        case Indexed():
            return source.notes
    return []


def said_of(counts: Mapping[str, int]) -> list[str]:
    """Lines for a person; none where there is nothing to say."""
    others = Counter({ending: count for ending, count in counts.items() if ending != MASKS and count})
    words = [_said(ending, count) for ending, count in others.most_common(SHOWN)]
    words += [f"{len(others) - SHOWN} other kinds"] if len(others) > SHOWN else []
    lines = [f"left out, since they are no images that are read: {', '.join(words)}"] if words else []
    if counts.get(MASKS):
        lines.append(
            f"{counts[MASKS]:,} images look like masks of others (a.png, a_mask.png) and count as images: move them away, or "
            "give a list of the right ones"
        )
    return lines


def _said(ending: str, count: int) -> str:
    name = "without an ending" if not ending else f"*{printable(ending)}" if ending[0] == "." else printable(ending)
    return f"{count:,} {name}" + (f" ({KNOWN[ending]})" if ending in KNOWN else "")
