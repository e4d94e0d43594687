"""An encoder for other libraries, compared with ours on the same images.

export("runs/first", to="timm", out=Path("first-timm"))

ONNX: one file that takes images of any size that the patch divides, compared at several sizes.

Axes: B images, C channels, H and W pixels, N tokens, L patches, D width.
"""

import contextlib
import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from otherview.errors import WrongRequest
from otherview.files import check_written, make_folder
from otherview.nn.encoder import Encoder
from otherview.signature import takes
from otherview.weights.formats import (
    LARGEST_DIFFERENCE,
    check_size,
    difference,
    needed,
    preprocessing_of,
    probe_images,
    to_huggingface,
    to_timm,
    write_card,
)
from otherview.weights.names import check_weights, load_encoder
from otherview.weights.pretrained import Card, PretrainedEncoder, read_encoder, save_encoder
from otherview.weights.settings import ExportSettings


class _Traced(nn.Module):
    """The encoder in single precision, whose positions are part of the graph."""

    frequencies: Tensor

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        count = encoder.settings.width // 4
        powers = -torch.arange(count, dtype=torch.float64) / count
        self.register_buffer("frequencies", (10000.0**powers).float(), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """cls [B, D], mean [B, D] and patches [B, L, D] of normalised images."""
        vit, prefix = self.encoder.vit, self.encoder.prefix
        patches = vit.patch_embed(images)  # [B, rows, columns, D]
        rows, columns = patches.shape[1], patches.shape[2]
        sequence = (patches + self._positions(rows, columns)).flatten(1, 2)
        if prefix:
            before = torch.cat([token for token in (vit.cls_token, vit.reg_token) if token is not None], dim=1)
            if vit.pos_embed is not None:
                before = before + vit.pos_embed[:, :prefix]
            sequence = torch.cat([before.expand(images.shape[0], -1, -1), sequence], dim=1)
        for block in vit.blocks:
            sequence = block(sequence)
        sequence = vit.norm(sequence)
        mean = sequence[:, prefix:].mean(dim=1)
        return sequence[:, 0] if prefix else mean, mean, sequence[:, prefix:]

    def _positions(self, rows: int, columns: int) -> Tensor:
        """[rows, columns, D]"""
        vit, had = self.encoder.vit, self.encoder.grid
        if vit.pos_embed is not None:
            picture = vit.pos_embed[:, self.encoder.prefix :].transpose(1, 2).unflatten(2, had)
            return F.interpolate(picture, (rows, columns), mode="bicubic", align_corners=False)[0].permute(1, 2, 0)
        down, across = (self._along(new, old) for new, old in ((rows, had.rows), (columns, had.columns)))
        half = down.shape[-1]
        parts = [down[:, None].expand(rows, columns, half), across[None].expand(rows, columns, half)]
        return torch.cat(parts[::-1] if self.encoder.settings.column_first else parts, dim=-1)

    def _along(self, new: int, old: int) -> Tensor:
        """Codes of one side: [new, D / 2]."""
        places = (torch.arange(new, device=self.frequencies.device).float() + 0.5) * (old / new) - 0.5
        angles = places[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


def to_onnx(encoder: Encoder, card: Card, path: Path) -> float:
    """One file, weights inside; returns the largest difference over several sizes of image."""
    needed("onnx")
    needed("onnxscript")
    runtime = needed("onnxruntime")
    traced, patch, size = _Traced(encoder).eval(), card.encoder.patch_size, card.preprocessing.size
    batch, rows, columns = (torch.export.Dim(name, min=2, max=4096) for name in ("batch", "rows", "columns"))
    shape: Any = {"images": {0: batch, 2: patch * rows, 3: patch * columns}}
    example = probe_images(card, (max(size[0], 2 * patch), max(size[1], 2 * patch) + patch))
    with _quiet():
        program = torch.onnx.export(
            traced, (example,), dynamo=True, input_names=["images"], output_names=["cls", "mean", "patches"],
            dynamic_shapes=shape, verbose=False,
        )  # fmt: skip
    assert program is not None
    program.save(str(path), external_data=False)
    _describe(path, card)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for wanted in (size, (2 * patch, 3 * patch), (size[0] + patch, size[1] + 2 * patch)):
        images = probe_images(card, wanted, count=3)
        found = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            tokens = encoder(images)
        for ours, theirs in zip((tokens.cls, tokens.mean, tokens.patches), found, strict=True):
            worst = max(worst, difference(ours, torch.from_numpy(theirs)))
    return worst


def _describe(path: Path, card: Card) -> None:
    """The card into the file's own metadata; `preprocessing` is what timm.data.create_transform takes."""
    import onnx

    model = onnx.load(path)
    said = {
        "otherview": card.model_dump_json(), "preprocessing": json.dumps(preprocessing_of(card)), "mean": str(card.mean),
        "std": str(card.std),
    }  # fmt: skip
    for name, value in said.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, value
    onnx.save(model, path)


@contextlib.contextmanager
def _quiet() -> Any:
    """Without the exporter's talk."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


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
    had = loaded.card.preprocessing
    size = settings.size or had.size
    check_size(loaded.card.encoder.patch_size, size)
    loaded.card = card = loaded.card.seeing(had._replace(size=size, fit=settings.fit or had.fit))
    if wanted:
        check_written(settings.out, flag="--out")
    else:
        make_folder(settings.out)
    worst = _written(settings, loaded)
    if not worst <= LARGEST_DIFFERENCE:
        raise RuntimeError(
            f"{settings.out}: its tokens differ by {worst:.1e} from ours, more than {LARGEST_DIFFERENCE:.0e}"
        )
    words = LOADED_BY[settings.to].format(out=settings.out)
    if not wanted:
        told = f"    {words}\n" + ("" if card.encoder.final_norm or settings.to == "timm" else NO_NORM)
        write_card(settings.out, card, to=settings.to, worst=worst, words=told)
    return {
        "to": settings.to, "out": str(settings.out), "difference": worst, **card.preprocessing.about, "load": words,
    }  # fmt: skip


NO_NORM = """
This encoder has no norm after its last block, ViTModel always has one: its own tokens are `hidden_states[-1]` of a call
with `output_hidden_states=True`; `last_hidden_state` is those, each standardised.
"""


def _written(settings: ExportSettings, loaded: PretrainedEncoder) -> float:
    """Write it; returns the largest difference from ours."""
    match settings.to:
        case "timm":
            return to_timm(loaded.encoder, loaded.card, settings.out)
        case "huggingface":
            return to_huggingface(loaded.encoder, loaded.card, settings.out)
        case "onnx":
            return to_onnx(loaded.encoder, loaded.card, settings.out)
        case "safetensors":
            return _as_safetensors(loaded, settings.out)


def _as_safetensors(loaded: PretrainedEncoder, path: Path) -> float:
    save_encoder(path, loaded.encoder, loaded.card)
    images = probe_images(loaded.card, loaded.card.preprocessing.size)
    with torch.no_grad():
        return difference(loaded.encoder(images).sequence, read_encoder(path).encoder(images).sequence)
