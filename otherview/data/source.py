"""Source: the one protocol behind every kind of data, and the words that name it.

source = open_source("photos/")             # a folder, images anywhere below it
source = open_source("shapes:5000:train")     # drawn on the fly
image, label = source.image(0), source.label(0)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from otherview.errors import WrongRequest


@runtime_checkable
class Source(Protocol):
    """Images by index. `image` raises BrokenImage; `label` is None where the data has none."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image:
        """The image as a person would see it, RGB."""
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

    def _locate(self, index: int) -> tuple[Source, int]:
        which = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[which], index - (int(self.ends[which - 1]) if which else 0)

    def image(self, index: int) -> Image.Image:
        """The image as a person would see it."""
        part, inner = self._locate(index)
        return part.image(inner)

    def label(self, index: int) -> int | None:
        """The class, if any."""
        part, inner = self._locate(index)
        return part.label(inner)

    def name(self, index: int) -> str:
        """What to call the image."""
        part, inner = self._locate(index)
        return part.name(inner)


def labels_of(source: Source, spec: str) -> np.ndarray:
    """All labels as int64; raises WrongRequest where the data has none."""
    labels = [source.label(index) for index in range(len(source))]
    if any(label is None for label in labels):
        raise WrongRequest(f"{spec} has no labels: this needs classes, for instance one folder per class")
    return np.asarray(labels, dtype=np.int64)


def open_source(spec: str) -> Source:
    """The source that a SPEC names; raises WrongRequest for what cannot be found or read."""
    words = [word.strip() for word in spec.split(",")]
    if not all(words):
        raise WrongRequest(f"an empty name in {spec!r}: give a folder, *.parquet, *.tar or shapes:N, joined by commas")
    parts = [_open_one(word) for word in words]
    return parts[0] if len(parts) == 1 else Joined(parts)


def _open_one(word: str) -> Source:
    if word.startswith("shapes:"):
        from otherview.data.shapes import Shapes

        return Shapes.from_spec(word)
    files = _files(word)
    kinds = {path.suffix.lower() for path in files}
    if kinds == {".parquet"}:
        from otherview.data.parquet import open_parquet

        return open_parquet(files)
    if kinds == {".tar"}:
        from otherview.data.tar import open_tar

        return open_tar(files)
    if len(files) == 1 and files[0].is_dir():
        from otherview.data.folder import Folder

        return Folder(files[0])
    raise WrongRequest(
        f"{word} is no kind of data that can be read: give a folder of images, *.parquet, *.tar or shapes:N"
    )


def _files(word: str) -> list[Path]:
    """The files a word stands for: itself, what a pattern matches, or the shards of a folder of shards."""
    path = Path(word).expanduser()
    if any(sign in path.name for sign in "*?[") and not path.exists():
        found = sorted(path.parent.glob(path.name)) if path.parent.is_dir() else []
        if not found:
            raise WrongRequest(f"no file matches {word}: check the pattern and the folder {path.parent}")
        return found
    if not path.exists():
        raise WrongRequest(f"{word} does not exist: give a folder of images, *.parquet, *.tar or shapes:N")
    if path.is_dir():
        for suffix in (".parquet", ".tar"):
            if shards := sorted(path.glob(f"*{suffix}")):
                return shards
    return [path]
