"""Packed: encoded images inside large files, reached by offset; the index is made once and kept in the user's cache.

Tar shards are read where they lie; parquet, which cannot be read by row, is unpacked into the cache once.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from otherview.data.decode import decode

FORMAT = 1
"""Raised when the index changes its meaning, so that old ones are not read."""


class Packed:
    """Byte ranges of files: columns `file`, `offset`, `size`, `label` (−1: none) and `name`, one row per image."""

    def __init__(self, files: Sequence[Path], columns: dict[str, np.ndarray]) -> None:
        self.files = list(files)
        self.columns = columns
        self._open: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.columns["offset"])

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": {}}

    def image(self, index: int) -> Image.Image:
        """The decoded image."""
        return decode(self.read(index), self.name(index))

    def read(self, index: int) -> bytes:
        """The encoded bytes."""
        which, offset, size = (int(self.columns[name][index]) for name in ("file", "offset", "size"))
        key = (os.getpid(), which)  # a forked worker opens its own
        if key not in self._open:
            self._open[key] = os.open(self.files[which], os.O_RDONLY)
        return os.pread(self._open[key], size, offset)

    def label(self, index: int) -> int | None:
        """The class, if the file has one."""
        label = int(self.columns["label"][index])
        return None if label < 0 else label

    def name(self, index: int) -> str:
        """The name inside the file."""
        return str(self.columns["name"][index])


def cache_folder() -> Path:
    """Where indexes live: OTHERVIEW_CACHE, else the user's cache folder."""
    base = os.environ.get("OTHERVIEW_CACHE")
    folder = Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "otherview"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cached(file: Path, kind: str, build: Callable[[Path], None]) -> Path:
    """A cache file made by `build(path)` once per content of `file` (its path, size and time)."""
    state = file.stat()
    key = f"{FORMAT}|{kind}|{file.resolve()}|{state.st_size}|{state.st_mtime_ns}"
    path = cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.{kind}"
    if not path.exists():
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        os.close(handle)
        try:
            build(Path(temporary))
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    return path


def save_columns(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Write an index."""
    with path.open("wb") as file:
        np.savez(file, **columns)  # pyright: ignore[reportArgumentType]


def load_columns(paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """Read the indexes of several files as one; the column `file` says which of them a row belongs to."""
    tables = [dict(np.load(path, allow_pickle=False)) for path in paths]
    joined = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    joined["file"] = np.repeat(np.arange(len(tables)), [len(table["offset"]) for table in tables])
    return joined
