"""Datasets of a hub: parquet on disk, `hf:NAME[:SPLIT]` and `torchvision:NAME[:SPLIT]`.

parquet         the Hugging Face image convention: `image: {bytes, path}` and, where there is one, `label`. Parquet cannot be
                read by row, so the encoded bytes are laid out once, one after another, in the user's cache
hf              parquet files of a dataset on the Hugging Face hub (HF_HUB_OFFLINE=1: what was downloaded before)
torchvision     a dataset of torchvision by the name of its class; it lies in the user's cache
"""

import inspect
import io
import json
from pathlib import Path
from typing import Any

from otherview.data.archives import Packed
from otherview.data.index import NO_LABEL, Table, TableWriter, cache_folder, cached
from otherview.data.source import Source, joined, printable
from otherview.errors import BrokenImage, WrongRequest

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

    def depends(self) -> list[Path]:
        return [self.parquet]

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


NAMES = ("{split}-*.parquet", "{split}.parquet", "{split}/*.parquet")
"""How a split's files are called."""


def open_hugging_face(name: str, split: str) -> Source:
    """The rows of a split; raises WrongRequest where the hub or the split is not to be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [f"{start}{name}" for name in NAMES for start in ("", "**/")]
    patterns = [pattern.format(split=split) for pattern in patterns]
    for revision in ("main", "refs/convert/parquet"):  # the hub converts what its owners did not
        try:
            folder = Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=patterns))
        except LocalEntryNotFoundError:
            continue  # offline, and this revision was never downloaded
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise WrongRequest(f"hf:{name} cannot be had ({str(error).splitlines()[0]}): check the name") from error
        found = sorted({path for pattern in patterns for path in folder.glob(pattern)})
        places = sorted({str(path.parent.relative_to(folder)) for path in found})
        if len(places) > 1:
            raise WrongRequest(
                f"hf:{name}:{split} has several configurations ({', '.join(places[:5])}): give one as a folder, "
                f"{folder}/{places[0]}"
            )
        if found:
            return joined([open_parquet(path) for path in found])
    raise WrongRequest(
        f"hf:{name}:{split} has no parquet files here or on the hub: check name and split, and that there is a network"
    )


def open_torchvision(name: str, split: str) -> "TorchvisionImages":
    """A dataset of torchvision; raises WrongRequest for an unknown name or split."""
    from torchvision import datasets

    make = getattr(datasets, name, None)
    if not inspect.isclass(make) or name not in datasets.__all__:
        raise WrongRequest(f"torchvision has no dataset {name!r}: its classes are named like CIFAR10 or Flowers102")
    asked = inspect.signature(make).parameters
    options: dict[str, Any] = {"root": str(cache_folder() / "torchvision")} if "root" in asked else {}
    if "download" in asked:
        options["download"] = True
    if "train" in asked:
        if split not in ("train", "test"):
            raise WrongRequest(f"torchvision:{name} has the splits train and test, not {split!r}")
        options["train"] = split == "train"
    elif "split" in asked:
        options["split"] = split
    try:
        return TorchvisionImages(make(**options), f"{name}:{split}")
    except (RuntimeError, ValueError, OSError, TypeError) as error:
        raise WrongRequest(f"torchvision:{name}:{split} cannot be had ({str(error).splitlines()[0]})") from error


PNG_MODES = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")


class TorchvisionImages:
    """A dataset of (image, class) pairs."""

    def __init__(self, dataset: Any, title: str) -> None:
        self.dataset, self.title = dataset, title
        names = getattr(dataset, "classes", None)
        self.classes = [str(name) for name in names] if names else None

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> bytes:
        """The image as torchvision gives it, written as PNG or PPM, which keep every pixel."""
        written = io.BytesIO()
        try:
            image = self.dataset[index][0]
            if image.mode not in PNG_MODES:
                image = image.convert("RGB")
            image.save(written, "PPM" if image.mode in ("L", "RGB") else "PNG", compress_level=1)
        except (OSError, ValueError, SyntaxError) as error:  # many datasets decode no sooner than here
            raise BrokenImage(f"{self.name(index)}: {error}") from error
        return written.getvalue()

    def label(self, index: int) -> int | None:
        labels = getattr(self.dataset, "targets", getattr(self.dataset, "_labels", None))
        label = labels[index] if labels is not None else self.dataset[index][1]
        return int(label) if isinstance(label, int) or getattr(label, "ndim", 1) == 0 else None

    def name(self, index: int) -> str:
        return f"{self.title}[{index}]"
