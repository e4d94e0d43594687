"""Files that are either the old one or the whole new one, lines that are whole, and folders with one writer. Torch-free."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from otherview.errors import WrongRequest
from otherview.launch import launched_rank

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
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777  # as the umask has it; some writers make files for their owner alone
        write(temporary)
        temporary.chmod(mode)
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


def json_object(path: Path) -> dict[str, Any]:
    """A file's object; an empty one for a file that is not there or holds something else."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """One process at a time, where the file system can lock files; the others wait."""
    from filelock import FileLock

    try:
        lock = FileLock(folder / "lock")
        lock.acquire()
    except (NotImplementedError, OSError):  # a file system without locks
        yield
        return
    try:
        yield
    finally:
        lock.release()


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Within, no other run writes to the folder; rank 0 holds it for all. Raises WrongRequest where another run does.

    A record lock, which ends with its process: filelock's would live on in the loader's workers after a kill.
    """
    if fcntl is None or launched_rank() > 0:
        yield
        return
    with (folder / "lock").open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise WrongRequest(f"--out {folder} is being written by another run: wait for it, or stop it") from error
        except OSError:  # a file system without locks
            pass
        yield


def make_folder(folder: Path, *, flag: str = "--out") -> None:
    """Make a folder that can be written to; raises WrongRequest where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "permission denied")
    except OSError as error:
        raise WrongRequest(
            f"{flag} {folder} cannot be written ({error.strerror}): choose a folder that you can write to"
        ) from error


def check_written(path: Path, *, flag: str) -> None:
    """Before any work, raise WrongRequest where no file can be written to this path; its folder is made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.exists()
        path.open("ab").close()
        if not there:
            path.unlink()
    except OSError as error:
        raise WrongRequest(
            f"{flag} {path} cannot be written ({error.strerror}): choose a folder that you can write to"
        ) from error


def check_picture(path: Path, *, flag: str = "--out") -> None:
    """Before any work, raise WrongRequest where no picture can be written to this path; its folder is made."""
    if path.suffix not in (".png", ".svg"):
        raise WrongRequest(f"{flag} {path} must end in .png or .svg")
    check_written(path, flag=flag)
