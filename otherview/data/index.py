"""Indexes: what is known of a source's images, made once, kept in the user's cache and read by memory map.

    table = Table(cached("zip", file, build))      # build(folder) fills it and returns the paths it depends on
    table.name(7), table.number("offset", 7)

An index is good while everything it depends on keeps its size and time. Names are bytes and offsets, so two million of
them take no more memory than the pages that are looked at.
"""

import json
import os
import sys
import time
import unicodedata
from array import array
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from otherview.data.source import Source, paths_of

NO_LABEL = -1


class Table:
    """One row per image: a name and some whole numbers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._small = {path.name: _loaded(path) for path in folder.iterdir() if _is_small(path)}

    def __len__(self) -> int:
        return len(self._column("name_end"))

    def _column(self, name: str) -> np.ndarray:
        small = self._small.get(f"{name}.npy")
        return _mapped(self.folder / f"{name}.npy") if small is None else small

    def __getstate__(self) -> Path:
        return self.folder  # workers map the files themselves

    def __setstate__(self, folder: Path) -> None:
        Table.__init__(self, folder)

    def name(self, index: int) -> str:
        """The name of a row; bytes that are no UTF-8 survive as surrogates, as Python's file functions expect."""
        ends, names = self._column("name_end"), self._small.get("names.bin")
        start = int(ends[index - 1]) if index else 0
        names = _mapped(self.folder / "names.bin") if names is None else names
        return os.fsdecode(names[start : int(ends[index])].tobytes())

    def number(self, column: str, index: int) -> int:
        """One number of a row."""
        return int(self._column(column)[index])

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes by number, where the source has names for them."""
        return self._known("classes.json")

    @property
    def left_out(self) -> dict[str, int]:
        """What was met beside the images, by kind (data/foreign.py)."""
        return self._known("left_out.json") or {}

    @property
    def notes(self) -> list[str]:
        """What a person should know of how the images were found, a line each."""
        return self._known("notes.json") or []

    def _known(self, name: str) -> Any:
        path = self.folder / name
        return json.loads(path.read_text()) if path.exists() else None


class Indexed:
    """What every source behind a table has; the column `label` is −1 where there is none."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.classes = table.classes

    @property
    def notes(self) -> list[str]:
        """What a person should know of how the images were found, a line each."""
        return self.table.notes

    def __len__(self) -> int:
        return len(self.table)

    def label(self, index: int) -> int | None:
        label = self.table.number("label", index)
        return None if label == NO_LABEL else label


class Parts(Indexed):
    """Parts of the images of another source: the column `image` is the index of the whole there."""

    def __init__(self, base: Source, table: Table) -> None:
        super().__init__(table)
        self.base = base
        self.classes = base.classes

    def label(self, index: int) -> int | None:
        return self.base.label(self.whole(index))

    def whole(self, index: int) -> int:
        """The index of what it is a part of."""
        return self.table.number("image", index)

    def depends(self) -> list[Path]:
        """The files that it is made of."""
        return paths_of(self.base)


SMALL = 2**16
"""Bytes of what is loaded at once: an empty file cannot be mapped, a small one need not be."""
MOST_MAPPED = 96
"""A map keeps its file open, and a process may have 256 open files for thousands of shards."""


def _is_small(path: Path) -> bool:
    return path.suffix in (".npy", ".bin") and path.stat().st_size < SMALL


def _loaded(path: Path) -> np.ndarray:
    return np.fromfile(path, np.uint8) if path.suffix == ".bin" else np.load(path, allow_pickle=False)


@lru_cache(MOST_MAPPED)
def _mapped(path: Path) -> np.ndarray:
    """Of this process; the one not used for longest is closed when there are too many."""
    if path.suffix == ".bin":
        return np.asarray(np.memmap(path, np.uint8, "r"))
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


REPORT_ROWS, REPORT_SECONDS = 4096, 3.0
"""Every so many rows the clock is read, and every so many seconds progress is reported."""


