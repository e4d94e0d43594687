"""Tar shards in the WebDataset convention: KEY.jpg and KEY.cls side by side, read in place by offset."""

import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from otherview.data.folder import ENDINGS
from otherview.data.packed import Packed, cached, load_columns, save_columns
from otherview.errors import WrongRequest


def open_tar(files: Sequence[Path]) -> Packed:
    """All images of the shards, in the order of the files and of their members."""
    columns = load_columns([cached(file, "tar.npz", lambda path, file=file: _index(file, path)) for file in files])
    if not len(columns["offset"]):
        raise WrongRequest(f"{files[0]} holds no images: tar shards need members such as KEY.jpg and KEY.cls")
    return Packed(files, columns)


def _index(file: Path, path: Path) -> None:
    images: dict[str, tuple[int, int, str]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                key, ending = _split(member.name)
                if not member.isfile():
                    continue
                if ending in ENDINGS:
                    images[key] = (member.offset_data, member.size, member.name)
                elif ending == ".cls" and (content := archive.extractfile(member)):
                    labels[key] = int(content.read())
    except (tarfile.TarError, ValueError) as error:
        raise WrongRequest(
            f"{file} is no readable tar shard ({error}): it must be uncompressed, with KEY.cls numbers"
        ) from error
    offsets, sizes, names = zip(*images.values(), strict=True) if images else ((), (), ())
    save_columns(path, {
        "offset": np.asarray(offsets, np.int64),
        "size": np.asarray(sizes, np.int64),
        "label": np.asarray([labels.get(key, -1) for key in images], np.int64),
        "name": np.asarray(names, np.str_),
    })  # fmt: skip


def _split(name: str) -> tuple[str, str]:
    """WebDataset splits at the first dot of the file name."""
    path = PurePosixPath(name)
    stem, dot, rest = path.name.partition(".")
    return str(path.parent / stem), (dot + rest).lower()
