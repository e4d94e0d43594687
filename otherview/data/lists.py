"""Lists of images as people write them: a path a line, or a table with a label.

    list.txt    one path per line, relative to the list; behind it may stand a label: `cat/1.jpg 3`, `cat/1.jpg<tab>cat`
    list.csv    a table (*.csv, *.tsv) with a line of headings; commas, semicolons or tabs, UTF-8 or UTF-16
    list.jsonl  an object per line; in a folder of images, metadata.jsonl or metadata.csv with labels stands for the folder

A column is chosen by its heading, else by what it holds; `list.csv:PATHS:LABELS` names them. Several columns of zeros
with a single 1 in each row are one label. A `.txt` whose first line is `# rows of SPEC` holds row numbers of that source
(what `doctor` writes for sources whose images are no files).
"""

import codecs
import csv
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from otherview.data.folder import Files, walk
from otherview.data.foreign import ARRAYS, ENDINGS, READS, ending_of, is_litter
from otherview.data.index import Table, TableWriter
from otherview.data.index_cache import cached
from otherview.data.labels import Labels, hot_place
from otherview.data.source import printable, spread
from otherview.data.spelling import LOOKED_AT, meant
from otherview.errors import WrongRequest

ROWS_OF = "# rows of "
PATHS = (
    "path", "filepath", "file_path", "filename", "file_name", "image_path", "img_path", "image", "img", "file", "images",
    "image_name", "img_name", "name", "image_id", "img_id", "id", "id_code",
)  # fmt: skip
LABELS = ("label", "labels", "class", "class_name", "classname", "class_id", "category", "target")
"""Headings that people give, in small letters; the first that is there is taken."""
READABLE = "|".join(sorted((re.escape(ending) for ending in ENDINGS | ARRAYS), key=len, reverse=True))
WITH_LABEL = re.compile(rf"(.*?(?:{READABLE}))(?:\s*[\t,;]\s*|\s+)(\S.*)", re.IGNORECASE)
SAMPLE = 50
"""Rows that are looked at to tell the columns apart."""


def open_list(path: Path, columns: str = "") -> Files:
    """The files that a list names; `columns` is PATHS, PATHS:LABELS or :LABELS of a table."""
    build = f"list{READS}:{columns}"
    files = Files(path.parent, Table(cached(build, path, lambda place: _index(path, columns, place))))
    if not len(files):
        raise WrongRequest(f"{path} names no images: it needs one path per line, relative to the file")
    return files


def _index(path: Path, columns: str, place: Path) -> list[Path]:
    writer, labels = TableWriter(place, "label"), Labels()
    try:
        rows = _rows(path, columns)
        names, numbers = list[str](), list[int]()
        for name, label in rows.rows:
            if not _is_litter(name):
                names.append(name)
                numbers.append(labels.add(label))
    except (UnicodeError, csv.Error, ValueError, IndexError, AttributeError, RecursionError) as error:
        raise WrongRequest(
            f"{path} is no readable list ({error}): save it as text in UTF-8, a path in every line"
        ) from error
    found = meant(path.parent, names, endings=path.suffix.lower() != ".txt")
    for name, number in zip(found.names, numbers, strict=True):
        writer.add(name, label=number)
    for line in filter(None, (rows.said, found.said, _unnamed(path, found.names))):
        writer.note(f"{path.name}: {line}")
    labels.finish(writer)
    writer.close()
    sampled = {(path.parent / names[place]).parent for place in spread(len(names), LOOKED_AT).tolist()}
    return [path, *found.depends, *sorted(sampled)]


def _unnamed(path: Path, names: Sequence[str]) -> str:
    """What a file that stands for its folder says nothing of."""
    if path.stem != "metadata":
        return ""
    there = sum(ending_of(name) in ENDINGS for some in walk(path.parent, []) for name in some)
    return f"{there - len(names):,} images of the folder are not named in it" if there > len(names) else ""


