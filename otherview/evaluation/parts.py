"""A long computation over images, part by part: what is there already belongs to the same request, and is not made again.

    parts = Parts(out, about, images=len(source), size=1000)
    parts.open()
    for start, indices, there in parts.all(): …unless it is there, write parts.place(start)…

The parts lie in OUT.parts/ until `close`.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from otherview.data.source import Source
from otherview.distributed import from_first
from otherview.files import write_atomically
from otherview.launch import launched_rank


class NewImages(NamedTuple):
    """Images that something fitted is applied to, and where the result goes."""

    source: Source
    out: Path
    about: Mapping[str, Any]
    """What names the images."""
    device: torch.device
    workers: int = 1
    pictures: int = 0
    """How many are drawn with what was found."""


def identity_of(about: Mapping[str, Any]) -> str:
    """What stands in an about.json: equal for equal requests."""
    return json.dumps(dict(about), sort_keys=True)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """`about` decides whether parts that are there already belong to this request; rank 0 writes."""

    path: Path
    about: Mapping[str, Any]
    images: int
    size: int
    """Images a part."""
    ending: str = ".npz"

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.path.with_name(self.path.name + ".parts")

    def open(self) -> None:
        """Keep the parts of this very request, drop those of another."""
        if launched_rank() > 0:
            return
        identity, said = self.folder / "about.json", identity_of(self.about)
        if self.folder.exists() and (not identity.exists() or identity.read_text(encoding="utf-8") != said):
            shutil.rmtree(self.folder)
        self.folder.mkdir(exist_ok=True, parents=True)
        write_atomically(identity, said.encode())

    def place(self, start: int) -> Path:
        """The file of the part that begins at an image."""
        return self.folder / f"{start:012d}{self.ending}"

    def all(self) -> Iterator[tuple[int, np.ndarray, bool]]:
        """Where every part begins, its images, and whether it is there already: the same on every rank."""
        starts = range(0, self.images, self.size)
        there = from_first([self.place(start).exists() for start in starts] if launched_rank() == 0 else [])
        for start, known in zip(starts, there, strict=True):
            yield start, np.arange(start, min(start + self.size, self.images)), known

    def close(self) -> None:
        """Remove them."""
        if launched_rank() == 0:
            shutil.rmtree(self.folder)