class TableWriter:
    """Writes a table row by row; memory is 8 bytes per number."""

    def __init__(self, folder: Path, *numbers: str) -> None:
        self.folder = folder
        self._names = (folder / "names.bin").open("wb")
        self._columns = {name: array("q") for name in ("name_end", *numbers)}
        self._said = time.monotonic()
        self._notes: list[str] = []

    def __len__(self) -> int:
        return len(self._columns["name_end"])

    def add(self, name: str, **numbers: int) -> None:
        """One more row; `numbers` are those named at the start."""
        self._names.write(os.fsencode(name))
        self._columns["name_end"].append(self._names.tell())
        for column, value in numbers.items():
            self._columns[column].append(value)
        if len(self) % REPORT_ROWS == 0 and time.monotonic() - self._said > REPORT_SECONDS:
            self._said = time.monotonic()
            print(f"indexing: {len(self):,} images so far", file=sys.stderr)

    def replace(self, column: str, values: np.ndarray) -> None:
        """A whole column that is known only at the end."""
        self._columns[column] = array("q", np.ascontiguousarray(values, np.int64).tobytes())

    def column(self, name: str) -> np.ndarray:
        """What was added so far: int64."""
        return np.frombuffer(self._columns[name], np.int64) if len(self) else np.empty(0, np.int64)

    def name_classes(self, names: Sequence[str]) -> None:
        """What the labels stand for."""
        (self.folder / "classes.json").write_text(json.dumps(list(names)))

    def leave_out(self, counts: Mapping[str, int]) -> None:
        """What was met beside the images, by kind."""
        (self.folder / "left_out.json").write_text(json.dumps(counts))

    def note(self, line: str) -> None:
        """What a person should know of how the images were found."""
        self._notes.append(line)

    def close(self) -> None:
        """Write the numbers."""
        self._names.close()
        if self._notes:
            (self.folder / "notes.json").write_text(json.dumps(self._notes))
        for name, values in self._columns.items():
            np.save(self.folder / f"{name}.npy", np.frombuffer(values, np.int64) if len(values) else np.empty(0, int))


class FirstLevel:
    """Classes by folder: the first level names the class, or the first that has several folders where one is around all."""

    def __init__(self) -> None:
        self._folders: dict[str, int] = {}

    def label(self, name: str) -> int:
        """What stands for the class of a name, with '/' between its levels, until the end."""
        return self._folders.setdefault(name.rpartition("/")[0], len(self._folders))

    def finish(self, writer: TableWriter) -> None:
        """Number and name the classes; there are none where images lie beside the folders."""
        # macOS takes letters and their accents apart
        named = (unicodedata.normalize("NFC", folder) for folder in self._folders)
        paths = [[level for level in folder.split("/") if level not in ("", ".")] for folder in named]
        depth = _depth_of_classes(paths)
        first = {path[depth] if len(path) > depth else "" for path in paths}
        if len(first) > 1 and "" in first:
            writer.note("images lie beside the folders, so folders are no classes: move them into one")
        if not first or "" in first:
            writer.replace("label", np.full(len(writer), NO_LABEL))
            return
        names = sorted(first)
        places = {name: number for number, name in enumerate(names)}
        numbers = np.array([places[path[depth]] for path in paths])
        writer.replace("label", numbers[writer.column("label")])
        writer.name_classes(names)
        if depth:
            writer.note(f"the folders below {'/'.join(paths[0][:depth])} are the classes")
        if len(first) > 1 and {name.lower() for name in names} <= SPLITS:
            writer.note(f"the classes are called {', '.join(names)}: to judge, give one of these folders for each side")


SPLITS = frozenset(("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"))
"""How people call parts of their data."""


def _depth_of_classes(paths: Sequence[Sequence[str]]) -> int:
    """How many folders are around all images before the first level that has several."""
    depth = 0
    while paths and all(len(path) > depth for path in paths) and len({path[depth] for path in paths}) == 1:
        depth += 1
    return depth if depth and all(len(path) > depth for path in paths) else 0
