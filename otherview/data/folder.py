"""Image files by path: those of a folder, anywhere below it, whose first level names the class; or a single one."""

import os
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from otherview.data import dicom
from otherview.data.foreign import ARRAYS, ENDINGS, MASKS, READS, count_masks, ending_of, is_litter
from otherview.data.index import NO_LABEL, FirstLevel, Indexed, Table, TableWriter
from otherview.data.index_cache import cached
from otherview.data.source import printable
from otherview.errors import BrokenImage, WrongRequest

LARGEST_IMAGE = 2**30
"""Bytes of one encoded image; more is a broken archive or a bomb."""


def is_saved(folder: Path) -> bool:
    """Whether datasets' save_to_disk wrote a folder: a dataset, or its splits."""
    whole = all((folder / name).is_file() for name in ("state.json", "dataset_info.json"))
    return whole or (folder / "dataset_dict.json").is_file()


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
        raise WrongRequest(
            f"{root} holds no images{_only(root, files)}: it needs files such as *.jpg or *.png, at any depth"
        )
    return files


def _only(root: Path, files: Files) -> str:
    """What a folder without images holds instead."""
    for folder, _, names in os.walk(root):
        if any(name.endswith((".parquet", ".arrow", ".tar")) for name in names):
            return f" of its own, but shards in {folder}: give that folder or a pattern, such as {folder}/train-*"
    beside = Counter({kind: count for kind, count in files.table.left_out.items() if count})
    if beside:
        return ", only " + ", ".join(f"{count:,} *{printable(kind)}" for kind, count in beside.most_common(3))
    litter = next((name for _, folders, names in os.walk(root) for name in [*names, *folders] if is_litter(name)), "")
    return f", only what systems and programs leave, such as {printable(litter)}" if litter else ""


def _index_folder(root: Path, place: Path) -> list[Path]:
    depends: list[Path] = []
    for endings in (ENDINGS, ARRAYS):
        depends.clear()
        writer, classes, others = TableWriter(place, "label"), FirstLevel(), Counter[str]()
        for names in walk(root, depends):
            kinds = [_kind(root, name) for name in names]
            images = [name for name, kind in zip(names, kinds, strict=True) if kind in endings]
            others.update(kind for kind in kinds if kind not in endings)
            others[MASKS] += count_masks({os.path.splitext(os.path.basename(name))[0] for name in images})  # noqa: PTH119, PTH122
            for name in images:
                writer.add(name, label=classes.label(name.replace(os.sep, "/")))
        writer.leave_out(others)
        classes.finish(writer)
        writer.close()
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


def walk(root: Path, depends: list[Path]) -> Iterator[list[str]]:
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
    return Files(path.parent, Table(cached("file", path, lambda place: _index_file(path, place))))


def _index_file(path: Path, place: Path) -> list[Path]:
    writer = TableWriter(place, "label")
    writer.add(path.name, label=NO_LABEL)
    writer.close()
    return [path]
