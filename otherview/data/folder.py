"""Image files by path: a folder, a list, a csv.

    folder      images anywhere below it; the first folder level names the class
    list.txt    one path per line, relative to the list
    list.csv    the header `path[,label]`, paths relative to the file

A `.txt` whose first line is `# rows of SPEC` holds row numbers of that source (what `doctor` writes for sources whose
images are no files).
"""

import csv
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from otherview.data import dicom
from otherview.data.foreign import ARRAYS, ENDINGS, MASKS, READS, count_masks, ending_of, is_litter
from otherview.data.index import NO_LABEL, FirstLevel, Indexed, Table, TableWriter, cached
from otherview.data.source import printable
from otherview.errors import BrokenImage, WrongRequest

ROWS_OF = "# rows of "
LARGEST_IMAGE = 2**30
"""Bytes of one encoded image; more is a broken archive or a bomb."""


class Files(Indexed):
    """Files named by a table, below a root."""

    def __init__(self, root: Path, table: Table) -> None:
        super().__init__(table)
        self.root = root

    def path(self, index: int) -> Path:
        """Where the file lies."""
        return self.root / self.table.name(index)

    def depends(self) -> list[Path]:
        """The files that it is made of."""
        return [self.path(index) for index in range(len(self))]

    def read(self, index: int) -> bytes:
        try:
            with open(self.path(index), "rb", opener=_without_waiting) as file:
                state = os.fstat(file.fileno())
                if not stat.S_ISREG(state.st_mode) or state.st_size > LARGEST_IMAGE:
                    raise BrokenImage(
                        f"{self.name(index)}: no file, or too large for one image ({state.st_size:,} bytes)"
                    )
                return file.read()
        except (OSError, ValueError) as error:  # ValueError: a null byte in a path
            raise BrokenImage(f"{self.name(index)}: {getattr(error, 'strerror', None) or error}") from error

    def name(self, index: int) -> str:
        """The path below the root."""
        return printable(self.table.name(index)) or f"row {index} without a path"


def _without_waiting(path: str, flags: int) -> int:
    """Open without waiting for a pipe's other end."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def open_folder(root: Path) -> Files:
    """All images below a folder, in the order of a sorted walk."""
    files = Files(root, Table(cached(f"folder{READS}", root, lambda place: _index_folder(root, place))))
    if not len(files):
        raise WrongRequest(f"{root} holds no images: it needs files such as *.jpg or *.png, at any depth")
    return files


def _index_folder(root: Path, place: Path) -> list[Path]:
    depends: list[Path] = []
    for endings in (ENDINGS, ARRAYS):
        depends.clear()
        writer, classes, others = TableWriter(place, "label"), FirstLevel(), Counter[str]()
        for names in _walk(root, depends):
            kinds = [_kind(root, name) for name in names]
            images = [name for name, kind in zip(names, kinds, strict=True) if kind in endings]
            others.update(kind for kind in kinds if kind not in endings)
            others[MASKS] += count_masks({os.path.splitext(os.path.basename(name))[0] for name in images})  # noqa: PTH119, PTH122
            for name in images:
                writer.add(name, label=classes.label(name.replace(os.sep, "/")))
        writer.leave_out(others)
        classes.finish(writer)
        if len(writer):
            break
    return depends


def _kind(root: Path, name: str) -> str:
    """The ending of a file's name; scanners write DICOM without one."""
    ending = ending_of(name)
    unsaid = not ending or ending[1:].isdigit()  # 1.2.840.113619.2.5.70 has no ending
    return ".dcm" if unsaid and dicom.INSTALLED and _begins_as_dicom(root / name) else ending


def _begins_as_dicom(path: Path) -> bool:
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and dicom.is_dicom(file.read(132))
    except OSError:
        return False


