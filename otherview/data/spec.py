"""The words that name images, everywhere that images are asked for.

open_source("photos/")                          # images anywhere below a folder
open_source("train-*.tar,shapes:5000:val")      # several, one after another
open_source("train.parquet:img:coarse_label")   # columns of a table
open_source('"a, b/",c/')                       # a name with a comma in quotes
"""

import csv
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from otherview.data.folder import is_saved, open_file, open_folder
from otherview.data.foreign import ARRAYS, ENDINGS, ending_of, is_litter, told_of
from otherview.data.lists import labelled_by, open_list, rows_of
from otherview.data.source import Selected, Source, joined, name_once
from otherview.errors import WrongRequest
from otherview.launch import launched_rank

KINDS = (
    "a folder, *.txt, *.csv, *.jsonl, *.zip, *.tar, *.parquet, *.arrow, hf:, torchvision:, coco:, voc:, yolo:, "
    "pixels:, tiles:, slices: or shapes:N"
)
SHARDS = (".parquet", ".arrow", ".tar")
"""A folder that holds such files stands for them."""
WITH_COLUMNS = re.compile(r"(.+\.(?:csv|tsv|jsonl|parquet|arrow)):([^\\]*)", re.IGNORECASE)
"""FILE:COLUMN and FILE:IMAGES:LABELS."""
LONGEST = 300
"""Letters of a word that is shown."""
MOST_SHARDS = 1_000_000
RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
"""Of shards, as shells and WebDataset write it: train-{000..127}.tar."""


def open_source(spec: str) -> Source:
    """The source that a SPEC names; raises WrongRequest for what cannot be found or read."""
    words = words_of(spec)
    if not all(words):
        raise WrongRequest(f"an empty name in {spec!r}: give {KINDS}, joined by commas")
    return joined([_open_one(word) for word in words])


def open_aloud(spec: str) -> Source:
    """The source that a SPEC names; what was left out and how it was read is said on standard error, once a process."""
    source = open_source(spec)
    for line in told_of(source) if launched_rank() == 0 else ():
        name_once(line, spec)
    return source


def words_of(spec: str) -> list[str]:
    """The parts of a SPEC; what stands in double quotes is one part, and so is a file or folder whose name holds a comma."""
    if _exists(spec):
        return [spec]
    try:
        parts = [word.strip() for word in next(csv.reader([spec], skipinitialspace=True))]
    except (csv.Error, StopIteration):
        parts = [word.strip() for word in spec.split(",")]
    words: list[str] = []
    while parts:
        longest = next(
            (many for many in range(len(parts), 1, -1) if _exists(_columns_of(",".join(parts[:many]))[0])), 1
        )
        words.append(",".join(parts[:longest]))
        parts = parts[longest:]
    return words


def _exists(word: str) -> bool:
    """Whether there is such a file or folder; a word may be too long for a path."""
    return os.path.exists(os.path.expanduser(word))  # noqa: PTH110, PTH111


def absolute(spec: str) -> str:
    """The same images named from anywhere."""
    words = [_absolute(word) for word in words_of(spec)]
    return ",".join(f'"{word}"' if "," in word and len(words) > 1 else word for word in words)


def _absolute(word: str) -> str:
    kind, colon, rest = word.partition(":")
    if colon and kind in ("tiles", "slices"):
        inner, at, more = rest.rpartition("@")
        numbers = bool(at) and more.replace(":", "").isdigit()
        return f"{kind}:{_absolute(inner)}@{more}" if numbers else f"{kind}:{_absolute(rest)}"
    if colon and kind in ("coco", "voc", "yolo", "pixels"):
        first, at, second = rest.rpartition("@") if "@" in rest else (rest, "", "")
        if Path(first).suffix in (".yaml", ".yml"):  # a file and the name of a split
            return f"{kind}:{Path(first).expanduser().absolute()}{at}{second}"
        return f"{kind}:" + "@".join(str(Path(part).expanduser().absolute()) for part in (first, second))
    if colon and kind in ("shapes", "hf", "torchvision"):
        return word
    name, columns = _columns_of(word)
    return str(Path(name).expanduser().absolute()) + (f":{columns}" if columns else "")


def _columns_of(word: str) -> tuple[str, str]:
    """A word without the columns that it names, and those."""
    found = None if _exists(word) else WITH_COLUMNS.fullmatch(word)
    return (found[1], found[2]) if found else (word, "")


def _open_one(word: str) -> Source:
    kind, colon, rest = word.partition(":")
    if colon and (opened := _by_kind(kind, rest)) is not None:
        return opened
    name, columns = _columns_of(word)
    return joined([_opened(path, columns, word) for path in _files(name)])


