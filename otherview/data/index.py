"""Indexes: what is known of a source's images, made once, kept in the user's cache and read by memory map.

    table = Table(cached("zip", file, build))      # build(folder) fills it and returns the paths it depends on
    table.name(7), table.number("offset", 7)

An index is good while everything it depends on keeps its size and time. Names are bytes and offsets, so two million of
them take no more memory than the pages that are looked at.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from otherview.data.source import Source, paths_of
from otherview.errors import WrongRequest
from otherview.files import alone_in

NO_LABEL = -1
FORMAT = 6
"""Raised when an index changes its meaning, so that old ones are not read."""


class Table:
    """One row per image: a name and some whole numbers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._columns = {path.stem: _mapped(path) for path in folder.glob("*.npy")}
        self._names = _mapped(folder / "names.bin")

    def __len__(self) -> int:
        return len(self._columns["name_end"])

    def __getstate__(self) -> Path:
        return self.folder  # workers map the files themselves

    def __setstate__(self, folder: Path) -> None:
        Table.__init__(self, folder)

    def name(self, index: int) -> str:
        """The name of a row; bytes that are no UTF-8 survive as surrogates, as Python's file functions expect."""
        ends = self._columns["name_end"]
        start = int(ends[index - 1]) if index else 0
        return os.fsdecode(self._names[start : int(ends[index])].tobytes())

    def number(self, column: str, index: int) -> int:
        """One number of a row."""
        return int(self._columns[column][index])

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


def _mapped(path: Path) -> np.ndarray:
    if path.suffix == ".bin":
        return np.asarray(np.memmap(path, np.uint8, "r")) if path.stat().st_size else np.empty(0, np.uint8)
    small = path.stat().st_size < 2**16  # an empty array cannot be mapped, and a small one need not be
    return np.asarray(np.load(path, mmap_mode=None if small else "r", allow_pickle=False))


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


Build = Callable[[Path], Iterable[Path]]
"""Fills a new folder and returns the paths that its content depends on; one that cannot be read must stay so."""
UNREADABLE = (-1, -1)
DAY = 86400.0
KEPT_DAYS, ABANDONED_DAYS = 7, 1


def cache_folder() -> Path:
    """Where indexes live: OTHERVIEW_CACHE, else the user's cache folder; raises WrongRequest where it cannot be made."""
    base = os.environ.get("OTHERVIEW_CACHE")
    if base:
        folder = Path(base)
    else:
        from platformdirs import user_cache_path

        folder = user_cache_path("otherview", appauthor=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WrongRequest(
            f"the cache {folder} cannot be made ({error.strerror}): set OTHERVIEW_CACHE to a folder that you own"
        ) from error
    return folder


def cached(kind: str, path: Path, build: Build) -> Path:
    """The cache's folder for `path`, filled by `build` unless a good one is there; one process builds, others wait."""
    absolute = os.fsencode(path.absolute())
    whose = hashlib.sha256(f"{FORMAT}|{kind}|".encode() + absolute).hexdigest()[:24]
    place = cache_folder() / whose
    if (good := _good_one(place)) is not None:
        return good
    try:
        place.mkdir(exist_ok=True)
        with alone_in(place):
            return _good_one(place) or _built(place, build)
    except PermissionError as error:
        raise WrongRequest(
            f"the cache {place.parent} cannot be written: set OTHERVIEW_CACHE to a folder that you own"
        ) from error


def _good_one(place: Path) -> Path | None:
    return next((folder for folder in place.glob("index-*") if _is_good(folder)), None)


def _built(place: Path, build: Build) -> Path:
    """Build beside, rename; what is old goes, but not what a run of these days may still read."""
    if (replaced := max(place.glob("index-*"), default=None)) is not None:
        os.utime(replaced)  # its days are counted from now
    for old in place.iterdir():
        days = (time.time() - old.stat().st_mtime) / DAY
        if days > (ABANDONED_DAYS if old.name.startswith("tmp-") else KEPT_DAYS) and old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=place, prefix="tmp-"))
    try:
        began = time.time_ns()
        states = [(os.path.abspath(path), *_state(path, began=began)) for path in build(temporary)]  # noqa: PTH100
        (temporary / "depends.json").write_text(json.dumps(states))
        target = place / f"index-{time.time_ns():x}"
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _state(path: Path | str, *, began: int | None = None) -> tuple[int, int]:
    """Size and time; what changed while it was read is never good again."""
    try:
        state = os.stat(path)  # noqa: PTH116 (100,000 folders)
        if not os.access(path, os.R_OK):
            return UNREADABLE
    except OSError:
        return UNREADABLE
    changed_meanwhile = began is not None and state.st_mtime_ns >= began
    return (-2 if changed_meanwhile else state.st_size), state.st_mtime_ns


def _is_good(folder: Path) -> bool:
    try:
        depends = json.loads((folder / "depends.json").read_text())
        return all((size, changed) == _state(path) for path, size, changed in depends)
    except (OSError, ValueError):
        return False


class FirstLevel:
    """Classes by folder: the first level names the class; in `photos.zip` that below `photos/`, where all lies in there."""

    def __init__(self, around: str = "") -> None:
        self._around = around
        self._folders: dict[str, int] = {}

    def label(self, name: str) -> int:
        """What stands for the class of a name, with '/' between its levels, until the end."""
        return self._folders.setdefault(name.rpartition("/")[0], len(self._folders))

    def finish(self, writer: TableWriter) -> None:
        """Number and name the classes; there are none where images lie beside the folders."""
        paths = [[level for level in folder.split("/") if level not in ("", ".")] for folder in self._folders]
        depth = int(all(len(path) > 1 and path[0] == self._around for path in paths))
        first = {path[depth] if len(path) > depth else "" for path in paths}
        if not first or "" in first:
            writer.replace("label", np.full(len(writer), NO_LABEL))
            return
        names = sorted(first)
        numbers = np.array([names.index(path[depth]) for path in paths])
        writer.replace("label", numbers[writer.column("label")])
        writer.name_classes(names)
