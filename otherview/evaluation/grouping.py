"""Images that belong together, a patient's or a slide's, and splits that keep them on one side.

groups = groups_of(source, "list.csv", by="patient")
test = held_out(labels, groups, share=0.2, seed=0)          # bool [N]: True where an image is judged
check_apart(train_groups, test_groups)                      # raises WrongRequest where a group is on both sides
"""

import csv
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from otherview.data.index import Parts
from otherview.data.source import Joined, Source, behind, path_of
from otherview.data.spec import words_of
from otherview.errors import WrongRequest

SHOWN = 3
"""Groups that a message names."""


def groups_of(source: Source, spec: str, *, by: str) -> list[str]:
    """The group of every image: the folder that it lies in, the file that it is a part of, or what a csv says in a column.

    Raises WrongRequest where there are no such groups.
    """
    if by == "file":
        return [_file_of(source, index) for index in range(len(source))]
    if by != "folder":
        return _column(source, spec, by)
    names = [_name_of(source, index) for index in range(len(source))]
    folders = [PurePosixPath(name).parent for name in names]
    least = 2 if source.classes is not None else 1  # the first level names the class
    if shallow := next((name for name, folder in zip(names, folders, strict=True) if len(folder.parts) < least), None):
        where = "CLASS/GROUP/" if least == 2 else "GROUP/"
        raise WrongRequest(f"--group-by folder: {shallow} lies in no folder of a group: images must lie in {where}")
    return [folder.name for folder in folders]


def _whole_of(source: Source, index: int) -> tuple[Source, int]:
    """The source of the file that holds an image, and the file's index there."""
    there, inner = behind(source, index)
    while isinstance(there, Parts):
        there, inner = behind(there.base, there.whole(inner))
    return there, inner


def _name_of(source: Source, index: int) -> str:
    there, inner = _whole_of(source, index)
    return there.name(inner)


def _file_of(source: Source, index: int) -> str:
    """What tells the file from all others."""
    there, inner = _whole_of(source, index)
    path = path_of(there, inner)
    return there.name(inner) if path is None else str(path.absolute())


def _column(source: Source, spec: str, column: str) -> list[str]:
    """A column of the csv files that a SPEC names, row by row, as data/folder.py reads them."""
    words = words_of(spec)
    parts = source.parts if isinstance(source, Joined) and len(source.parts) == len(words) else [source]
    if len(parts) != len(words):
        raise WrongRequest(f"--group-by {column}: give the *.csv files of {spec} one by one, joined by commas")
    found = [value for part, word in zip(parts, words, strict=True) for value in _values(part, word, column)]
    if len(found) != len(source) or not all(found):
        raise WrongRequest(f"--group-by {column}: not every image of {spec} has a value there")
    return found


def _values(part: Source, word: str, column: str) -> list[str]:
    if isinstance(part, Parts):
        inner = word.partition(":")[2]
        stem, at, _ = inner.rpartition("@")
        values = _values(part.base, stem if at else inner, column)
        return [values[part.whole(index)] for index in range(len(part))]
    path = Path(word).expanduser()
    if path.suffix.lower() != ".csv" or not path.is_file():
        raise WrongRequest(f"--group-by {column}: give folder, file, or a column of a *.csv; {word} is none")
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file)
        header = [name.strip() for name in next(rows, [])]
        if column not in header:
            raise WrongRequest(f"--group-by {column}: {path} has the columns {', '.join(header)}")
        place = header.index(column)
        return [row[place].strip() if place < len(row) else "" for row in rows if row]


def check_apart(train: Collection[str], test: Collection[str], *, by: str) -> None:
    """Raise WrongRequest where a group is on both sides."""
    if shared := sorted(set(train) & set(test)):
        more = f" and {len(shared) - SHOWN} more" if len(shared) > SHOWN else ""
        raise WrongRequest(
            f"--train and --test share {len(shared)} groups by {by} ({', '.join(shared[:SHOWN])}{more}), which would inflate the "
            "score: leave --test out, and a part of --train is held out by group"
        )


def held_out(
    labels: np.ndarray, groups: Sequence[str] | None, *, share: float, seed: int, names: Sequence[str] | None = None
) -> np.ndarray:
    """Which images are judged: of every class about this share of its groups, one at least and never all; bool [N].

    Without groups every image is one. A group counts for the class that most of its images have. `names` are the classes'.
    Raises WrongRequest for a class that cannot be on both sides.
    """
    if not 0 < share < 1:
        raise WrongRequest(f"--test-share {share:g} must be above 0 and below 1")
    of, classes = (np.arange(len(labels)), labels) if groups is None else _by_majority(labels, groups)
    chosen, rng = np.zeros(len(classes), bool), np.random.default_rng(seed)
    for kind in np.unique(classes):
        members = np.flatnonzero(classes == kind)
        count = min(len(members) - 1, max(1, round(share * len(members))))
        chosen[rng.permutation(members)[:count]] = True
    judged = chosen[of]
    for kind in np.unique(labels).tolist():
        sides = judged[labels == kind]
        if sides.all() or not sides.any():
            raise WrongRequest(
                f"class {names[kind] if names else kind} has too few {'images' if groups is None else 'groups'} to be both "
                "learned and judged: give --test, or more of them"
            )
    return judged


def _by_majority(labels: np.ndarray, groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The number of every image's group, and the class that most images of each group have."""
    _, of = np.unique(np.asarray(groups), return_inverse=True)
    pairs, counts = np.unique(np.stack([of, labels]), axis=1, return_counts=True)
    order = np.lexsort((-counts, pairs[0]))  # a group's most frequent class first
    firsts = np.unique(pairs[0][order], return_index=True)[1]
    return of, pairs[1][order][firsts]


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
        first, *inner = PurePosixPath(_name_of(source, index)).parent.parts or ("",)
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
