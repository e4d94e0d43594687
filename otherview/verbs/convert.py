"""An encoder from elsewhere becomes one of ours: every tensor accounted for, its licence kept.

otherview convert --from mae mae_pretrain_vit_base.pth --out mae.safetensors
"""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from otherview.errors import WrongRequest
from otherview.verbs.request import Request, check_written

if TYPE_CHECKING:
    from torch import Tensor

    from otherview.weights.convert import Converted

OriginName = Literal["official-siamese-im", "mae", "moco-v3", "timm"]


@dataclass(kw_only=True)
class Convert(Request):
    """Read an encoder from an official checkpoint of SiameseIM (pre-trained or fine-tuned), MAE or MoCo-v3, or from timm.

    Nothing in a file is executed: a pickle that asks for more than tensors and settings is refused.
    """

    source: Annotated[str, tyro.conf.Positional]
    """The checkpoint's file, or timm:NAME for a pre-trained model of timm's."""
    origin: Annotated[OriginName, tyro.conf.arg(name="from")]
    """Whose names the file uses."""
    out: Path
    """The encoder file to write: *.safetensors."""
    branch: Literal["online", "target"] = "online"
    """The trained encoder, or its moving average where the file has one."""
    heads: int | None = None
    """Attention heads, where the file does not say it and the width is none of 192, 384, 768, 1024, 1280."""
    partial: bool = False
    """Leave tensors that have no place in an encoder."""


def run(request: Convert) -> dict[str, Any]:
    """The verb."""
    if request.out.suffix != ".safetensors":
        raise WrongRequest(f"--out {request.out} must end in .safetensors")
    if request.heads is not None and request.heads < 1:
        raise WrongRequest(f"--heads {request.heads} is no number of heads: give 1 or more")
    if request.source.startswith("timm:") and request.origin != "timm":
        raise WrongRequest(f"{request.source} is a model of timm's: give --from timm")
    from otherview.weights.convert import ORIGINS, converted
    from otherview.weights.pretrained import save_encoder
    from otherview.weights.unpickle import read_file

    origin = ORIGINS[request.origin]
    if request.source.startswith("timm:"):
        content, more = _timm_model(request.source.removeprefix("timm:"))
    else:
        content, more = read_file(Path(request.source)), {}
    check_written(request.out, flag="--out")
    known = more.pop("heads", None)
    found = converted(
        content, origin, branch=request.branch, heads=request.heads or known, partial=request.partial, **more
    )  # fmt: skip
    worst = _difference(content, found, request)
    save_encoder(request.out, found.encoder, found.card)
    return {
        "loaded": len(found.loaded), "of": len(found.loaded) + len(found.left), "left": dict(Counter(found.left.values())),
        "difference": worst, "licence": found.card.licence_of_starting_weights,
        "encoder": found.card.encoder.model_dump(mode="json"), "out": str(request.out),
    }  # fmt: skip


def _timm_model(name: str) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Weights of a pre-trained model and what timm knows of it."""
    import timm
    from timm.models.vision_transformer import VisionTransformer

    try:
        model = timm.create_model(name, pretrained=True, num_classes=0)
    except (RuntimeError, OSError, ValueError) as error:
        raise WrongRequest(f"timm:{name} cannot be loaded: {str(error).splitlines()[0]}") from error
    if not isinstance(model, VisionTransformer):
        raise WrongRequest(
            f"timm:{name} is a {type(model).__name__}, no plain vision transformer: it cannot be converted"
        )
    wanted: Any = model.pretrained_cfg
    look = {"mean": wanted["mean"], "std": wanted["std"]}
    attention: Any = model.blocks[0].attn
    size = tuple(wanted["input_size"][1:])
    return model.state_dict(), {
        "heads": attention.num_heads, "look": look, "licence": wanted.get("license") or "unknown", "image_size": size,
    }  # fmt: skip


def _difference(content: "dict[str, Any]", found: "Converted", request: Convert) -> float:
    """The largest difference of the tokens from those of timm's vision transformer with the file's own position table.

    Raises RuntimeError where they differ: then the file means something else than its names say.
    """
    import torch

    from otherview.weights.convert import ORIGINS, twin_in_timm
    from otherview.weights.export import LARGEST_DIFFERENCE, difference, probe_images

    twin = twin_in_timm(content, ORIGINS[request.origin], found, branch=request.branch)
    images = probe_images(found.card, found.card.encoder.image_size)
    with torch.no_grad():
        worst = difference(twin.forward_features(images), found.encoder(images).sequence)
    if not worst <= LARGEST_DIFFERENCE:
        raise RuntimeError(f"{request.source}: tokens differ by {worst:.1e} from those of timm's vision transformer")
    return worst


def show(result: dict[str, Any]) -> Sequence[str]:
    """How many tensors were taken, why the others were not, and the licence."""
    if result["licence"].lower() != "apache-2.0":
        print(f"mind the licence: {result['licence']}", file=sys.stderr)
    had = result["encoder"]
    return [
        f"loaded {result['loaded']} of {result['of']} tensors",
        *(f"  {count} left: {reason}" for reason, count in result["left"].items()),
        f"{had['depth']} blocks, width {had['width']}, {had['heads']} heads, patch {had['patch_size']}, "
        f"{had['image_size'][0]}×{had['image_size'][1]} px, positions {had['positions']}",
        f"largest difference from timm's vision transformer on the same images: {result['difference']:.1e}",
        f"licence: {result['licence']}",
        result["out"],
    ]
