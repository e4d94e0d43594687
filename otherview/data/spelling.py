"""Names of files as people mean them: backslashes, escapes of URLs, another Unicode form, case or encoding, a folder too many.

    found = meant(root, ["images\\a%20b.JPG"])
    found.names                                  # ["a b.jpg"]: what lies below the root; a name without a match stays
    found.said                                   # a line for a person, where a name had to be searched for

The folder is looked through only where some of the names do not exist as they are. A match must be the only one.
"""

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from otherview.data.folder import walk
from otherview.data.foreign import ENDINGS, ending_of
from otherview.data.source import printable, spread

LOOKED_AT = 64
"""Names, spread over all, that decide whether a folder is looked through."""
MOST_LEVELS = 12
"""Leading folders that are left away at most."""
MOST_FILES = 500_000
"""A folder of more files is not looked through."""


class Meant(NamedTuple):
    """Names below a root, in the order they were asked for."""

    names: list[str]
    said: str
    depends: list[Path]
    """Folders that were looked through."""


def meant(root: Path, names: list[str], *, endings: bool = False) -> Meant:
    """What the names stand for below a root; with `endings`, a name without its ending will do."""
    places = spread(len(names), LOOKED_AT).tolist()
    if all(os.path.exists(root / names[place]) for place in places):  # noqa: PTH110
        return Meant(list(names), "", [])
    folders: list[Path] = []
    listing = _Listing(root, folders, endings=endings)
    look = listing.best_way([names[place] for place in places])
    found = [name if listing.has(name) else look(name) or name for name in names]
    changed = [(name, real) for name, real in zip(names, found, strict=True) if name != real]
    if not changed:
        return Meant(list(names), "", folders)
    asked = {_key(_slashed(name)) for name in names}
    if len(set(found)) < len(asked):  # two names for one file: something else is meant
        return Meant(list(names), "some names do not exist, and what is like them is not one file for each", folders)
    name, real = (printable(word) for word in changed[0])
    return Meant(found, f"{len(changed):,} of {len(names):,} names are written otherwise: {name} is {real}", folders)


Way = Callable[[str], str | None]


class _Listing:
    """The files below a root by what is the same however it is spelt."""

    def __init__(self, root: Path, folders: list[Path], *, endings: bool) -> None:
        self.exact: set[str] = set()
        self.alike: dict[str, str | None] = {}
        self.last: dict[str, list[str]] = {}
        for names in walk(root, folders):
            for name in names:
                self._add(name.replace(os.sep, "/"), endings=endings)
            if len(self.exact) > MOST_FILES:
                self.alike, self.last = {}, {}
                break

    def _add(self, name: str, *, endings: bool) -> None:
        self.exact.add(name)
        stem = [_key(os.path.splitext(name)[0])] if endings and ending_of(name) in ENDINGS else []  # noqa: PTH122
        for key in {_key(name), *stem}:
            self.alike[key] = None if key in self.alike else name  # of two alike, neither is meant
            self.last.setdefault(key.rpartition("/")[2], []).append(name)

    def has(self, name: str) -> bool:
        """Whether a file is called exactly so, or lies elsewhere by an absolute name."""
        return name in self.exact or (os.path.isabs(name) and os.path.exists(name))  # noqa: PTH110, PTH117

    def best_way(self, names: Sequence[str]) -> Way:
        """How most of the names are found: with leading folders left away, or a folder put before."""
        deepest = min(MOST_LEVELS, max((_slashed(name).count("/") for name in names), default=0))
        ways = [self._without(count) for count in range(deepest + 1)]
        ways += [self._below(folder) for folder in self._folders_before(names)]
        return max(ways, key=lambda way: sum(self.has(name) or way(name) is not None for name in names))

    def _without(self, count: int) -> Way:
        def look(name: str) -> str | None:
            return self._first(
                "/".join(parts[count:]) for parts in (form.split("/") for form in _forms(name)) if parts[count:]
            )

        return look

    def _below(self, folder: str) -> Way:
        return lambda name: self._first(folder + form for form in _forms(name))

    def _folders_before(self, names: Sequence[str]) -> list[str]:
        """Folders below which the first name is found, once each."""
        found = []
        for form in _forms(names[0]) if names else ():
            key = _key(form)
            for real in self.last.get(key.rpartition("/")[2], [])[:LOOKED_AT]:
                levels = real.split("/")
                before = "/".join(levels[: len(levels) - 1 - form.count("/")])
                if before:
                    found.append(before + "/")
        return list(dict.fromkeys(found))

    def _first(self, forms: Iterable[str]) -> str | None:
        return next((real for form in forms if (real := self.alike.get(_key(form)))), None)


def _slashed(name: str) -> str:
    return name.replace("\\", "/")


def _forms(name: str) -> Iterator[str]:
    """A name with slashes, with its escapes undone, and as a Western Windows wrote it."""
    slashed = _slashed(name).removeprefix("./")
    if ".." in slashed.split("/"):  # which is for the caller to allow or to refuse
        return
    yield slashed
    if "%" in slashed:
        yield unquote(slashed)
    if any("\udc80" <= sign <= "\udcff" for sign in slashed):
        yield os.fsencode(slashed).decode("cp1252", errors="replace")


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
