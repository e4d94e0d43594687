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
from otherview.data.label_maps import VOC, label_maps
from otherview.data.objects import IGNORED
from otherview.data.source import Selected, Source, printable, spread
from otherview.errors import BrokenImage, WrongRequest

LOOKED_AT = 32
"""Pictures that decide what levels and colours mean."""
BLURRED, NOTABLE = 0.1, 0.01
"""Shares of the pixels: between black and white at blurred edges, at most; that count nowhere, to be said."""
MOST_MISSING = 0.1
"""Share of the images that may lack a picture and are left out."""
PREFERRED = ("labeltrainids", "labelids", "mask", "masks", "label", "labels", "seg", "segmentation", "gt")
"""Endings of names, where several pictures belong to every image: the first that is there is taken."""


class Meaning(NamedTuple):
    """What the values of label pictures stand for."""

    kind: str
    """levels, mask, edges (a mask whose levels were blurred) or colours"""
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
        """The class of every pixel: whole numbers [H, W]."""
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
            "needs a picture of the same name, or one whose name differs from every image's in the same way"
        )
    if lost:
        notes.append(
            f"left out: {len(names) - len(kept):,} of {len(names):,} images without labels, {printable(lost)} for one"
        )
    meaning = meaning_of([second / pairs[names[index]] for index in kept], (second, second.parent, first.parent))
    notes += [f"pixels: {meaning.said}"] if meaning.said else []
    source = LabelledPixels(images, second, pairs, meaning, notes)
    return source if len(kept) == len(names) else Selected(source, kept)


class Way(NamedTuple):
    """From an image's name to that of its picture: what to cut off at the end, or in front, and what to put there."""

    cut: str = ""
    put: str = ""
    front: bool = False

    def of(self, stem: str) -> str:
        """The picture's name; empty where nothing can be cut off."""
        folder, slash, name = stem.rpartition("/")
        if self.front:
            return folder + slash + self.put + name[len(self.cut) :] if name.startswith(self.cut) else ""
        return folder + slash + name[: len(name) - len(self.cut)] + self.put if name.endswith(self.cut) else ""

    @property
    def rank(self) -> int:
        """The same name first, then what names the picture that is meant."""
        words = re.split(r"[_\-. ]+", self.put.lower())
        known = next((place for place, word in enumerate(PREFERRED, start=1) if word in words), len(PREFERRED) + 1)
        return 0 if self == SAME else known


SAME = Way()


def paired(images: Sequence[str], labels: Sequence[str], folder: Path) -> tuple[dict[str, str], str]:
    """The picture of every image that has one; raises WrongRequest where several would do."""
    by_stem = {_key(name): name for name in labels}
    stems = {name: _key(name) for name in images}
    same = {name: by_stem[stem] for name, stem in stems.items() if stem in by_stem}
    if len(same) == len(images):
        return same, ""
    found = {SAME: same}
    for way in _ways(stems[images[0]], by_stem) | _ways(stems[images[-1]], by_stem):
        some = {name: by_stem[other] for name, stem in stems.items() if (other := way.of(stem)) in by_stem}
        found[way] = some if len(set(some.values())) == len(some) else {}
    most = max(len(some) for some in found.values())
    best = sorted(
        (way for way, some in found.items() if len(some) == most), key=lambda way: (way.rank, len(way.put), way)
    )
    if not most:
        return {}, ""
    if len(best) > 1 and best[0].rank == best[1].rank > 0 and found[best[0]] != found[best[1]]:
        others = ", ".join(printable(next(iter(found[way].values()))) for way in best[:3])
        raise WrongRequest(
            f"{folder} has several pictures for every image ({others}): move those away that are not meant"
        )
    name, picture = next(iter(found[best[0]].items()))
    said = f"pictures have other names than images: {printable(picture)} belongs to {printable(name)}"
    return found[best[0]], said if best[0] != SAME else ""


def _key(name: str) -> str:
    return os.path.splitext(name)[0].replace(os.sep, "/")  # noqa: PTH122


def _ways(stem: str, labels: Iterable[str]) -> set[Way]:
    """How an image's name becomes those of pictures in the same folder; numbers may be added, not changed."""
    folder, _, name = stem.rpartition("/")
    ways = set()
    for label in labels:
        where, _, other = label.rpartition("/")
        if where != folder:
            continue
        if same := _alike(name, other):
            for split in {same, name.rfind("_", 0, same + 1), name.rfind("-", 0, same + 1)} - {-1, 0}:
                ways.add(Way(name[split:], other[split:]))
        if same := _alike(name[::-1], other[::-1]):
            ways.add(Way(name[: len(name) - same], other[: len(other) - same], front=True))
    return {way for way in ways if way != SAME and _keeps_numbers(way)}


