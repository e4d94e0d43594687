"""Where indexes are kept: in the user's cache, made once, good while everything they depend on keeps its size and time.

folder = cached("zip", file, build)      # build(folder) fills it and returns the paths it depends on
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from otherview.data.source import name_once
from otherview.errors import WrongRequest
from otherview.files import alone_in
from otherview.launch import launched_rank

FORMAT = 6
"""Raised when an index changes its meaning, so that old ones are not read."""
Build = Callable[[Path], Iterable[Path]]
"""Fills a new folder and returns the paths that its content depends on; one that cannot be read must stay so."""
UNREADABLE = (-1, -1)
DAY = 86400.0
KEPT_DAYS, ABANDONED_DAYS = 7, 1


def cache_folder() -> Path:
    """Where indexes live: OTHERVIEW_CACHE, else the user's cache folder; raises WrongRequest where it cannot be made."""
    if base := os.environ.get("OTHERVIEW_CACHE"):
        folder = Path(base)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WrongRequest(
                f"the cache {folder} cannot be made ({error.strerror}): set OTHERVIEW_CACHE to a folder that you own"
            ) from error
        return folder
    from platformdirs import user_cache_path

    folder = user_cache_path("otherview", appauthor=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return _temporary_cache(folder)


def _temporary_cache(instead_of: Path) -> Path:
    """A folder of this user alone, for a home that cannot be written to."""
    whose = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"otherview-{whose}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
        if hasattr(os, "getuid") and (state.st_uid != os.getuid() or state.st_mode & 0o022):
            raise PermissionError(13, "it belongs to somebody else")
    except OSError as error:
        raise WrongRequest(
            f"neither {instead_of} nor {folder} can be a cache ({error.strerror}): set OTHERVIEW_CACHE to a folder that you own"
        ) from error
    if launched_rank() == 0:
        name_once(
            f"{instead_of} cannot be written, so indexes lie in {folder}; set OTHERVIEW_CACHE for another place",
            "cache",
        )
    return folder


def cached(kind: str, path: Path, build: Build) -> Path:
    """The cache's folder for `path`, filled by `build` unless a good one is there; one process builds, others wait."""
    absolute = os.fsencode(path.absolute())
    whose = hashlib.sha256(os.fsencode(f"{FORMAT}|{kind}|") + absolute).hexdigest()[:24]
    place = cache_folder() / whose
    if (good := _good_one(place)) is not None:
        return good
    try:
        place.mkdir(exist_ok=True)
        with alone_in(place):
            return _good_one(place) or _built(place, build)
    except PermissionError as error:
        if os.access(place.parent, os.W_OK):
            raise WrongRequest(f"{path} cannot be read ({error.strerror}): check its permissions") from error
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
    except (OSError, ValueError):  # ValueError: a null byte in a path
        return UNREADABLE
    changed_meanwhile = began is not None and state.st_mtime_ns >= began
    return (-2 if changed_meanwhile else state.st_size), state.st_mtime_ns


def _is_good(folder: Path) -> bool:
    try:
        depends = json.loads((folder / "depends.json").read_text())
        return all((size, changed) == _state(path) for path, size, changed in depends)
    except (OSError, ValueError):
        return False
