"""An encoder for other libraries, held against ours on the same images.

otherview export --weights runs/first --to timm --out first-timm/
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from otherview.errors import WrongRequest
from otherview.verbs.request import Request, check_written
from otherview.verbs.weights import check_weights

LOADED_BY = {
    "timm": 'timm.create_model("local-dir:{out}", pretrained=True)',
    "huggingface": 'transformers.ViTModel.from_pretrained("{out}", add_pooling_layer=False)',
    "onnx": 'onnxruntime.InferenceSession("{out}").run(["cls", "mean", "patches"], {{"images": images}})',
    "safetensors": 'otherview.load_encoder("{out}")',
}


@dataclass(kw_only=True)
class Export(Request):
    """Write an encoder as timm, Hugging Face transformers or ONNX want it; over a difference of 1e-4 it fails.

    timm and transformers get a table of positions for one size of image; ONNX computes them for any size that the patch
    divides. All want images that are normalised with the mean and std of the card.
    """

    weights: str
    """A run folder, an encoder file, reference:demo (ships with the package), or random:RECIPE, the untrained control."""
    to: Literal["timm", "huggingface", "onnx", "safetensors"]
    out: Path
    """A folder for timm and huggingface, a file for onnx (*.onnx) and safetensors (*.safetensors)."""
    size: tuple[int, int] | None = None
    """Height and width that positions are baked for; default: those of training."""


def run(request: Export) -> dict[str, Any]:
    """The verb."""
    check_weights(request.weights)
    wanted = {"onnx": ".onnx", "safetensors": ".safetensors"}.get(request.to, "")
    if wanted and request.out.suffix != wanted:
        raise WrongRequest(f"--out {request.out} must end in {wanted}")
    from otherview.verbs.weights import load_encoder
    from otherview.weights.export import LARGEST_DIFFERENCE, check_size, write_card

    loaded = load_encoder(request.weights)
    card, size = loaded.card, request.size or loaded.card.encoder.image_size
    check_size(card, size)
    if wanted:
        check_written(request.out, flag="--out")
    else:
        _check_folder(request.out)
    worst = _written(request, loaded, size)
    if not worst <= LARGEST_DIFFERENCE:
        raise RuntimeError(
            f"{request.out}: its tokens differ by {worst:.1e} from ours, more than {LARGEST_DIFFERENCE:.0e}"
        )
    words = LOADED_BY[request.to].format(out=request.out)
    if not wanted:
        told = f"    {words}\n" + ("" if card.encoder.final_norm or request.to == "timm" else NO_NORM)
        write_card(request.out, card, to=request.to, worst=worst, size=size, words=told)
    return {"to": request.to, "out": str(request.out), "difference": worst, "size": list(size), "load": words}


NO_NORM = """
This encoder has no norm after its last block, ViTModel always has one: its own tokens are `hidden_states[-1]` of a call
with `output_hidden_states=True`; `last_hidden_state` is those, each standardised.
"""


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_written(folder / "config.json", flag="--out")
    except OSError as error:
        raise WrongRequest(f"--out {folder} cannot be written ({error.strerror}): choose a folder of yours") from error


def _written(request: Export, loaded: Any, size: tuple[int, int]) -> float:
    """Write it; returns the largest difference from ours."""
    match request.to:
        case "timm":
            from otherview.weights.export import to_timm

            return to_timm(loaded.encoder, loaded.card, request.out, size)
        case "huggingface":
            from otherview.weights.export import to_huggingface

            return to_huggingface(loaded.encoder, loaded.card, request.out, size)
        case "onnx":
            from otherview.weights.onnx import to_onnx

            return to_onnx(loaded.encoder, loaded.card, request.out, size)
        case "safetensors":
            return _as_safetensors(loaded, request.out, size)


def _as_safetensors(loaded: Any, path: Path, size: tuple[int, int]) -> float:
    import torch

    from otherview.weights.export import difference, probe_images
    from otherview.weights.pretrained import load_encoder, save_encoder

    save_encoder(path, loaded.encoder, loaded.card)
    images = probe_images(loaded.card, size)
    with torch.no_grad():
        return difference(loaded.encoder(images).sequence, load_encoder(path).encoder(images).sequence)


def show(result: dict[str, Any]) -> Sequence[str]:
    """Where it is, how far from ours, and how to load it."""
    return [
        result["out"],
        f"largest difference from ours on the same images: {result['difference']:.1e}",
        f"load it: {result['load']}",
    ]