def _keeps_numbers(way: Way) -> bool:
    cut, put = (re.findall(r"\d+", part) for part in (way.cut, way.put))
    return not cut or not put or cut == put


def _alike(one: str, other: str) -> int:
    """How many letters two names have in common at their beginning."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


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
        levels, counts = np.unique(_packed(pixels) if pixels.ndim == 3 else pixels, return_counts=True)
        seen.update(dict(zip(levels.tolist(), counts.tolist(), strict=True)))
    if not colourful:
        return _of_levels(
            seen, {_palette(pictures[place]) for place in spread(len(pictures), LOOKED_AT).tolist()}, pictures[0]
        )
    if colourful < looked:
        raise WrongRequest(f"some label pictures are gray, some in colours ({pictures[0].parent}): convert them alike")
    return _of_colours(set(seen), label_maps(beside), example=pictures[0].name)


def _of_levels(seen: Counter[int], palettes: set[bytes], example: Path) -> Meaning:
    """Masks of black and white, also where resizing or JPEG has blurred their edges; else classes."""
    if len(palettes) > 1:
        raise WrongRequest(f"label pictures such as {example} have different palettes: give them one, or gray levels")
    whole, others = sum(seen.values()), [level for level in seen if level not in (0, IGNORED)]
    if {0, IGNORED} == set(seen):
        return Meaning("mask", {}, "levels 0 and 255 are the classes 0 and 1")
    blurred = (
        len(others) > 3
        and max(others) in range(128, IGNORED)
        and sum(seen[level] for level in others) < whole * BLURRED
    )
    if blurred and seen[0] and seen[IGNORED] and not palettes - {b""}:
        return Meaning("edges", {}, "nearly all levels are 0 and 255: from 128 on they are class 1, below class 0")
    share = seen[IGNORED] / max(1, whole)
    return Meaning("levels", {}, f"{share:.0%} of the pixels are 255, which counts nowhere" if share > NOTABLE else "")


def _palette(path: Path) -> bytes:
    """Of a picture with one; empty for others."""
    try:
        with Image.open(path, formats=FORMATS) as opened:
            return bytes(opened.getpalette() or ()) if opened.mode == "P" else b""
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return b""


def _of_colours(seen: set[int], maps: list[tuple[dict[int, int], str]], *, example: str) -> Meaning:
    """By the first label map that has all of them, as gray, by Pascal VOC's palette."""
    for known, source in maps:
        if seen <= set(known):
            return Meaning("colours", known, f"colours are classes by {source}")
    if all(level % 0x010101 == 0 for level in seen):
        classes = {level * 0x010101: level for level in range(256)}
        mask = seen == {0, 0xFFFFFF}
        return Meaning("colours", {**classes, 0xFFFFFF: 1} if mask else classes)
    if seen <= set(VOC):
        return Meaning("colours", VOC, "colours are classes by Pascal VOC's palette")
    known, source = maps[0] if maps else ({}, "")
    shown = ", ".join(_said(level) for level in sorted(seen - set(known))[:5])
    if source:
        raise WrongRequest(
            f"label pictures such as {example} have colours that {source} does not have ({shown}): add them"
        )
    raise WrongRequest(
        f"label pictures such as {example} have colours that nothing explains ({shown}): put a labelmap.txt beside them, a line "
        "per class as `name:r,g,b`, or give pictures whose levels are classes"
    )


def _said(colour: int) -> str:
    return f"{colour >> 16} {colour >> 8 & 255} {colour & 255}"


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
        if not np.isin(pixels, (0, IGNORED)).all():
            raise BrokenImage(f"{path}: it has other levels than 0 and 255, unlike the other label pictures")
        return (pixels > 0).astype(np.uint8)
    if meaning.kind == "edges":
        return (pixels > IGNORED // 2).astype(np.uint8)
    if meaning.kind == "levels":
        if pixels.dtype == bool:
            return pixels.astype(np.uint8)
        found = np.where(pixels == 2**16 - 1, IGNORED, pixels)
        if found.min(initial=0) < 0 or found.max(initial=0) > IGNORED:
            raise BrokenImage(
                f"{path}: its labels go from {found.min()} to {found.max()}: classes are 0 … {IGNORED - 1}, and {IGNORED} counts "
                "nowhere"
            )
        return found.astype(np.uint8)
    values, places = np.unique(_packed(pixels), return_inverse=True)
    unknown = [value for value in values.tolist() if value not in meaning.colours]
    if unknown:
        raise BrokenImage(f"{path}: its colour {_said(unknown[0])} is no class")
    return np.array([meaning.colours[value] for value in values.tolist()], np.uint8)[places].reshape(pixels.shape[:2])
