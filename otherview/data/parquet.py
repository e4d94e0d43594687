"""Parquet in the Hugging Face image convention: `image: {bytes, path}` and, where there is one, `label`.

Parquet cannot be read by row, so the encoded bytes are laid out once, one after another, in the user's cache.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from otherview.data.packed import Packed, cached, load_columns, save_columns
from otherview.errors import WrongRequest


def open_parquet(files: Sequence[Path]) -> Packed:
    """All rows of the files, in order."""
    blobs = [cached(file, "bytes", lambda path, file=file: _unpack(file, path)) for file in files]
    indexes = [cached(file, "parquet.npz", lambda path, file=file: _index(file, path)) for file in files]
    return Packed(blobs, load_columns(indexes))


def _batches(file: Path, columns: list[str]):
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            missing = "image" not in parquet.schema_arrow.names
            present = [name for name in columns if name.split(".")[0] in parquet.schema_arrow.names]
            if not missing:
                yield from parquet.iter_batches(1024, columns=present)
    except (pa.ArrowInvalid, OSError) as error:
        raise WrongRequest(f"{file} is no readable parquet file: {error}") from error
    if missing:
        raise WrongRequest(
            f"{file} has no column 'image': the Hugging Face image convention is image: {{bytes, path}}, label"
        )


def _unpack(file: Path, path: Path) -> None:
    with path.open("wb") as blob:
        for batch in _batches(file, ["image.bytes"]):
            for data in batch.column("image").field("bytes"):
                blob.write(data.as_py() or b"")


def _index(file: Path, path: Path) -> None:
    sizes: list[int] = []
    labels: list[int] = []
    for batch in _batches(file, ["image.bytes", "label"]):
        sizes += [len(data.as_buffer() or b"") for data in batch.column("image").field("bytes")]
        known = "label" in batch.schema.names
        labels += (
            [-1 if label is None else label for label in batch.column("label").to_pylist()]
            if known
            else [-1] * len(batch)
        )
    ends = np.cumsum(sizes, dtype=np.int64)
    save_columns(path, {
        "offset": ends - np.asarray(sizes, np.int64),
        "size": np.asarray(sizes, np.int64),
        "label": np.asarray(labels, np.int64),
        "name": np.asarray([f"{file.name}[{row}]" for row in range(len(sizes))], np.str_),
    })  # fmt: skip
