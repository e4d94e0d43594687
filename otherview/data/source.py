"""Source: the one protocol behind every kind of data.

source = open_source("photos/")             # data/spec.py knows the words
source.read(0), source.label(0), source.name(0)
open_picture(source.read(0), source.name(0))      # data/picture.py
"""

import sys
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from otherview.errors import WrongRequest


@runtime_checkable
class Source(Protocol):
    """Encoded images by index. `read` raises BrokenImage; `label` is None where the data has none."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """The image's bytes as a file holds them."""
        ...

    def label(self, index: int) -> int | None:
        """The class, counted from 0."""
        ...

    def name(self, index: int) -> str:
        """What to call the image in a message: one printable line."""
        ...

    @property
    def classes(self) -> Sequence[str] | None:
        """The names of the classes by number, where there are names."""
        ...


@runtime_checkable
class OnDisk(Protocol):
    """A source whose images are files."""

    def path(self, index: int) -> Path: ...


@runtime_checkable
class OfFiles(Protocol):
    """A source that is made of files."""

    def depends(self) -> list[Path]: ...


class Joined:
    """Several sources one after another; classes of one name are the same class. Beside names, a number is a name, too."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])
        named = [part.classes if part.classes is not None else _numbers_as_names(part) for part in parts]
        wanted = any(part.classes is not None for part in parts)
        self.classes = sorted({name for classes in named for name in classes}) if wanted else None
        number = {name: label for label, name in enumerate(self.classes or ())}
        self._labels = [[number[name] for name in classes] if wanted else None for classes in named]

    def __len__(self) -> int:
        return int(self.ends[-1])

    def locate(self, index: int) -> tuple[Source, int]:
        """The part that holds an image, and the image's index there."""
        which = self._which(index)
        return self.parts[which], index - (int(self.ends[which - 1]) if which else 0)

    def _which(self, index: int) -> int:
        return int(np.searchsorted(self.ends, index, side="right"))

    def read(self, index: int) -> bytes:
        part, inner = self.locate(index)
        return part.read(inner)

    def label(self, index: int) -> int | None:
        part, inner = self.locate(index)
        label, numbers = part.label(inner), self._labels[self._which(index)]
        return label if label is None or numbers is None else numbers[label]

    def name(self, index: int) -> str:
        part, inner = self.locate(index)
        return part.name(inner)


def _numbers_as_names(source: Source) -> list[str]:
    """Names of classes that have only numbers, to stand beside those that have names; none where there are no labels."""
    most = max((label for index in range(len(source)) if (label := source.label(index)) is not None), default=-1)
    return [str(number) for number in range(most + 1)]


class Selected:
    """Some images of a source, in a given order."""

    def __init__(self, source: Source, indices: np.ndarray) -> None:
        self.source, self.indices = source, indices
        self.classes: Sequence[str] | None = source.classes

    def locate(self, index: int) -> tuple[Source, int]:
        """The source behind, and the image's index there."""
        return self.source, int(self.indices[index])

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> bytes:
        return self.source.read(int(self.indices[index]))

    def label(self, index: int) -> int | None:
        return self.source.label(int(self.indices[index]))

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))


class Relabelled(Selected):
    """Some images of a source with classes of their own, one for each of the indices."""

    def __init__(self, source: Source, indices: np.ndarray, *, labels: np.ndarray, names: Sequence[str]) -> None:
        super().__init__(source, indices)
        self.labels, self.classes = labels, list(names)

    def label(self, index: int) -> int | None:
        return int(self.labels[index])


def behind(source: Source, index: int) -> tuple[Source, int]:
    """The source that an image comes from in the end, and its index there."""
    while isinstance(source, Joined | Selected):
        source, index = source.locate(index)
    return source, index


def path_of(source: Source, index: int) -> Path | None:
    """Where the file of an image lies; None for one that is no file of its own."""
    there, inner = behind(source, index)
    return there.path(inner) if isinstance(there, OnDisk) else None


