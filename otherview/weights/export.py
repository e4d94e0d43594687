"""An encoder for other libraries, compared with ours on the same images.

export("runs/first", to="timm", out=Path("first-timm"))
"""

from pathlib import Path
from typing import Any

import torch

from otherview.errors import WrongRequest
from otherview.files import check_written, make_folder
from otherview.signature import takes
from otherview.weights.formats import (
    LARGEST_DIFFERENCE,
    check_size,
    difference,
    probe_images,
    to_huggingface,
    to_timm,
    write_card,
)
from otherview.weights.names import check_weights, load_encoder
from otherview.weights.onnx import to_onnx
from otherview.weights.pretrained import PretrainedEncoder, read_encoder, save_encoder
from otherview.weights.settings import ExportSettings

LOADED_BY = {
    "timm": 'timm.create_model("local-dir:{out}", pretrained=True)',
    "huggingface": 'transformers.ViTModel.from_pretrained("{out}", add_pooling_layer=False)',
    "onnx": 'onnxruntime.InferenceSession("{out}").run(["cls", "mean", "patches"], {{"images": images}})',
    "safetensors": 'otherview.load_encoder("{out}")',
}


@takes(ExportSettings)
def export(settings: ExportSettings) -> dict[str, Any]:
    """Write an encoder for another library; returns where it is, how to load it and how far its tokens are from ours."""
    check_weights(settings.weights)
    wanted = {"onnx": ".onnx", "safetensors": ".safetensors"}.get(settings.to, "")
    if wanted and settings.out.suffix != wanted:
        raise WrongRequest(f"--out {settings.out} must end in {wanted}")

    loaded = load_encoder(settings.weights)
    card, size = loaded.card, settings.size or loaded.card.encoder.image_size
    check_size(card, size)
    if wanted:
        check_written(settings.out, flag="--out")
    else:
        make_folder(settings.out)
    worst = _written(settings, loaded, size)
    if not worst <= LARGEST_DIFFERENCE:
        raise RuntimeError(
            f"{settings.out}: its tokens differ by {worst:.1e} from ours, more than {LARGEST_DIFFERENCE:.0e}"
        )
    words = LOADED_BY[settings.to].format(out=settings.out)
    if not wanted:
        told = f"    {words}\n" + ("" if card.encoder.final_norm or settings.to == "timm" else NO_NORM)
        write_card(settings.out, card, to=settings.to, worst=worst, size=size, words=told)
    return {"to": settings.to, "out": str(settings.out), "difference": worst, "size": list(size), "load": words}


NO_NORM = """
This encoder has no norm after its last block, ViTModel always has one: its own tokens are `hidden_states[-1]` of a call
with `output_hidden_states=True`; `last_hidden_state` is those, each standardised.
"""


def _written(settings: ExportSettings, loaded: PretrainedEncoder, size: tuple[int, int]) -> float:
    """Write it; returns the largest difference from ours."""
    match settings.to:
        case "timm":
            return to_timm(loaded.encoder, loaded.card, settings.out, size)
        case "huggingface":
            return to_huggingface(loaded.encoder, loaded.card, settings.out, size)
        case "onnx":
            return to_onnx(loaded.encoder, loaded.card, settings.out, size)
        case "safetensors":
            return _as_safetensors(loaded, settings.out, size)


def _as_safetensors(loaded: PretrainedEncoder, path: Path, size: tuple[int, int]) -> float:
    save_encoder(path, loaded.encoder, loaded.card)
    images = probe_images(loaded.card, size)
    with torch.no_grad():
        return difference(loaded.encoder(images).sequence, read_encoder(path).encoder(images).sequence)