def _is_litter(name: str) -> bool:
    """By every folder of a name below the list, by the file alone of an absolute one."""
    parts = name.replace("\\", "/").split("/")
    parts = parts[-1:] if parts[0] in ("", "..") or parts[0].endswith(":") else parts
    return any(is_litter(part) for part in parts if part not in ("", ".", ".."))


def _opened(path: Path) -> TextIO:
    """In UTF-8, with or without its mark, or in UTF-16 with one; bytes that are neither survive."""
    with path.open("rb") as file:
        start = file.read(2)
    wide = start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return path.open(encoding="utf-16" if wide else "utf-8-sig", errors="surrogateescape", newline="")


class _Rows(NamedTuple):
    """Paths and labels, and what a person should know of how they were found."""

    rows: Iterator[tuple[str, object]]
    said: str


def _rows(path: Path, columns: str) -> _Rows:
    match path.suffix.lower():
        case ".txt":
            return _Rows(_rows_of_lines(path), "")
        case ".jsonl":
            return _rows_of_objects(path, columns)
    return _rows_of_table(path, columns)


def labelled_by(folder: Path) -> Path | None:
    """The file beside a folder's images that names and labels them, where there is one."""
    for path in (folder / "metadata.jsonl", folder / "metadata.csv"):
        if path.is_file():
            try:
                heading = _objects(path)[0] if path.suffix == ".jsonl" else _headings(path)
            except (UnicodeError, csv.Error, ValueError, IndexError, RecursionError):
                continue
            small = {str(word).lower() for word in heading}
            if "file_name" in small and small.intersection(LABELS):
                return path
    return None


def _headings(path: Path) -> list[str]:
    with _opened(path) as file:
        first = file.readline()
    return [word.strip() for word in next(csv.reader([first], delimiter=_delimiter(first)), [])]


def _objects(path: Path, count: int = 1) -> list[dict[str, object]]:
    """The first objects of a file with one per line."""
    with _opened(path) as file:
        lines = (line for line in file if line.strip())
        found = [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]
    if not all(isinstance(one, dict) for one in found):
        raise ValueError("a line is no object")
    return found


def _rows_of_objects(path: Path, columns: str) -> _Rows:
    heading = list(dict.fromkeys(word for one in _objects(path, SAMPLE) for word in one))
    rows = [[str(one.get(word, "")) for word in heading] for one in _objects(path, SAMPLE)]
    chosen = _chosen(path, heading, rows, columns, headed=True)

    def cells() -> Iterator[tuple[str, object]]:
        with _opened(path) as file:
            for line in filter(str.strip, file):
                one = json.loads(line)
                label = one.get(heading[chosen.label]) if chosen.label is not None else None
                if chosen.hot:
                    label = chosen.label_of([one.get(heading[index], "") for index in chosen.hot])
                yield str(one.get(heading[chosen.path], "")), label

    return _Rows(cells(), chosen.said)


def _rows_of_lines(path: Path) -> Iterator[tuple[str, object]]:
    with _opened(path) as file:
        for line in file:
            text = line.rstrip("\r\n")
            bare = text.rstrip()
            if ending_of(bare) in ENDINGS | ARRAYS:
                yield bare, None
            elif (found := WITH_LABEL.fullmatch(bare)) is not None:
                yield found[1], found[2]
            elif bare and not bare.startswith("#"):
                yield text, None  # a name without an ending may end with a blank


def _rows_of_table(path: Path, columns: str) -> _Rows:
    with _opened(path) as file:
        sample = file.read(2**16)
        delimiter = _delimiter(sample)
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter)
        head = [row for row, _ in zip((row for row in reader if row), range(SAMPLE + 1), strict=False)]
    if not head:
        return _Rows(iter(()), "")
    headed = ending_of(_image_cell(head[0])) not in ENDINGS | ARRAYS
    chosen = _chosen(path, [word.strip() for word in head[0]], head[1:] if headed else head, columns, headed=headed)
    return _Rows(_cells(path, delimiter, chosen, skip=headed), chosen.said)


