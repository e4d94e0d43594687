"""Files that are either the old one or the whole new one, and lines that are whole. Torch-free."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file by `content`."""
    atomically(path, lambda temporary: temporary.write_bytes(content))


def atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, sync it, and put it in the place of `path`; a failure leaves no trace."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def json_lines(path: Path) -> list[dict[str, Any]]:
    """One object a line, none of a file that is not there; a line that is being written, or was cut off, is left out."""
    found: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """One process at a time, where the system can lock files; the others wait."""
    with (folder / "lock").open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
