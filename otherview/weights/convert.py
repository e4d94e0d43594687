"""An encoder from elsewhere becomes one of ours: every tensor accounted for, its licence kept, nothing executed.

convert("mae_pretrain_vit_base.pth", out=Path("mae.safetensors"))
"""

from collections import Counter
from typing import Any

from otherview.errors import WrongRequest
from otherview.files import check_written
from otherview.signature import takes
from otherview.weights.foreign import foreign, verified
from otherview.weights.origins import ORIGINS
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
    check_written(settings.out, flag="--out")
    found = foreign(
        settings.source, origin=origin, branch=settings.branch, heads=settings.heads, partial=settings.partial
    )
    save_encoder(settings.out, found.encoder, found.card)
    return {
        "method": found.card.method, "branch": found.card.branch, "container": found.container,
        "loaded": len(found.loaded), "of": len(found.loaded) + len(found.left), "left": dict(Counter(found.left.values())),
        "difference": verified(found), "licence": found.card.licence_of_starting_weights,
        "encoder": found.card.encoder.model_dump(mode="json"), "out": str(settings.out),
    }  # fmt: skip
