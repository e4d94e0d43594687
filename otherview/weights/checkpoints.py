"""Files of weights: safetensors, what torch.save wrote, and folders of transformers. Nothing in a file is executed.

    content, known = read_checkpoint(Path("checkpoint.pth"))       # known: heads, preprocessing, where a folder says them

Of pickled files only tensors, plain containers, argparse.Namespace, paths and NumPy's scalars are built, since the files of
training programs hold those; any other name in a file is refused.
"""

import argparse
import re
import warnings
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.serialization import get_unsafe_globals_in_checkpoint

from otherview.errors import WrongRequest
from otherview.files import json_object
from otherview.weights.state_dicts import parts_of

PATHS = ("pathlib", "pathlib._local")
"""Where Python keeps paths, before 3.13 and since."""
_SCALAR = np._core.multiarray.scalar  # pyright: ignore[reportAttributeAccessIssue]
ALLOWED: list[Any] = [
    argparse.Namespace,
    np.dtype,
    (_SCALAR, "numpy.core.multiarray.scalar"),  # its name before NumPy 2
    (_SCALAR, "numpy._core.multiarray.scalar"),
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)),
    # A path is kept as words about it: one of another system cannot be made.
    *((PurePosixPath, f"{module}.{name}") for module in PATHS for name in ("PosixPath", "PurePosixPath")),
    *((PureWindowsPath, f"{module}.{name}") for module in PATHS for name in ("WindowsPath", "PureWindowsPath")),
]
WHOLE = ("torch.nn.", "timm.", "torchvision.models.", "transformers.")
"""Where classes of networks come from."""


def read_file(path: Path) -> dict[str, Any]:
    """The content of a checkpoint: *.safetensors, or what torch.save wrote; raises WrongRequest for anything else."""
    if not path.is_file():
        raise WrongRequest(f"{path} does not exist: give a checkpoint's file")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with torch.serialization.safe_globals(ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old kinds of pickles
            content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise WrongRequest(f"{path} is no readable safetensors file: {error}") from error
    except Exception as error:
        raise WrongRequest(_reason(path, str(error))) from error
    if not isinstance(content, dict):
        raise WrongRequest(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    return content


def _reason(path: Path, said: str) -> str:
    """Why a file cannot be read; its pickle is taken apart without being followed."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if start.startswith(b"version https://git-lfs"):
        return f"{path} is a pointer of git LFS, not the weights: fetch them with `git lfs pull`"
    if start.startswith(b"<"):
        return f"{path} is a web page, not the weights: download the file itself"
    try:
        with torch.serialization.safe_globals(ALLOWED):
            strange = get_unsafe_globals_in_checkpoint(str(path))
    except (
        Exception
    ):  # no file of torch.save, not a whole one, or one of before 2020, of which torch's own message says it
        strange = re.findall(r"GLOBAL (\w[\w.]*)", said)
    if model := min(
        (name for name in strange if name.startswith(WHOLE)),
        key=lambda name: (".models." not in name, name.startswith("torch."), name),
        default="",
    ):
        return (
            f"{path} holds a whole model ({model} and more), which only its own program could build: nothing of it was "
            "executed; save model.state_dict() instead"
        )
    if strange:
        return f"{path} asks for {strange[0]}, which is no part of weights: nothing of it was executed, do not trust the file"
    return f"{path} cannot be read as weights: it is not whole, or no file of torch.save"


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of a file or of a folder of transformers, and what the folder says beside the weights."""
    if not path.is_dir():
        beside = json_object(path.parent / "config.json") if path.suffix in (".safetensors", ".bin") else {}
        return read_file(path), _known(beside, {}, path) if "num_attention_heads" in beside else {}
    config, shown = (json_object(path / name) for name in ("config.json", "preprocessor_config.json"))
    files = sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
    if not files or not config:
        raise WrongRequest(f"{path} is no folder of transformers: it needs config.json and model.safetensors")
    content = {name: value for file in files for name, value in read_file(file).items()}
    return content, _known(config, shown, path)


PLAIN, LARGEST_EPS = "gelu", 1e-5


def _known(config: dict[str, Any], shown: dict[str, Any], path: Path) -> dict[str, Any]:
    """What a config says that tensors do not; raises WrongRequest for what a plain vision transformer does not compute."""
    if has := parts_of(name for name, value in config.items() if value):
        raise WrongRequest(f"{path} has {' and '.join(has)}, which no plain vision transformer has: take other weights")
    activation, eps = config.get("hidden_act", PLAIN), config.get("layer_norm_eps", 0.0)
    if activation != PLAIN or not isinstance(eps, float | int) or eps > LARGEST_EPS:
        raise WrongRequest(
            f"the config of {path} asks for hidden_act {activation} and layer_norm_eps {eps}: encoders here have gelu and 1e-6"
        )
    known: dict[str, Any] = {"heads": config["num_attention_heads"]} if "num_attention_heads" in config else {}
    if shown.get("image_mean") and shown.get("image_std"):
        known["preprocessing"] = {"mean": shown["image_mean"], "std": shown["image_std"]}
    return known
