"""Images with a picture of classes each: pixels:IMAGES/@LABELS/.

Pictures are told to belong together by their names, which may differ by what all of them have in common (`a.jpg` and
`a_mask.png`, `a_leftImg8bit.png` and `a_gtFine_labelIds.png`). Levels of gray and of palettes are classes. Colours are looked
up in a label map beside (CVAT's labelmap.txt, or name,r,g,b in a .csv), else in Pascal VOC's palette. Pictures that hold
0 and 255 alone are masks: 255 is class 1. Elsewhere 255 counts nowhere, and so does 65535.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from otherview.data.coco import two_paths
from otherview.data.decode import FORMATS
from otherview.data.folder import Files, open_folder
from otherview.data.objects import IGNORED
from otherview.data.source import Selected, Source, printable, spread
from otherview.errors import BrokenImage, WrongRequest

LOOKED_AT = 32
"""Pictures that decide what levels and colours mean."""
MOST_MISSING = 0.1
"""Share of the images that may lack a picture and are left out."""
PREFERRED = ("labeltrainids", "labelids", "mask", "masks", "label", "labels", "seg", "segmentation", "gt")
"""Endings of names, where several pictures belong to every image: the first that is there is taken."""


class Meaning(NamedTuple):
    """What the values of label pictures stand for."""

    kind: str
    """levels, mask or colours"""
    colours: dict[int, int]
    """Class by colour, as 65536 r + 256 g + b."""
    said: str = ""


class LabelledPixels(Files):
    """Images of a folder, each with a picture of classes."""

    def __init__(self, images: Files, labels: Path, pairs: dict[str, str], meaning: Meaning, notes: list[str]) -> None:
        super().__init__(images.root, images.table)
        self.labels, self.pairs, self.meaning, self._own = labels, pairs, meaning, notes

    @property
    def notes(self) -> list[str]:
        """What a person should know of how images and labels were found."""
        return [*self.table.notes, *self._own]

    def pixel_labels(self, index: int) -> np.ndarray:
        """The class of every pixel: uint8 or uint16 [H, W]."""
        path = self.labels / self.pairs[self.table.name(index)]
        return _classes(_read(path), self.meaning, path)


def open_pixels(words: str) -> Source:
    """IMAGES/@LABELS/."""
    first, second = two_paths("pixels", words, "IMAGES/@LABELS/")
    images, labels = open_folder(first), open_folder(second)
    names = [images.table.name(index) for index in range(len(images))]
    pairs, said = paired(names, [labels.table.name(index) for index in range(len(labels))], second)
    kept = np.array([index for index, name in enumerate(names) if name in pairs], np.int64)
    lost = next((name for name in names if name not in pairs), "")
    notes = [f"pixels: {said}"] if said else []
    if len(kept) < len(names) * (1 - MOST_MISSING):
        raise WrongRequest(
            f"{second} has no labels for {len(names) - len(kept):,} of {len(names):,} images, {printable(lost)} for one: it "
            "needs a picture of the same name, or one whose name differs in the same way from every image's"
        )
    if lost:
        notes.append(
            f"left out: {len(names) - len(kept):,} of {len(names):,} images without labels, {printable(lost)} for one"
        )
    meaning = meaning_of([second / pairs[names[index]] for index in kept], (second, second.parent, first.parent))
    notes += [f"pixels: {meaning.said}"] if meaning.said else []
    source = LabelledPixels(images, second, pairs, meaning, notes)
    return source if len(kept) == len(names) else Selected(source, kept)


def paired(images: Sequence[str], labels: Sequence[str], folder: Path) -> tuple[dict[str, str], str]:
    """The picture of every image that has one; raises WrongRequest where several would do."""
    by_stem = {_key(name): name for name in labels}
    stems = {name: _key(name) for name in images}
    ways = {("", "")} | _ways(stems[images[0]], by_stem) | _ways(stems[images[-1]], by_stem)
    found: dict[tuple[str, str], dict[str, str]] = {}
    for cut, put in ways:
        some = {name: by_stem[other] for name in images if (other := _renamed(stems[name], cut, put)) in by_stem}
        found[cut, put] = some if len(set(some.values())) == len(some) else {}
    most = max(len(some) for some in found.values())
    best = sorted((way for way, some in found.items() if len(some) == most), key=_rank)
    if most and len(best) > 1 and _rank(best[0])[0] == _rank(best[1])[0] == len(PREFERRED) + 1:
        others = ", ".join(printable(found[way][next(iter(found[way]))]) for way in best[:3])
        raise WrongRequest(
            f"{folder} has several pictures for every image ({others}): move those away that are not meant"
        )
    way = best[0]
    said = (
        f"{printable(next(iter(found[way])))} belongs to {printable(next(iter(found[way].values())))}"
        if any(way) and most
        else ""
    )
    return found[way], said and f"every image has a picture of another name: {said}"


def _key(name: str) -> str:
    return os.path.splitext(name)[0].replace(os.sep, "/")  # noqa: PTH122


def _ways(stem: str, labels: Iterable[str]) -> set[tuple[str, str]]:
    """What to cut off the end of an image's name and put there instead, to come to a label's name."""
    folder, _, name = stem.rpartition("/")
    ways = set()
    for label in labels:
        other = label.rpartition("/")[2]
        if label.rpartition("/")[0] == folder and (same := _alike(name, other)):
            for split in {same, name.rfind("_", 0, same + 1), name.rfind("-", 0, same + 1)} - {-1, 0}:
                cut, put = name[split:], other[split:]
                if not cut.isdigit() and not put.isdigit():
                    ways.add((cut, put))
    return ways


def _alike(one: str, other: str) -> int:
    """How many letters two names have in common at their beginning."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _renamed(stem: str, cut: str, put: str) -> str:
    return stem[: len(stem) - len(cut)] + put if stem.endswith(cut) else ""


