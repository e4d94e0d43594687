"""An encoder from elsewhere becomes one of ours: every tensor accounted for, its licence kept, nothing executed.

convert("mae_pretrain_vit_base.pth", origin="mae", out=Path("mae.safetensors"))

Of pickled files only tensors, plain containers, argparse.Namespace and NumPy's scalars are built, since official files hold
those; any other name in a file is refused.
"""

import argparse
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from otherview.errors import WrongRequest
from otherview.files import check_written
from otherview.signature import takes
from otherview.weights.formats import LARGEST_DIFFERENCE, difference, probe_images
from otherview.weights.origins import ORIGINS, Converted, converted, twin_in_timm
from otherview.weights.pretrained import save_encoder
from otherview.weights.settings import ConvertSettings

_SCALAR = np._core.multiarray.scalar  # pyright: ignore[reportAttributeAccessIssue]
ALLOWED: list[Any] = [
    argparse.Namespace,
    np.dtype,
    (_SCALAR, "numpy.core.multiarray.scalar"),  # its name before NumPy 2
    (_SCALAR, "numpy._core.multiarray.scalar"),
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)),
]


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
    try:
        with torch.serialization.safe_globals(ALLOWED):
            strange = get_unsafe_globals_in_checkpoint(str(path))
    except (
        Exception
    ):  # no file of torch.save, not a whole one, or one of before 2020, of which torch's own message says it
        strange = re.findall(r"GLOBAL (\w[\w.]*)", said)
    if strange:
        return f"{path} asks for {strange[0]}, which is no part of weights: nothing of it was executed, do not trust the file"
    return f"{path} cannot be read as weights: it is not whole, or no file of torch.save"


@takes(ConvertSettings)
def convert(settings: ConvertSettings) -> dict[str, Any]:
    """Read an encoder from somebody else's file and write ours; returns what was taken, what was left and the licence."""
    if settings.out.suffix != ".safetensors":
        raise WrongRequest(f"--out {settings.out} must end in .safetensors")
    if settings.heads is not None and settings.heads < 1:
        raise WrongRequest(f"--heads {settings.heads} is no number of heads: give 1 or more")
    if settings.source.startswith("timm:") and settings.origin != "timm":
        raise WrongRequest(f"{settings.source} is a model of timm's: give --from timm")

    origin = ORIGINS[settings.origin]
    if settings.source.startswith("timm:"):
        content, more = _timm_model(settings.source.removeprefix("timm:"))
    else:
        content, more = read_file(Path(settings.source)), {}
    check_written(settings.out, flag="--out")
    known = more.pop("heads", None)
    found = converted(
        content, origin, branch=settings.branch, heads=settings.heads or known, partial=settings.partial, **more
    )  # fmt: skip
    worst = _difference(content, found, settings)
    save_encoder(settings.out, found.encoder, found.card)
    return {
        "loaded": len(found.loaded), "of": len(found.loaded) + len(found.left), "left": dict(Counter(found.left.values())),
        "difference": worst, "licence": found.card.licence_of_starting_weights,
        "encoder": found.card.encoder.model_dump(mode="json"), "out": str(settings.out),
    }  # fmt: skip


def _timm_model(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights of a pre-trained model and what timm knows of it."""
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0)
    except (RuntimeError, OSError, ValueError) as error:
        raise WrongRequest(f"timm:{name} cannot be loaded: {str(error).splitlines()[0]}") from error
    if not isinstance(model, VisionTransformer):
        raise WrongRequest(
            f"timm:{name} is a {type(model).__name__}, no plain vision transformer: it cannot be converted"
        )
    wanted: Any = model.pretrained_cfg
    preprocessing = {"mean": wanted["mean"], "std": wanted["std"]}
    attention: Any = model.blocks[0].attn
    size = tuple(wanted["input_size"][1:])
    return model.state_dict(), {
        "heads": attention.num_heads, "preprocessing": preprocessing, "licence": wanted.get("license") or "unknown",
        "image_size": size,
    }  # fmt: skip


def _difference(content: dict[str, Any], found: Converted, settings: ConvertSettings) -> float:
    """The largest difference of the tokens from those of timm's vision transformer with the file's own position table.

    Raises RuntimeError where they differ: then the file means something else than its names say.
    """
    twin = twin_in_timm(content, ORIGINS[settings.origin], found, branch=settings.branch)
    images = probe_images(found.card, found.card.encoder.image_size)
    with torch.no_grad():
        worst = difference(twin.forward_features(images), found.encoder(images).sequence)
    if not worst <= LARGEST_DIFFERENCE:
        raise RuntimeError(f"{settings.source}: tokens differ by {worst:.1e} from those of timm's vision transformer")
    return worst
