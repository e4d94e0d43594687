"""A list of good images that is itself a SPEC: their paths where they are files, else the rows of the source."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from otherview.atomic import atomically, write_atomically
from otherview.data.files import ROWS_OF, Files
from otherview.data.source import Joined, Selected, Source
from otherview.data.spec import absolute


def write_good_list(source: Source, spec: str, *, bad: set[int], folder: Path) -> Path:
    """Write good.csv (paths and labels) or good.txt (row numbers); returns its path."""
    good = [index for index in range(len(source)) if index not in bad]
    files = list(_files(source, good))
    if len(files) == len(good):
        path = folder / "good.csv"
        atomically(path, lambda temporary: _write_csv(temporary, files, source))
    else:
        path = folder / "good.txt"
        write_atomically(path, "\n".join([f"{ROWS_OF}{absolute(spec)}", *map(str, good), ""]).encode())
    return path


def _write_csv(path: Path, files: list[tuple[str, int | None]], source: Source) -> None:
    labelled = any(label is not None for _, label in files)
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"] if labelled else ["path"])
        rows.writerows([name, _word(label, source)] if labelled else [name] for name, label in files)


def _word(label: int | None, source: Source) -> str:
    """A label as it is written: the name of the class, where it has one."""
    return "" if label is None else str(label) if source.classes is None else source.classes[label]


def _files(source: Source, indices: list[int]) -> Iterator[tuple[str, int | None]]:
    """Path and label of every image that is a file; labels in the numbers or names of the whole source."""
    for index in indices:
        part, inner = source, index
        while isinstance(part, (Joined, Selected)):
            part, inner = part.locate(inner)
        if isinstance(part, Files):
            yield os.path.abspath(part.path(inner)), source.label(index)  # noqa: PTH100 (links stay as they are)