def paths_of(source: Source) -> list[Path]:
    """The files that a source is made of, as far as there are any: what is known of their content depends on them."""
    if isinstance(source, Joined):
        return [path for part in source.parts for path in paths_of(part)]
    if isinstance(source, Selected):
        return paths_of(source.source)
    return source.depends() if isinstance(source, OfFiles) else []


def joined(parts: Sequence[Source]) -> Source:
    """One source of several."""
    return parts[0] if len(parts) == 1 else Joined(parts)


def unlabelled() -> int | None:
    """The class of an image that has none."""
    return None


def printable(name: str) -> str:
    """A file's name as one line that no terminal acts upon."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in name)


def labels_of(source: Source, spec: str) -> np.ndarray:
    """All labels as int64; raises WrongRequest where the data has none."""
    labels = [source.label(index) for index in range(len(source))]
    if without := labels.count(None):
        if without < len(labels):
            raise WrongRequest(
                f"{without:,} of {len(labels):,} images of {spec} have no label: leave them out, for instance in a list"
            )
        raise WrongRequest(f"{spec} has no labels: this needs classes, for instance one folder per class")
    return np.asarray(labels, dtype=np.int64)


def same_numbers(labels: np.ndarray, *, of: Sequence[str] | None, like: Sequence[str] | None) -> np.ndarray:
    """Labels of one source in the numbers of another, by the names of their classes where both have names.

    A number beside names is the name that it is, where names are numbers, and else the place of a name. Raises WrongRequest for
    a class that the other lacks.
    """
    if of == like or (of is not None and like is not None and list(of) == list(like)):
        return labels
    if like is None:
        assert of is not None
        numbers = [int(name) for name in of] if _are_numbers(of) else list(range(len(of)))
        return np.asarray(numbers, dtype=np.int64)[labels]
    number = {str(name): label for label, name in enumerate(like)}
    if of is None:
        most = int(labels.max(initial=-1))
        of = [str(label) for label in range(most + 1)] if _are_numbers(like) else list(like)
        if labels.max(initial=-1) >= len(of):
            raise WrongRequest(
                f"the test images have the class {labels.max()}, and the training images {len(like)} classes with names"
            )
    names = [str(of[label]) for label in labels.tolist()]
    if unknown := sorted(set(names) - set(number)):
        alike = {name.casefold() for name in number}.intersection(name.casefold() for name in unknown)
        hint = ": upper and lower case are different classes" if alike else ""
        raise WrongRequest(
            f"the test images have classes that the training images lack ({', '.join(unknown[:5])}){hint}"
        )
    return np.asarray([number[name] for name in names], dtype=np.int64)


def _are_numbers(names: Sequence[str]) -> bool:
    return all(name.isdecimal() and (name == "0" or name[0] != "0") for name in names)


def first_of(source: Source, count: int | None) -> np.ndarray:
    """Indices of `count` images spread evenly over the source; all of them by default."""
    return spread(len(source), count)


def spread(many: int, count: int | None) -> np.ndarray:
    """`count` numbers spread evenly over the first `many` from 0, the first and the last among them; all by default."""
    if count is None or count >= many:
        return np.arange(many)
    return np.linspace(0, many - 1, count).round().astype(np.int64)


_named: set[str] = set()


def name_once(fault: str, said: str = "broken image left out") -> None:
    """A broken image is named on standard error, but not at every look again."""
    if fault not in _named:
        _named.add(fault)
        print(f"{said}: {fault}", file=sys.stderr)


FINGERPRINTED = 1000
"""So many images' names, spread evenly, tell one source from another."""


def names_fingerprint(source: Source) -> str:
    """Sixteen hexadecimal digits of how many images a source has and what they are called."""
    names = [source.name(int(index)) for index in first_of(source, FINGERPRINTED)]
    return blake2b(f"{len(source)} {names}".encode(errors="surrogateescape"), digest_size=8).hexdigest()