def _delimiter(sample: str) -> str:
    """What divides the first line most often."""
    first = next((line for line in sample.splitlines() if line.strip()), "")
    return max(",;\t|", key=first.count)


def _image_cell(row: Sequence[str]) -> str:
    """The cell of a row that names an image by its ending, if there is one."""
    return next((cell.strip() for cell in row if ending_of(cell.strip()) in ENDINGS | ARRAYS), "")


class _Chosen(NamedTuple):
    path: int
    label: int | None
    hot: list[int]
    """Columns of a label that is written as zeros and a 1."""
    heading: list[str]
    said: str

    def label_of(self, cells: Sequence[object]) -> object:
        """The name of the column with the only 1; the cells themselves, which are no label, where there is none."""
        place = hot_place(cells)
        return list(cells) if place is None else self.heading[self.hot[place]]


def _chosen(path: Path, heading: list[str], rows: list[list[str]], columns: str, *, headed: bool) -> _Chosen:
    wanted_path, _, wanted_label = columns.partition(":")
    small = [word.lower() for word in heading] if headed else [""] * len(heading)
    where = _named(path, heading, wanted_path) if wanted_path else _path_column(path, small, heading, rows)
    others = [index for index in range(len(heading)) if index != where and (heading[index] or not headed)]
    if wanted_label:
        return _Chosen(where, _named(path, heading, wanted_label), [], heading, "")
    known = next((small.index(word) for word in LABELS if word in small and small.index(word) != where), None)
    if known is not None:
        return _Chosen(where, known, [], heading, "")
    if len(others) == 1:
        return _Chosen(where, others[0], [], heading, f"the column {heading[others[0]]} is the label" if headed else "")
    hot = [row for row in rows if hot_place([row[index] if index < len(row) else "" for index in others]) is not None]
    if len(others) > 1 and len(hot) == len(rows) > 0:
        names = (
            heading
            if headed
            else [str(others.index(index)) if index in others else "" for index in range(len(heading))]
        )
        return _Chosen(where, None, others, names, f"a 1 in {len(others)} columns is the label")
    unread = ", ".join(heading[index] for index in others[:8])
    more = f"its columns {unread} are not read; {path.name}::COLUMN takes the labels from one"
    return _Chosen(where, None, [], heading, more if others and headed else "")


def _named(path: Path, heading: list[str], wanted: str) -> int:
    if wanted not in heading:
        raise WrongRequest(f"{path} has no column {wanted!r}: there are {', '.join(map(printable, heading))}")
    return heading.index(wanted)


def _path_column(path: Path, small: list[str], heading: list[str], rows: list[list[str]]) -> int:
    """By its heading, else the first whose cells end like images."""
    if "path" in small:
        return small.index("path")
    for index in range(len(heading)):
        cells = [row[index].strip() for row in rows if index < len(row)]
        if cells and all(ending_of(cell) in ENDINGS | ARRAYS for cell in cells if cell):
            return index
    for word in PATHS:
        if word in small:
            return small.index(word)
    raise WrongRequest(
        f"{path} begins with {printable(','.join(heading))!r}: its header must be path,label, or {path.name}:COLUMN must "
        "name the column of paths"
    )


def _cells(path: Path, delimiter: str, chosen: _Chosen, *, skip: bool) -> Iterator[tuple[str, object]]:
    def cell(row: list[str], index: int | None) -> str:
        return row[index] if index is not None and index < len(row) else ""

    with _opened(path) as file:
        rows = (row for row in csv.reader(file, delimiter=delimiter) if row)
        if skip:
            next(rows, None)
        for row in rows:
            label = (
                chosen.label_of([cell(row, index) for index in chosen.hot]) if chosen.hot else cell(row, chosen.label)
            )
            yield cell(row, chosen.path).rstrip(), label


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
