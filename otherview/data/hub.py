"""Datasets of a hub: `hf:NAME[:SPLIT[:COLUMNS]]` and `torchvision:NAME[:SPLIT]`.

hf              parquet files of a dataset on the Hugging Face hub (HF_HUB_OFFLINE=1: what was downloaded before)
torchvision     a dataset of torchvision by the name of its class; it lies in the user's cache
"""

import inspect
import io
from pathlib import Path
from typing import Any

from otherview.data.index_cache import cache_folder
from otherview.data.parquet import open_rows
from otherview.data.source import Source, joined
from otherview.errors import BrokenImage, WrongRequest

NAMES = ("{split}-*.parquet", "{split}.parquet", "{split}/*.parquet")
"""How a split's files are called."""


def open_hugging_face(name: str, split: str, columns: str = "") -> Source:
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
            return joined([open_rows(path, columns) for path in found])
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
