"""Source: the one protocol behind every kind of data.

source = open_source("photos/")             # data/spec.py knows the words
source.read(0), source.label(0), source.name(0)
open_picture(source.read(0), source.name(0))      # data/picture.py
"""

from collections.abc import Sequence
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
        """What to call the image in a message."""
        ...


class Joined:
    """Several sources one after another."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def locate(self, index: int) -> tuple[Source, int]:
        """The part that holds an image, and the image's index there."""
        which = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[which], index - (int(self.ends[which - 1]) if which else 0)

    def read(self, index: int) -> bytes:
        part, inner = self.locate(index)
        return part.read(inner)

    def label(self, index: int) -> int | None:
        part, inner = self.locate(index)
        return part.label(inner)

    def name(self, index: int) -> str:
        part, inner = self.locate(index)
        return part.name(inner)


class Selected:
    """Some images of a source, in a given order."""

    def __init__(self, source: Source, indices: np.ndarray) -> None:
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> bytes:
        return self.source.read(int(self.indices[index]))

    def label(self, index: int) -> int | None:
        return self.source.label(int(self.indices[index]))

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))


def labels_of(source: Source, spec: str) -> np.ndarray:
    """All labels as int64; raises WrongRequest where the data has none."""
    labels = [source.label(index) for index in range(len(source))]
    if any(label is None for label in labels):
        raise WrongRequest(f"{spec} has no labels: this needs classes, for instance one folder per class")
    return np.asarray(labels, dtype=np.int64)