def _rank(way: tuple[str, str]) -> tuple[int, int, tuple[str, str]]:
    """The same name first, then endings that name what is meant, then the shortest change."""
    words = re.split(r"[_\-. ]+", way[1].lower())
    known = next((place for place, word in enumerate(PREFERRED, start=1) if word in words), len(PREFERRED) + 1)
    return (0 if way == ("", "") else known), len(way[0]) + len(way[1]), way


def meaning_of(pictures: Sequence[Path], beside: Sequence[Path]) -> Meaning:
    """What values stand for, from some of the pictures; raises WrongRequest for colours that nothing explains."""
    seen: Counter[int] = Counter()
    colourful = 0
    looked = 0
    for place in spread(len(pictures), LOOKED_AT).tolist():
        try:
            pixels = _read(pictures[place])
        except BrokenImage:
            continue
        looked += 1
        colourful += pixels.ndim == 3
        seen.update(np.unique(_packed(pixels) if pixels.ndim == 3 else pixels).tolist())
    if not colourful:
        mask = set(seen) == {0, IGNORED}
        return Meaning("mask" if mask else "levels", {}, "levels 0 and 255 are the classes 0 and 1" if mask else "")
    if colourful < looked:
        raise WrongRequest(f"some label pictures are gray, some in colours ({pictures[0].parent}): convert them alike")
    known, source = _label_map(beside)
    if known and set(seen) <= set(known):
        return Meaning("colours", known, f"colours are classes by {source}")
    if not known and all(level % 0x010101 == 0 for level in seen):
        levels = {level // 0x010101 for level in seen}
        classes = {level * 0x010101: level for level in range(256)}
        return Meaning("colours", {**classes, 0xFFFFFF: 1} if levels == {0, IGNORED} else classes)
    if not known and set(seen) <= set(VOC):
        return Meaning("colours", VOC, "colours are classes by Pascal VOC's palette")
    strange = [level for level in seen if level not in known]
    shown = ", ".join(f"{level >> 16} {level >> 8 & 255} {level & 255}" for level in strange[:5])
    raise WrongRequest(
        f"label pictures such as {pictures[0].name} have colours that {source or 'no label map'} explains ({shown}): put a "
        "labelmap.txt beside them, a line per class as `name:r,g,b`, or give pictures whose levels are classes"
        if not source
        else f"label pictures such as {pictures[0].name} have colours that {source} does not have ({shown}): add them there"
    )


def _voc_palette() -> dict[int, int]:
    """Class by colour: bits of the class, spread over the three channels from the highest on; white borders count nowhere."""
    palette = {0xE0E0C0: IGNORED}
    for number in range(256):
        colour, rest = [0, 0, 0], number
        for shift in range(7, -1, -1):
            for channel in range(3):
                colour[channel] |= (rest >> channel & 1) << shift
            rest >>= 3
        palette[colour[0] << 16 | colour[1] << 8 | colour[2]] = number
    return palette


VOC = _voc_palette()
MAP_LINE = re.compile(r"\s*([^#:,;\t]+?)\s*[:,;\t]\s*(\d{1,3})\s*[,;\t ]\s*(\d{1,3})\s*[,;\t ]\s*(\d{1,3})\b.*")
IGNORED_NAMES = ("void", "ignore", "ignored", "unlabeled", "unlabelled")


def _label_map(folders: Sequence[Path]) -> tuple[dict[int, int], str]:
    """Class by colour from the first label map there is, background or the first line being 0, and the map's name."""
    for folder in folders:
        for path in (folder / "labelmap.txt", folder / "label_colors.txt", *sorted(folder.glob("*.csv"))):
            lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if path.is_file() else []
            found = [match for line in lines if (match := MAP_LINE.fullmatch(line))]
            if found:
                found.sort(key=lambda match: match[1].lower() != "background")
                numbers = iter(range(256))
                colours = {
                    int(match[2]) << 16 | int(match[3]) << 8 | int(match[4]): (
                        IGNORED if match[1].lower() in IGNORED_NAMES else next(numbers)
                    )
                    for match in found
                }
                return colours, str(path)
    return {}, ""


def _read(path: Path) -> np.ndarray:
    """Levels [H, W], or colours [H, W, 3 or 4]; raises BrokenImage."""
    try:
        with Image.open(path, formats=FORMATS) as opened:
            if opened.mode in ("LA", "La", "PA"):
                return np.asarray(opened)[..., 0]
            found = np.asarray(opened)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BrokenImage(f"{path}: {error}") from error
    if found.ndim not in (2, 3) or (found.ndim == 3 and found.shape[2] not in (3, 4)):
        raise BrokenImage(f"{path}: pixel labels are gray, palette or colour pictures, not {found.shape}")
    return found


def _packed(pixels: np.ndarray) -> np.ndarray:
    wide = pixels.astype(np.uint32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _classes(pixels: np.ndarray, meaning: Meaning, path: Path) -> np.ndarray:
    if (pixels.ndim == 3) != (meaning.kind == "colours"):
        raise BrokenImage(
            f"{path}: it is {'coloured' if pixels.ndim == 3 else 'gray'}, unlike the other label pictures"
        )
    if meaning.kind == "mask":
        return (pixels > 0).astype(np.uint8)
    if meaning.kind == "levels":
        if pixels.dtype == bool:
            return pixels.astype(np.uint8)
        if pixels.min(initial=0) < 0:
            raise BrokenImage(f"{path}: its labels reach down to {pixels.min()}")
        wide = pixels.astype(np.uint16) if pixels.max(initial=0) < 2**16 else pixels
        return np.where(wide == 2**16 - 1, IGNORED, wide) if wide.dtype == np.uint16 else wide
    values, places = np.unique(_packed(pixels), return_inverse=True)
    unknown = [value for value in values.tolist() if value not in meaning.colours]
    if unknown:
        level = unknown[0]
        raise BrokenImage(f"{path}: its colour {level >> 16} {level >> 8 & 255} {level & 255} is no class")
    return np.array([meaning.colours[value] for value in values.tolist()], np.uint8)[places].reshape(pixels.shape[:2])
