"""Images that belong together, a patient's or a slide's, and splits that keep them on one side.

groups = groups_of(source, "list.csv", by="patient")
test = held_out(labels, groups, share=0.2, seed=0)          # bool [N]: True where an image is judged
check_apart(train_groups, test_groups)                      # raises WrongRequest where a group is on both sides
"""

import csv
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from otherview.data.slices import Slices
from otherview.data.source import Source, behind
from otherview.data.spec import words_of
from otherview.data.tiles import Tiles
from otherview.errors import WrongRequest

SHOWN = 3
"""Groups that a message names."""


def groups_of(source: Source, spec: str, *, by: str) -> list[str]:
    """The group of every image: the folder that it lies in, the file that it is a part of, or what a csv says in a column.

    Raises WrongRequest where there are no such groups.
    """
    if by not in ("folder", "file"):
        return _column(spec, by, images=len(source))
    names = [_file_of(source, index) for index in range(len(source))]
    if by == "file":
        return names
    folders = [PurePosixPath(name).parent for name in names]
    least = 2 if source.classes is not None else 1  # the first level names the class
    if shallow := next((name for name, folder in zip(names, folders, strict=True) if len(folder.parts) < least), None):
        where = "CLASS/GROUP/" if least == 2 else "GROUP/"
        raise WrongRequest(f"--group-by folder: {shallow} lies in no folder of a group: images must lie in {where}")
    return [folder.name for folder in folders]


def _file_of(source: Source, index: int) -> str:
    """The name of the file that holds an image."""
    there, inner = behind(source, index)
    if isinstance(there, Tiles | Slices):
        return _file_of(there.base, there.table.number("image", inner))
    return there.name(inner)


def _column(spec: str, column: str, *, images: int) -> list[str]:
    """A column of the csv files that a SPEC names, row by row, as data/folder.py reads them."""
    found: list[str] = []
    for word in words_of(spec):
        path = Path(word).expanduser()
        if path.suffix.lower() != ".csv" or not path.is_file():
            raise WrongRequest(f"--group-by {column}: give folder, file, or a column of a *.csv; {word} is none")
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.reader(file)
            header = [name.strip() for name in next(rows, [])]
            if column not in header:
                raise WrongRequest(f"--group-by {column}: {path} has the columns {', '.join(header)}")
            place = header.index(column)
            found += [row[place].strip() if place < len(row) else "" for row in rows if row]
    if len(found) != images or not all(found):
        raise WrongRequest(f"--group-by {column}: not every image of {spec} has a value there")
    return found


def check_apart(train: Collection[str], test: Collection[str], *, by: str) -> None:
    """Raise WrongRequest where a group is on both sides."""
    if shared := sorted(set(train) & set(test)):
        more = f" and {len(shared) - SHOWN} more" if len(shared) > SHOWN else ""
        raise WrongRequest(
            f"--train and --test share {len(shared)} groups by {by} ({', '.join(shared[:SHOWN])}{more}), which would inflate the "
            "score: leave --test out, and a part of --train is held out by group"
        )


def held_out(labels: np.ndarray, groups: Sequence[str], *, share: float, seed: int) -> np.ndarray:
    """Which images are judged: of every class about this share of its groups, one at least and never all; bool [N].

    A group counts for the class that most of its images have. Raises WrongRequest for a class that is a single group.
    """
    if not 0 < share < 1:
        raise WrongRequest(f"--test-share {share:g} must be above 0 and below 1")
    names, of = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.zeros((len(names), int(labels.max()) + 1), int)
    np.add.at(counts, (of, labels), 1)
    classes, rng = counts.argmax(axis=1), np.random.default_rng(seed)
    chosen = np.zeros(len(names), bool)
    for kind in np.unique(classes):
        members = np.flatnonzero(classes == kind)
        if len(members) < 2:
            raise WrongRequest(
                f"a class has only the group {names[members[0]]}: it cannot be both learned and judged; give --test"
            )
        count = min(len(members) - 1, max(1, round(share * len(members))))
        chosen[rng.permutation(members)[:count]] = True
    return chosen[of]


SIDES = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
GENERIC = frozenset(("images", "image", "imgs", "img", "left", "right"))


def folders_on_both_sides(source: Source) -> str:
    """A line where folders named train and test, or val, share the names of folders that may be patients; else nothing.

    Classes are shared, too: folders right below are only named where some of them are, and not all.
    """
    below: dict[str, set[str]] = {}
    deep = False
    for index in range(len(source)):
        first, *inner = PurePosixPath(_file_of(source, index)).parent.parts or ("",)
        if (side := SIDES.get(first.lower())) and inner and inner[-1].lower() not in GENERIC:
            below.setdefault(side, set()).add(inner[-1])
            deep = deep or len(inner) > 1
    for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
        names, others = below.get(one, set()), below.get(other, set())
        shared = sorted(names & others)
        if shared and (deep or names != others):
            return (
                f"{one} and {other} share {len(shared)} folder names ({', '.join(shared[:SHOWN])}, …): if these are patients or "
                "slides, scores are inflated; `evaluate --group-by folder` keeps a group on one side"
            )
    return ""
