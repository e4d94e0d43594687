"""An encoder from elsewhere becomes one of ours: every tensor accounted for, its licence kept, nothing executed.

convert("mae_pretrain_vit_base.pth", out=Path("mae.safetensors"))
is_foreign("timm:vit_small_patch16_224.augreg_in21k")     # so are hf:ORG/NAME, mae.pth and a folder of transformers
found, _ = foreign("hf:facebook/dinov2-small")
found.encoder, found.card                                 # the licence stands on the card
"""

from collections import Counter
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import ModelCard, snapshot_download
from safetensors import SafetensorError, safe_open
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from otherview.errors import WrongRequest
from otherview.files import check_written, json_object
from otherview.signature import takes
from otherview.weights.checkpoints import read_checkpoint
from otherview.weights.formats import LARGEST_DIFFERENCE, difference, probe_images
from otherview.weights.origins import ORIGINS, Converted, Origin, converted, twin_in_timm
from otherview.weights.pretrained import OURS, save_encoder
from otherview.weights.settings import ConvertSettings
from otherview.weights.state_dicts import Branch, parts_of

TIMM, HUB = "timm:", "hf:"
LIGHT = ["*.json", "*.safetensors", "README.md"]
"""What is fetched of a repository on the hub, and where it has no such weights, `*.bin` instead."""


@takes(ConvertSettings)
def convert(settings: ConvertSettings) -> dict[str, Any]:
    """Read an encoder from somebody else's file and write ours; returns what was taken, what was left and the licence."""
    if settings.out.suffix != ".safetensors":
        raise WrongRequest(f"--out {settings.out} must end in .safetensors")
    if settings.heads is not None and settings.heads < 1:
        raise WrongRequest(f"--heads {settings.heads} is no number of heads: give 1 or more")
    if settings.source.startswith(TIMM) and settings.origin not in ("auto", "timm"):
        raise WrongRequest(f"{settings.source} is a model of timm's: leave --from out")

    origin = ORIGINS.get("timm" if settings.source.startswith(TIMM) else settings.origin)
    check_written(settings.out, flag="--out")
    found, worst = foreign(
        settings.source, origin=origin, branch=settings.branch, heads=settings.heads, partial=settings.partial
    )
    save_encoder(settings.out, found.encoder, found.card)
    return {
        "method": found.card.method, "branch": found.card.branch, "container": found.container,
        "loaded": len(found.loaded), "of": len(found.loaded) + len(found.left), "left": dict(Counter(found.left.values())),
        "difference": worst, "licence": found.card.licence_of_starting_weights,
        "encoder": found.card.encoder.model_dump(mode="json"), "out": str(settings.out),
    }  # fmt: skip


def is_foreign(where: object) -> bool:
    """Whether weights have a name, a file or a folder of another program."""
    if not isinstance(where, str | Path):
        return False
    if str(where).startswith((TIMM, HUB)):
        return True
    path = Path(where).expanduser()
    if path.is_dir():
        return (path / "config.json").is_file() and not (path / "config.yaml").is_file()
    if path.suffix != ".safetensors":
        return path.is_file()
    try:
        with safe_open(path, framework="pt") as file:
            return not OURS & (file.metadata() or {}).keys()
    except (SafetensorError, OSError):
        return False


def foreign(
    where: str,
    *,
    origin: Origin | None = None,
    branch: Branch | None = None,
    heads: int | None = None,
    partial: bool = False,
) -> tuple[Converted, float]:
    """The encoder, and by how much its tokens differ from those of timm's vision transformer with the same tensors.

    Raises WrongRequest for what is no plain vision transformer, or cannot be fetched or read.
    """
    content, more = _content(where)
    known = more.pop("heads", None)
    found = converted(content, origin, branch=branch, heads=heads or known, partial=partial, **more)
    if not (worst := _difference(found)) <= LARGEST_DIFFERENCE:
        raise RuntimeError(f"{where}: tokens differ by {worst:.1e} from those of timm's vision transformer")
    return found, worst


def _difference(found: Converted) -> float:
    """The largest difference of the tokens from those of timm's vision transformer with the file's own position table.

    Where they differ, the file means something else than its names say.
    """
    images = probe_images(found.card, found.card.encoder.image_size)
    with torch.no_grad():
        return difference(twin_in_timm(found).forward_features(images), found.encoder(images).sequence)


def _content(where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors, and what is known beside them."""
    if where.startswith(TIMM):
        return _timm_model(where.removeprefix(TIMM), said=where)
    if where.startswith(HUB):
        return _hub_model(where.removeprefix(HUB))
    path = Path(where).expanduser()
    return _folder(path, said=where, timm_name=f"local-dir:{path}") if path.is_dir() else read_checkpoint(path)


def _hub_model(repository: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a repository: transformers' or timm's, with the licence that its card states."""
    try:
        folder = Path(snapshot_download(repository, allow_patterns=LIGHT))
        if not list(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(repository, allow_patterns=[*LIGHT, "pytorch_model*.bin"]))
    except Exception as error:  # the hub's many
        raise WrongRequest(f"{HUB}{repository} cannot be loaded: {_first(error)}") from error
    return _folder(folder, said=f"{HUB}{repository}", timm_name=f"hf-hub:{repository}")


def _folder(folder: Path, *, said: str, timm_name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of transformers or of timm, which names an architecture; with the licence that its card states."""
    is_timm = "architecture" in json_object(folder / "config.json")
    content, more = _timm_model(timm_name, said=said) if is_timm else read_checkpoint(folder)
    return content, {**more, **_licence(folder / "README.md")}


def _licence(card: Path) -> dict[str, str]:
    if not card.is_file():
        return {}
    try:
        stated: Any = ModelCard.load(card).data
    except Exception:  # a card that is not in order says nothing
        return {}
    name = stated.license_name if stated.license == "other" and stated.get("license_name") else stated.license
    return {"licence": str(name)} if name else {}


def _timm_model(name: str, *, said: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights of a pre-trained model and what timm knows of it."""
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0)
    except (RuntimeError, OSError, ValueError) as error:
        raise WrongRequest(f"{said} cannot be loaded: {_first(error)}") from error
    if not isinstance(model, VisionTransformer):
        computing = [name for name, part in model.named_modules() if not isinstance(part, nn.Identity)]
        parts = parts_of([*model.state_dict(), *computing])
        has = f" with {' and '.join(parts)}" if parts else ""
        raise WrongRequest(f"{said} is a {type(model).__name__}{has}, no plain vision transformer: take other weights")
    wanted: Any = model.pretrained_cfg
    block: Any = model.blocks[0]
    activation, norm = block.mlp.act, block.norm1
    if type(activation) is not nn.GELU or activation.approximate != "none" or not isinstance(norm, nn.LayerNorm):
        raise WrongRequest(f"{said} has {activation} and {type(norm).__name__}: encoders here have GELU and LayerNorm")
    return model.state_dict(), {
        "heads": block.attn.num_heads, "preprocessing": {"mean": wanted["mean"], "std": wanted["std"]},
        "licence": wanted.get("license") or "unknown", "image_size": tuple(wanted["input_size"][1:]),
    }  # fmt: skip


def _first(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
