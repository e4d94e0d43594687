"""Indexes: what is known of a source's images, made once, kept in the user's cache and read by memory map.

    table = indexed("zip", file, build)       # build(writer) → the paths that the index depends on
    table.name(7), table.number("offset", 7)

An index is good while everything it depends on keeps its size and time. Names are bytes and offsets, so two million of
them take no more memory than the pages that are looked at.
"""

import hashlib
import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

FORMAT = 2
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

    def numbers(self, column: str) -> np.ndarray:
        """A whole column: int64, mapped, not to be written to."""
        return self._columns[column]


def _mapped(path: Path) -> np.ndarray:
    if path.suffix == ".bin":
        return np.asarray(np.memmap(path, np.uint8, "r")) if path.stat().st_size else np.empty(0, np.uint8)
    small = path.stat().st_size < 2**16  # an empty array cannot be mapped, and a small one need not be
    return np.asarray(np.load(path, mmap_mode=None if small else "r", allow_pickle=False))


class TableWriter:
    """Writes a table row by row; memory is 8 bytes per number."""

    def __init__(self, folder: Path, *numbers: str) -> None:
        self.folder = folder
        self._names = (folder / "names.bin").open("wb")
        self._columns = {name: array("q") for name in ("name_end", *numbers)}

    def __len__(self) -> int:
        return len(self._columns["name_end"])

    def add(self, name: str, **numbers: int) -> None:
        """One more row; `numbers` are those named at the start."""
        self._names.write(os.fsencode(name))
        self._columns["name_end"].append(self._names.tell())
        for column, value in numbers.items():
            self._columns[column].append(value)

    def replace(self, column: str, values: np.ndarray) -> None:
        """A whole column that is known only at the end."""
        self._columns[column] = array("q", np.ascontiguousarray(values, np.int64).tobytes())

    def column(self, name: str) -> np.ndarray:
        """What was added so far: int64."""
        return np.frombuffer(self._columns[name], np.int64) if len(self) else np.empty(0, np.int64)

    def close(self) -> None:
        """Write the numbers."""
        self._names.close()
        for name, values in self._columns.items():
            np.save(self.folder / f"{name}.npy", np.frombuffer(values, np.int64) if len(values) else np.empty(0, int))


Build = Callable[[Path], Iterable[Path]]
"""Fills a new folder and returns the paths that its content depends on."""


def cache_folder() -> Path:
    """Where indexes live: OTHERVIEW_CACHE, else the user's cache folder."""
    base = os.environ.get("OTHERVIEW_CACHE")
    folder = Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "otherview"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cached(kind: str, path: Path, build: Build) -> Path:
    """The cache's folder for `path`, filled by `build` unless a good one is there; older ones of that path go."""
    whose = hashlib.sha256(f"{FORMAT}|{kind}|{path.resolve()}".encode(errors="surrogateescape")).hexdigest()[:16]
    cache = cache_folder()
    known = list(cache.glob(f"{whose}-*"))
    for folder in known:
        if _is_good(folder):
            return folder
    temporary = Path(tempfile.mkdtemp(dir=cache, prefix="tmp-"))
    try:
        states = [(os.fspath(dependency), *_state(dependency)) for dependency in build(temporary)]
        (temporary / "depends.json").write_text(json.dumps(states))
        digest = hashlib.sha256(json.dumps(states).encode()).hexdigest()[:16]
        target = cache / f"{whose}-{digest}"
        try:
            temporary.rename(target)
        except OSError:  # another process was faster
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for folder in known:
        if folder != target:
            shutil.rmtree(folder, ignore_errors=True)
    return target


def _state(path: Path | str) -> tuple[int, int]:
    state = os.stat(path)  # noqa: PTH116 (100,000 folders)
    return state.st_size, state.st_mtime_ns


def _is_good(folder: Path) -> bool:
    try:
        return all(
            (size, time) == _state(path) for path, size, time in json.loads((folder / "depends.json").read_text())
        )
    except (OSError, ValueError):
        return False
