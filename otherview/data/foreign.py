"""What lies beside the images: litter that systems leave, files of other kinds, masks; counted while an index is made.

is_litter("._photo.jpg")                    # True: skipped without a word
said_of(left_out(source))                   # ["left out, since they are no images that are read: 3 *.dcm (DICOM), 2 *.txt"]
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath

from otherview.data.index import Indexed
from otherview.data.source import Joined, Selected, Source, printable

LITTER = frozenset(("thumbs.db", "desktop.ini", "__macosx"))
KNOWN = {
    ".dcm": "DICOM", ".dicom": "DICOM", ".nii": "NIfTI", ".heic": "HEIC", ".heif": "HEIC", ".jxl": "JPEG XL",
    ".svs": "whole slide", ".ndpi": "whole slide", ".czi": "Zeiss", ".nd2": "Nikon", ".cr2": "raw", ".nef": "raw",
    ".arw": "raw", ".dng": "raw", ".mp4": "video", ".mov": "video", ".avi": "video", ".psd": "Photoshop", ".svg": "drawing",
    ".pdf": "document",
}  # fmt: skip
"""Files with pictures in them that are not read, by what a person calls them."""
MASKS = "masks"
"""Stands in a count for images that look like the masks of others; they are among the images."""
MASK_NAME = re.compile(r"(.+)[_-](?:masks?|seg(?:mentation)?|labels?|labelids|gt|annotations?)", re.IGNORECASE)
SHOWN = 8


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
        case Indexed():
            return Counter(source.table.left_out)
    return Counter()


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
    name = f"*{printable(ending)}" if ending else "without an ending"
    return f"{count:,} {name}" + (f" ({KNOWN[ending]})" if ending in KNOWN else "")
