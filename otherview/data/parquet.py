"""Images in the rows of parquet and Arrow files, such as datasets of the Hugging Face hub.

    open_rows(Path("train.parquet"))                        # images and labels are found by metadata, name or type
    open_rows(Path("train.parquet"), "img:coarse_label")    # or named: IMAGES, IMAGES:LABELS or :LABELS
    open_saved(Path("saved/"))                              # what datasets' save_to_disk wrote

An image is bytes, {bytes, path}, or the path of a file beside. Neither format can be read by row, so the encoded bytes are
laid out once, one after another, in the user's cache.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from otherview.data.archives import Packed, leads_outside
from otherview.data.folder import LARGEST_IMAGE
from otherview.data.index import Table, TableWriter
from otherview.data.index_cache import cached
from otherview.data.labels import Labels
from otherview.data.source import Source, joined, printable
from otherview.errors import WrongRequest
from otherview.files import json_object

BLOB = "images.blob"
LONGEST_NAME = 1024
"""Letters of a path; images as text are none."""
AT_ONCE = 1024
"""Rows."""
IMAGES = ("image", "img", "images", "picture", "photo", "pixel_values", "jpg", "png")
LABELS = ("label", "labels", "class", "class_id", "class_name", "category", "target", "fine_label", "cls", "y")
"""Names that columns have; the first that is there is taken."""
SHOWN = 10
LONGEST_PATH = 120
"""Letters of a path that are shown."""


def open_rows(file: Path, columns: str = "") -> Packed:
    """The rows of a file that hold an image, in order; `columns` is IMAGES, IMAGES:LABELS or :LABELS."""
    place = cached(f"parquet:{columns}", file, partial(_lay_out, file, columns))
    packed = _Rows(file, place)
    if not len(packed):
        raise WrongRequest(f"{file} has no rows: give a file with images")
    return packed


def open_saved(folder: Path) -> Source:
    """A dataset that save_to_disk wrote; raises WrongRequest for a folder of several splits."""
    state = json_object(folder / "state.json")
    if not state:
        splits = [str(split) for split in json_object(folder / "dataset_dict.json").get("splits", ())]
        raise WrongRequest(
            f"{folder} holds the splits {', '.join(splits)}: give one, {folder / (splits or ['train'])[0]}"
        )
    listed = [one for one in state.get("_data_files", ()) if isinstance(one, dict)]
    names = [str(one.get("filename")) for one in listed] or sorted(path.name for path in folder.glob("*.arrow"))
    if not names or any(leads_outside(name) for name in names):
        raise WrongRequest(f"{folder} names no *.arrow files of its own in state.json: save the dataset again")
    return joined([open_rows(folder / name) for name in names])


class _Rows(Packed):
    """Named by the file, read from the cache."""

    def __init__(self, file: Path, place: Path) -> None:
        super().__init__(place / BLOB, Table(place))
        self.parquet = file

    def depends(self) -> list[Path]:
        return [self.parquet]

    def name(self, index: int) -> str:
        return printable(f"{self.parquet.name}[{self.table.name(index)}]")


class _Content(NamedTuple):
    schema: Any
    batches: Callable[[list[str]], Iterator[Any]]
    """Of these columns."""


def _lay_out(file: Path, columns: str, place: Path) -> list[Path]:
    import pyarrow as pa

    writer, labels = TableWriter(place, "offset", "size", "label"), Labels()
    lacking = _Lacking()
    try:
        with _content(file) as content, (place / BLOB).open("wb") as blob:
            chosen = _choose(file, content.schema, columns)
            row = 0
            for batch in content.batches(chosen.read):
                for image, label in _images(batch, chosen, file.parent, lacking):
                    if image is not None:
                        writer.add(str(row), offset=blob.tell(), size=len(image), label=labels.add(label))
                        blob.write(image)
                    row += 1
    except (pa.ArrowException, OSError) as error:
        raise WrongRequest(f"{file} is no readable {file.suffix[1:]} file: {error}") from error
    if lacking.rows and not len(writer):
        raise WrongRequest(f"no row of {file} holds an image: {lacking.said()}")
    if lacking.rows:
        writer.note(f"{lacking.rows:,} rows of {file.name} are left out: {lacking.said()}")
    if chosen.said:
        writer.note(f"{file.name}: {chosen.said}")
    labels.finish(writer, names=chosen.names)
    writer.close()
    return [file, *([file.parent] if lacking.rows else [])]


@contextmanager
def _content(file: Path) -> Iterator[_Content]:
    """Of a parquet file, or of Arrow's formats for files and for streams."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.suffix.lower() == ".parquet":
        with pq.ParquetFile(file) as parquet:
            yield _Content(parquet.schema_arrow, lambda columns: parquet.iter_batches(AT_ONCE, columns=columns))
        return
    with pa.memory_map(str(file)) as mapped:
        try:
            opened = pa.ipc.open_file(mapped)
            batches = (opened.get_batch(number) for number in range(opened.num_record_batches))
        except pa.ArrowInvalid:
            mapped.seek(0)
            opened = pa.ipc.open_stream(mapped)
            batches = iter(opened)
        yield _Content(opened.schema, lambda columns: (batch.select(columns) for batch in batches))


