"""Image files by path: a folder, a list, a csv.

    folder      images anywhere below it; the first folder level names the class
    list.txt    one path per line, relative to the list
    list.csv    the header `path[,label]`, paths relative to the file

A `.txt` whose first line is `# rows of SPEC` holds row numbers of that source (what `doctor` writes for sources whose
images are no files).
"""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from otherview.data.index import Table, TableWriter, cached
from otherview.errors import BrokenImage, WrongRequest

ENDINGS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".avif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".pnm", ".tga", ".jp2",
))  # fmt: skip
ARRAYS = frozenset((".npy",))
"""Arrays count only in a folder that holds no images, where they are not somebody's side files."""
NO_LABEL = -1
ROWS_OF = "# rows of "


class Files:
    """Files named by a table, below a root; the column `label` is −1 where there is none."""

    def __init__(self, root: Path, table: Table) -> None:
        self.root, self.table = root, table

    def __len__(self) -> int:
        return len(self.table)

    def path(self, index: int) -> Path:
        """Where the file lies."""
        return self.root / self.table.name(index)

    def read(self, index: int) -> bytes:
        try:
            return self.path(index).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a null byte in a path
            raise BrokenImage(f"{self.name(index)}: {getattr(error, 'strerror', None) or error}") from error

    def label(self, index: int) -> int | None:
        label = self.table.number("label", index)
        return None if label == NO_LABEL else label

    def name(self, index: int) -> str:
        """The path below the root, printable whatever its bytes are."""
        return self.table.name(index).encode(errors="replace").decode()


def open_folder(root: Path) -> Files:
    """All images below a folder, in the order of a sorted walk."""
    files = Files(root, Table(cached("folder", root, lambda place: _index_folder(root, place))))
    if not len(files):
        raise WrongRequest(f"{root} holds no images: it needs files such as *.jpg or *.png, at any depth")
    return files


def _index_folder(root: Path, place: Path) -> list[Path]:
    folders: list[Path] = []
    for endings in (ENDINGS, ARRAYS):
        folders.clear()
        writer, classes, flat = TableWriter(place, "label"), {}, False
        for name in _walk(root, folders, endings):
            first, below, _ = name.partition(os.sep)
            flat = flat or not below
            writer.add(name, label=classes.setdefault(first, len(classes)) if below else NO_LABEL)
        if flat:  # images beside the class folders: there are no classes
            writer.replace("label", np.full(len(writer), NO_LABEL))
        writer.close()
        if len(writer):
            break
    return folders


def _walk(root: Path, folders: list[Path], endings: frozenset[str]) -> Iterator[str]:
    """Relative paths of images in sorted order; links are followed, each real folder once, so loops end."""
    seen: set[tuple[int, int]] = set()
    open_ends = [""]
    while open_ends:
        below = open_ends.pop()
        here = root / below
        try:
            state = here.stat()
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
            with os.scandir(here) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if not below:
                raise WrongRequest(f"{root} cannot be read ({error.strerror}): check its permissions") from error
            continue  # a folder that may not be read, or a link to nowhere
        folders.append(here)
        names = [(os.path.join(below, entry.name), _is_folder(entry)) for entry in entries]  # noqa: PTH118
        yield from (name for name, folder in names if not folder and os.path.splitext(name)[1].lower() in endings)  # noqa: PTH122
        open_ends += [name for name, folder in reversed(names) if folder]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def open_list(path: Path) -> Files:
    """The files that a .txt or .csv names."""
    rows = _csv_rows if path.suffix.lower() == ".csv" else _text_rows
    files = Files(path.parent, Table(cached("list", path, lambda place: _index_rows(path, rows(path), place))))
    if not len(files):
        raise WrongRequest(f"{path} names no images: it needs one path per line, relative to the file")
    return files


def _index_rows(path: Path, rows: Iterator[tuple[str, str]], place: Path) -> list[Path]:
    """Labels that are all whole numbers are taken as they are, others are numbered in sorted order."""
    writer, words = TableWriter(place, "label"), {}
    try:
        for name, label in rows:
            writer.add(name, label=words.setdefault(label, len(words)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise WrongRequest(f"{path} is no readable list ({error}): it must be text in UTF-8") from error
    known = [word for word in words if word]
    numbers = {word: int(word) for word in known} if all(map(str.isdecimal, known)) else None
    numbers = numbers or {word: number for number, word in enumerate(sorted(known))}
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
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if "path" not in (reader.fieldnames or ()):
            raise WrongRequest(
                f"{path} begins with {','.join(reader.fieldnames or ())!r}: its header must be path,label"
            )
        for row in reader:
            if row["path"]:
                yield row["path"], (row.get("label") or "").strip()


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
