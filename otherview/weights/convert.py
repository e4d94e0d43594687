"""An encoder from elsewhere becomes one of ours: every tensor accounted for, its licence kept, nothing executed.

convert("mae_pretrain_vit_base.pth", out=Path("mae.safetensors"))
"""

from collections import Counter
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from otherview.errors import WrongRequest
from otherview.files import check_written
from otherview.signature import takes
from otherview.weights.checkpoints import read_checkpoint
from otherview.weights.formats import LARGEST_DIFFERENCE, difference, probe_images
from otherview.weights.origins import ORIGINS, Converted, converted, twin_in_timm
from otherview.weights.pretrained import save_encoder
from otherview.weights.settings import ConvertSettings


@takes(ConvertSettings)
def convert(settings: ConvertSettings) -> dict[str, Any]:
    """Read an encoder from somebody else's file and write ours; returns what was taken, what was left and the licence."""
    if settings.out.suffix != ".safetensors":
        raise WrongRequest(f"--out {settings.out} must end in .safetensors")
    if settings.heads is not None and settings.heads < 1:
        raise WrongRequest(f"--heads {settings.heads} is no number of heads: give 1 or more")
    if settings.source.startswith("timm:") and settings.origin not in ("auto", "timm"):
        raise WrongRequest(f"{settings.source} is a model of timm's: leave --from out")

    origin = ORIGINS.get("timm" if settings.source.startswith("timm:") else settings.origin)
    if settings.source.startswith("timm:"):
        content, more = _timm_model(settings.source.removeprefix("timm:"))
    else:
        content, more = read_checkpoint(Path(settings.source))
    check_written(settings.out, flag="--out")
    known = more.pop("heads", None)
    found = converted(
        content, origin, branch=settings.branch, heads=settings.heads or known, partial=settings.partial, **more
    )  # fmt: skip
    worst = _difference(found, settings)
    save_encoder(settings.out, found.encoder, found.card)
    return {
        "method": found.card.method, "branch": found.card.branch, "container": found.container,
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


def _difference(found: Converted, settings: ConvertSettings) -> float:
    """The largest difference of the tokens from those of timm's vision transformer with the file's own position table.

    Raises RuntimeError where they differ: then the file means something else than its names say.
    """
    twin = twin_in_timm(found)
    images = probe_images(found.card, found.card.encoder.image_size)
    with torch.no_grad():
        worst = difference(twin.forward_features(images), found.encoder(images).sequence)
    if not worst <= LARGEST_DIFFERENCE:
        raise RuntimeError(f"{settings.source}: tokens differ by {worst:.1e} from those of timm's vision transformer")
    return worst