class _Choice(NamedTuple):
    image: str
    label: str | None
    names: list[str] | None
    """Of the classes, where the hub's metadata has them."""
    said: str

    @property
    def read(self) -> list[str]:
        return [name for name in (self.image, self.label) if name]


def _choose(file: Path, schema: Any, columns: str) -> _Choice:
    """By what is asked for, else by the hub's metadata, by name, by type."""
    wanted_image, _, wanted_label = columns.partition(":")
    for wanted in filter(None, (wanted_image, wanted_label)):
        if wanted not in schema.names:
            raise WrongRequest(f"{file} has no column {wanted!r}: there are {_list(schema.names)}")
    features = _features(schema)
    image = wanted_image or _image_column(file, schema, features)
    typed = [
        name for name, feature in features.items() if feature.get("_type") == "ClassLabel" and name in schema.names
    ]
    named = [name for name in LABELS if name in schema.names and name != image and _is_label(schema.field(name).type)]
    label = wanted_label or next((name for name in [*named, *typed] if not typed or name in typed), None)
    others = [name for name in typed if name != label]
    said = f"the labels are {label}, not {_list(others)}; {file.name}::{others[0]} takes those" if others else ""
    names = features.get(label, {}).get("names") if label else None
    return _Choice(image, label, [str(name) for name in names] if isinstance(names, list) else None, said)


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """What Hugging Face's own metadata says of the columns."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _image_column(file: Path, schema: Any, features: dict[str, dict[str, Any]]) -> str:
    said = [name for name, feature in features.items() if feature.get("_type") == "Image" and name in schema.names]
    fitting = [name for name in schema.names if _is_image(schema.field(name).type)]
    known = [name for name in IMAGES if name in fitting]
    paths = [
        name for name in (*IMAGES, "path", "file_name", "file_path", "filename", "image_path") if name in schema.names
    ]
    for found in (said, known, fitting, paths):
        if len(found) == 1 or (found and found is not fitting):
            return found[0]
    held = ", ".join(f"{name} ({schema.field(name).type})" for name in schema.names[:SHOWN])
    if fitting:
        raise WrongRequest(f"{file} has several columns of images, {_list(fitting)}: name one, {file}:{fitting[0]}")
    raise WrongRequest(
        f"{file} has no column of images: it needs bytes, or {{bytes, path}} as the Hugging Face hub has them; its columns "
        f"are {held}"
    )


def _list(names: list[str]) -> str:
    return ", ".join(map(printable, names[:SHOWN]))


def _is_image(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_label(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _is_label(kind.value_type)
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return texts or lists or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


class _Lacking:
    """Rows without an image, and why."""

    def __init__(self) -> None:
        self.rows = 0
        self.path = ""

    def said(self) -> str:
        if not self.path:
            return "they hold no bytes and no path"
        shown = printable(self.path if len(self.path) < LONGEST_PATH else self.path[:LONGEST_PATH] + "…")
        return f"there are no bytes, and {shown} does not lie beside the file; save the images into the file"


def _images(batch: Any, chosen: _Choice, folder: Path, lacking: _Lacking) -> Iterator[tuple[bytes | None, Any]]:
    """Encoded images, None where there is none, and labels as they stand there."""
    labels = batch.column(chosen.label) if chosen.label else None
    for row, value in enumerate(batch.column(chosen.image)):
        image = _bytes_of(value.as_py(), folder, lacking)
        lacking.rows += image is None
        yield image, labels[row].as_py() if labels is not None else None


def _bytes_of(value: Any, folder: Path, lacking: _Lacking) -> bytes | None:
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, value)
    if isinstance(data, bytes):
        return data
    if isinstance(path, str):
        name = path.replace("\\", "/")
        for below in (name, name.rpartition("/")[2]):
            file = folder / below
            if (
                len(below) < LONGEST_NAME
                and not leads_outside(below)
                and file.is_file()
                and file.stat().st_size <= LARGEST_IMAGE
            ):
                return file.read_bytes()
        lacking.path = lacking.path or path
    return None
