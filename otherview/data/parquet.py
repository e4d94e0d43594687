"""Parquet in the Hugging Face image convention: `image: {bytes, path}` and, where there is one, `label`.

Parquet cannot be read by row, so the encoded bytes are laid out once, one after another, in the user's cache.
"""

import json
from pathlib import Path
from typing import Any

from otherview.data.index import NO_LABEL, Table, TableWriter, cached
from otherview.data.packed import Packed
from otherview.data.source import printable
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
        return printable(f"{self.parquet.name}[{self.table.name(index)}]")


def _lay_out(file: Path, place: Path) -> list[Path]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = TableWriter(place, "offset", "size", "label")
    try:
        with pq.ParquetFile(file) as parquet, (place / BLOB).open("wb") as blob:
            names = _class_names(parquet.schema_arrow)
            for batch in parquet.iter_batches(1024, columns=_columns(file, parquet.schema_arrow)):
                for content, label in zip(*_rows(batch), strict=True):
                    writer.add(str(len(writer)), offset=blob.tell(), size=len(content), label=label)
                    blob.write(content)
    except (pa.ArrowException, OSError) as error:
        raise WrongRequest(f"{file} is no readable parquet file: {error}") from error
    if names:
        writer.name_classes(names)
    writer.close()
    return [file]


def _columns(file: Path, schema: Any) -> list[str]:
    """The columns to read; raises WrongRequest where they are not those of the convention."""
    import pyarrow as pa

    image = schema.field("image").type if "image" in schema.names else None
    if image is None or not pa.types.is_struct(image) or image.get_field_index("bytes") < 0:
        raise WrongRequest(
            f"{file} has no column 'image' with bytes: the Hugging Face convention is image: {{bytes, path}}, label"
        )
    labelled = "label" in schema.names
    if labelled and not pa.types.is_integer(schema.field("label").type):
        raise WrongRequest(f"{file} has labels of type {schema.field('label').type}: they must be whole numbers")
    return ["image.bytes", *(["label"] if labelled else [])]


def _rows(batch: Any) -> tuple[list[bytes], list[int]]:
    """Encoded images (empty where there is none) and labels (−1 where there is none)."""
    images = [data.as_py() or b"" for data in batch.column("image").field("bytes")]
    labels = batch.column("label").to_pylist() if "label" in batch.schema.names else [None] * len(batch)
    return images, [NO_LABEL if label is None or label < 0 else label for label in labels]


def _class_names(schema: Any) -> list[str] | None:
    """The names that Hugging Face's own metadata gives the labels."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return [str(name) for name in features["label"]["names"]]
    except (KeyError, TypeError, ValueError):
        return None