def _opened(path: Path, columns: str, word: str) -> Source:
    if (opener := _opener(path, columns)) is None:
        packed = path.suffix.lower() in (".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
        remedy = "unpack it; a tar without compression and a zip are read as they are" if packed else f"give {KINDS}"
        raise WrongRequest(f"{word} is no kind of data that can be read: {remedy}")
    return opener(path)


def _by_kind(kind: str, rest: str) -> Source | None:
    """The source of a word such as shapes:100, or None for another word with a colon."""
    name, _, split = rest.partition(":")
    match kind:
        case "tiles":
            from otherview.data.tiles import open_tiles

            return open_tiles(rest, open_source, named=_absolute(f"tiles:{rest}"))
        case "slices":
            from otherview.data.slices import open_slices

            return open_slices(rest, open_source, named=_absolute(f"slices:{rest}"))
        case "shapes":
            from otherview.data.shapes import Shapes

            return Shapes.from_spec(f"shapes:{rest}")
        case "coco" | "voc" | "yolo":
            from otherview.data.coco import open_annotated

            return open_annotated(kind, rest)
        case "pixels":
            from otherview.data.pixels import open_pixels

            return open_pixels(rest)
        case "hf":
            from otherview.data.hub import open_hugging_face

            split, _, columns = split.partition(":")
            return open_hugging_face(name, split or "train", columns)
        case "torchvision":
            from otherview.data.hub import open_torchvision

            return open_torchvision(name, split or "train")
    return None


def _opener(path: Path, columns: str) -> Callable[[Path], Source] | None:
    """What opens a path, by its kind."""
    if path.is_dir():
        return _open_folder
    match path.suffix.lower():
        case ".parquet" | ".arrow":
            from otherview.data.parquet import open_rows

            return partial(open_rows, columns=columns)
        case ".tar":
            from otherview.data.shards import open_tar

            return open_tar
        case ".zip":
            from otherview.data.archives import open_zip

            return open_zip
        case ".txt":
            return _open_text
        case ".csv" | ".tsv" | ".jsonl":
            return partial(open_list, columns=columns)
    return open_file if ending_of(path.name) in ENDINGS | ARRAYS else None


def _open_folder(path: Path) -> Source:
    """A folder of images, of a saved dataset, or with a file beside the images that labels them."""
    if is_saved(path):
        from otherview.data.parquet import open_saved

        return open_saved(path)
    beside = labelled_by(path)
    return open_list(beside) if beside else open_folder(path)


def _open_text(path: Path) -> Source:
    if (selection := rows_of(path)) is None:
        return open_list(path)
    spec, rows = selection
    if any(word.lower().endswith(".txt") for word in words_of(spec)):
        raise WrongRequest(f"{path} names rows of another list ({spec}): let doctor write it again")
    source = open_source(spec)
    if not len(rows) or rows.min() < 0 or rows.max() >= len(source):
        raise WrongRequest(f"{path} names rows that {spec} does not have: let doctor write it again")
    return Selected(source, rows)


def _files(word: str) -> list[Path]:
    """The files a word stands for: itself, what a pattern matches, or the shards of a folder of shards."""
    path = Path(word).expanduser()
    if (numbers := RANGE.search(word)) is not None and not _exists(word):
        first, last, digits = int(numbers[1]), int(numbers[2]), len(numbers[1])
        if not 0 <= last - first < MOST_SHARDS:
            raise WrongRequest(f"{word} is a range of {last - first + 1:,} names: give 1 to {MOST_SHARDS:,}")
        names = [
            word[: numbers.start()] + f"{number:0{digits}}" + word[numbers.end() :] for number in range(first, last + 1)
        ]
        return [file for name in names for file in _files(name)]
    if any(sign in path.name for sign in "*?[") and not _exists(word):
        found = sorted(path.parent.glob(path.name)) if path.parent.is_dir() else []
        found = [file for file in found if not is_litter(file.name)]
        if not found:
            raise WrongRequest(f"no file matches {word}: check the pattern and the folder {path.parent}")
        return found
    if not _exists(word):
        raise WrongRequest(f"{word[:LONGEST]} does not exist: give {KINDS}")
    return _shards(path) if path.is_dir() and not is_saved(path) else [path]


def _shards(folder: Path) -> list[Path]:
    """The shards that a folder stands for, or the folder itself; raises WrongRequest where it might be either."""
    entries = sorted(entry for entry in folder.iterdir() if not is_litter(entry.name))
    for suffix in SHARDS:
        if shards := [path for path in entries if path.suffix.lower() == suffix]:
            if others := [path.name for path in entries if path.is_dir() or ending_of(path.name) in ENDINGS]:
                raise WrongRequest(
                    f"{folder} holds shards ({shards[0].name}) and images or folders ({others[0]}): say which you mean, for "
                    f"instance {folder}/*{suffix}"
                )
            return shards
    return [folder]