def _walk(root: Path, depends: list[Path]) -> Iterator[list[str]]:
    """Relative paths of files, folder by folder in sorted order, without what systems leave; links are followed, each real
    folder once, so loops end.

    `depends` gets every folder met, also one that cannot be read: once it can, the index is made again.
    """
    seen: set[tuple[int, int]] = set()
    open_ends = [""]
    while open_ends:
        below = open_ends.pop()
        here = root / below
        depends.append(here)
        try:
            state = here.stat()
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
            with os.scandir(here) as found:
                entries = sorted((entry for entry in found if not is_litter(entry.name)), key=lambda entry: entry.name)
        except OSError as error:
            if not below:
                raise WrongRequest(f"{root} cannot be read ({error.strerror}): check its permissions") from error
            print(f"{printable(str(here))} is left out: {error.strerror}", file=sys.stderr)
            continue
        names = [(os.path.join(below, entry.name), _is_folder(entry)) for entry in entries]  # noqa: PTH118
        yield [name for name, folder in names if not folder]
        open_ends += [name for name, folder in reversed(names) if folder]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """A folder, or a link that leads to one or to nothing, which may be a folder another day."""
    try:
        return entry.is_dir() or (entry.is_symlink() and not os.path.exists(entry.path) and "." not in entry.name)  # noqa: PTH110
    except OSError:  # a link that leads to itself
        return False


def open_file(path: Path) -> Files:
    """A single image."""
    return Files(
        path.parent, Table(cached("file", path, lambda place: _index_rows(path, iter([(path.name, "")]), place)))
    )


def open_list(path: Path) -> Files:
    """The files that a .txt or .csv names."""
    rows = _csv_rows if path.suffix.lower() == ".csv" else _text_rows
    files = Files(path.parent, Table(cached("list", path, lambda place: _index_rows(path, rows(path), place))))
    if not len(files):
        raise WrongRequest(f"{path} names no images: it needs one path per line, relative to the file")
    return files


WHOLE_NUMBER = re.compile(r"(-?\d{1,18})(?:\.0+)?")


def _index_rows(path: Path, rows: Iterator[tuple[str, str]], place: Path) -> list[Path]:
    """Labels that are all whole numbers are taken as they are, others are numbered in sorted order."""
    writer, words = TableWriter(place, "label"), {}
    try:
        for name, label in rows:
            writer.add(name, label=words.setdefault(label, len(words)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise WrongRequest(f"{path} is no readable list ({error}): it must be text in UTF-8") from error
    known = sorted(word for word in words if word)
    matches = [WHOLE_NUMBER.fullmatch(word) for word in known]
    if all(matches):
        numbers = {word: max(NO_LABEL, int(match[1])) for word, match in zip(known, matches, strict=True) if match}
    else:
        numbers = {word: number for number, word in enumerate(known)}
        writer.name_classes(known)
    if len(writer):
        writer.replace("label", np.array([numbers.get(word, NO_LABEL) for word in words])[writer.column("label")])
    writer.close()
    return [path]


def _text_rows(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for line in file:
            if name := line.rstrip("\r\n"):
                yield name, ""


def _csv_rows(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        header = [word.strip() for word in next(reader, [])]
        if "path" not in header:
            raise WrongRequest(f"{path} begins with {printable(','.join(header))!r}: its header must be path,label")
        where = header.index("path")
        label = header.index("label") if "label" in header else None
        for row in reader:
            if row:
                known = label is not None and label < len(row)
                yield (row[where] if where < len(row) else ""), (row[label].strip() if known else "")  # pyright: ignore


def rows_of(path: Path) -> tuple[str, np.ndarray] | None:
    """The SPEC and the row numbers of a list that `doctor` wrote for a source without files; None for other lists."""
    with path.open("rb") as file:
        first = file.readline(2**16).decode(errors="replace")
    if not first.startswith(ROWS_OF):
        return None
    try:
        return first.removeprefix(ROWS_OF).strip(), np.loadtxt(path, np.int64, skiprows=1, ndmin=1)
    except ValueError as error:
        raise WrongRequest(
            f"{path} holds something else than row numbers ({error}): let doctor write it again"
        ) from None
