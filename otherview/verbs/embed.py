"""Features of images as data: one row an image, with its name.

otherview embed --weights runs/first --data photos/ --out photos.parquet
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from otherview.errors import WrongRequest
from otherview.training.launch import launched_ranks
from otherview.verbs.judging import SHORTENED_IMAGES, compute_on
from otherview.verbs.request import Computing, check_written, shortened
from otherview.verbs.weights import check_weights


@dataclass(kw_only=True)
class Embed(Computing):
    """Features of every image as parquet, npy or safetensors; the same command continues what was stopped."""

    weights: str
    """A run folder, an encoder file, reference:demo (ships with the package), or random:RECIPE, the untrained control."""
    data: str
    """Images (a data SPEC)."""
    out: Path
    """*.parquet (name, features), *.npy (names lie beside, in *.names.json) or *.safetensors (names in its metadata)."""
    tokens: Literal["cls", "mean", "patches"] = "mean"
    """Of the last block."""
    size: tuple[int, int] | None = None
    """Height and width that images are brought to; default: those of training. The patch must divide them."""
    workers: int = 1
    """Processes that read images."""


def run(request: Embed) -> dict[str, Any]:
    """The verb."""
    from otherview.evaluation.embedding import ENDINGS

    began = time.monotonic()
    if request.out.suffix not in ENDINGS:
        raise WrongRequest(f"--out {request.out} must end in {', '.join(ENDINGS)}")
    check_weights(request.weights)
    from otherview.data.source import Selected
    from otherview.data.spec import absolute, open_source

    source = open_source(request.data)
    check_written(request.out, flag="--out")
    if launched_ranks() > 1:
        raise WrongRequest("otherview embed is one process: start it without torchrun or srun")
    compute_on(request)
    from otherview.evaluation.content import weights_content
    from otherview.evaluation.embedding import Embedding, embed
    from otherview.evaluation.features import first_of
    from otherview.training.console import RunProgress
    from otherview.verbs.request import resolve_device
    from otherview.verbs.weights import load_encoder
    from otherview.weights.export import check_size

    loaded = load_encoder(request.weights)
    size = request.size or loaded.card.encoder.image_size
    check_size(loaded.card, size)
    if shortened():
        source = Selected(source, first_of(source, SHORTENED_IMAGES))
    about = {
        "weights": weights_content(loaded.encoder), "data": absolute(request.data), "images": len(source),
        "tokens": request.tokens, "size": list(size),
    }  # fmt: skip
    encoder = loaded.encoder.to(resolve_device(request.device))
    look = loaded.card.look._replace(size=size)
    with RunProgress(total=len(source), title="features") as progress:
        wanted = Embedding(request.out, request.tokens, about)
        count = embed(encoder, source, look, wanted, workers=request.workers, advance=progress.advance)
    return {
        "out": str(request.out), "images": count, "left_out": len(source) - count, "tokens": request.tokens,
        "width": loaded.card.encoder.width, "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def show(result: dict[str, Any]) -> Sequence[str]:
    """Where it is and what is in it."""
    left = f", {result['left_out']} could not be read" if result["left_out"] else ""
    return [f"{result['out']}: {result['images']:,} images{left}, {result['tokens']} tokens of width {result['width']}"]
