"""Parquet in the Hugging Face image convention: `image: {bytes, path}` and, where there is one, `label`.

Parquet cannot be read by row, so the encoded bytes are laid out once, one after another, in the user's cache.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from otherview.data.files import NO_LABEL
from otherview.data.index import Table, TableWriter, cached
from otherview.data.packed import Packed
from otherview.errors import WrongRequest

BLOB = "images.blob"


def open_parquet(file: Path) -> Packed:
    """All rows of a file, in order."""
    place = cached("parquet", file, lambda place: _lay_out(file, place))
    packed = _Rows(file, place)
    if not len(packed):
        raise WrongRequest(f"{file} has no rows: give a parquet file with images")
    return packed


class _Rows(Packed):
    """Named by the parquet file, read from the cache."""

    def __init__(self, parquet: Path, place: Path) -> None:
        super().__init__(place / BLOB, Table(place))
        self.parquet = parquet

    def name(self, index: int) -> str:
        return f"{self.parquet.name}[{self.table.name(index)}]"


def _batches(file: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            if "image" not in names:
                raise WrongRequest(
                    f"{file} has no column 'image': the Hugging Face image convention is image: {{bytes, path}}, label"
                )
            columns = ["image.bytes", *(["label"] if "label" in names else [])]
            yield from parquet.iter_batches(1024, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise WrongRequest(f"{file} is no readable parquet file: {error}") from error


def _lay_out(file: Path, place: Path) -> list[Path]:
    writer = TableWriter(place, "offset", "size", "label")
    with (place / BLOB).open("wb") as blob:
        for batch in _batches(file):
            labels = batch.column("label").to_pylist() if "label" in batch.schema.names else [None] * len(batch)
            for data, label in zip(batch.column("image").field("bytes"), labels, strict=True):
                content = data.as_py() or b""
                known = NO_LABEL if label is None else label
                writer.add(str(len(writer)), offset=blob.tell(), size=len(content), label=known)
                blob.write(content)
    writer.close()
    return [file]
