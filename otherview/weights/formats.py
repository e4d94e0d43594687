"""Encoders for other libraries: timm, Hugging Face transformers, ONNX; each written, loaded there and compared with ours.

Positions are a table of the stated size for timm and transformers, which resample tables in ways that differ from each
other; in ONNX they are computed for any size that the patch divides.

Axes: B images, C channels, H and W pixels, N tokens, D width.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import Tensor

from otherview.errors import WrongRequest
from otherview.files import write_atomically
from otherview.geometry import PatchGrid
from otherview.nn.encoder import Encoder
from otherview.weights.pretrained import Card

LARGEST_DIFFERENCE = 1e-4
"""An export whose tokens differ from ours by more fails."""
TIMM_NAME = "vit_base_patch16_224"
"""What timm calls a plain vision transformer; all of its sizes are overridden."""
Size = tuple[int, int]


def probe_images(card: Card, size: Size, count: int = 2) -> Float[Tensor, "B C H W"]:
    """Normalised images that both sides are asked about."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn((count, card.encoder.channels, *size), generator=generator)


def difference(ours: Float[Tensor, "*shape"], theirs: Float[Tensor, "*shape"]) -> float:
    """The largest of all tokens, relative to the largest token value of ours where that is above 1."""
    return float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1))


def table_of(encoder: Encoder, size: Size) -> Float[Tensor, "1 N D"]:
    """Positions of all tokens at a size: what cls and registers add (nothing, where positions are computed), then patches'."""
    patch = encoder.settings.patch_size
    patches = encoder.positions(PatchGrid(size[0] // patch, size[1] // patch), torch.device("cpu"))
    learned = encoder.vit.pos_embed
    before = torch.zeros(encoder.prefix, patches.shape[1]) if learned is None else learned[0, : encoder.prefix]
    return torch.cat([before, patches]).detach()[None].contiguous()


def check_size(patch_size: int, size: Size) -> None:
    """Raise WrongRequest for a size that is not divisible by the patch size."""
    if any(side % patch_size or side < patch_size for side in size):
        raise WrongRequest(f"--size {size[0]} {size[1]} is not divisible by the patch size {patch_size}")


CROP_MODES = {"crop": "center", "squash": "squash", "pad": "border"}
"""What timm calls the ways in which a whole image gets a size."""


def preprocessing_of(card: Card) -> dict[str, Any]:
    """In timm's words: `timm.data.create_transform(**these)` shows an image file as the encoder wants it."""
    size, channels = card.preprocessing.size, card.encoder.channels
    return {
        "input_size": [channels, *size], "mean": list(card.mean), "std": list(card.std), "interpolation": "bicubic",
        "crop_pct": 1.0, "crop_mode": CROP_MODES[card.fit],
    }  # fmt: skip


def to_timm(encoder: Encoder, card: Card, folder: Path) -> float:
    """A folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads; returns the largest difference."""
    had, size = card.encoder, card.preprocessing.size
    arguments: dict[str, Any] = {
        "img_size": list(size), "patch_size": had.patch_size, "in_chans": had.channels, "embed_dim": had.width,
        "depth": had.depth, "num_heads": had.heads, "num_classes": 0, "global_pool": "", "reg_tokens": had.registers,
        "init_values": had.layer_scale, "final_norm": had.final_norm, "class_token": had.class_token,
    }  # fmt: skip
    model = timm.create_model(TIMM_NAME, **arguments)
    model.load_state_dict({**encoder.vit.state_dict(), "pos_embed": table_of(encoder, size)})
    described: Any = model.pretrained_cfg
    described.update({
        **preprocessing_of(card), "tag": "otherview", "license": _licence(card), "num_classes": 0, "hf_hub_id": None, "url": "",
    })  # fmt: skip
    save_for_hf(model, str(folder), model_args=arguments, safe_serialization=True)
    loaded: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = probe_images(card, size)
    with torch.no_grad():
        return difference(encoder(images).sequence, loaded.forward_features(images))


def processor_of(card: Card) -> dict[str, Any]:
    """How transformers is to show an image file; raises WrongRequest for what its image processors cannot do."""
    height, width = card.preprocessing.size
    if card.fit == "pad":
        raise WrongRequest(
            "no image processor of transformers frames an image by the mean: export with --fit crop or squash"
        )
    if card.fit == "crop" and height != width:
        raise WrongRequest(
            f"transformers cannot cut {height}×{width} px out of an image, only squares: export with --fit squash, or a --size"
        )
    square = {"height": height, "width": width}
    shown = (
        {"image_processor_type": "ViTImageProcessor", "size": square}
        if card.fit == "squash"
        else {
            "image_processor_type": "BitImageProcessor", "size": {"shortest_edge": height}, "do_center_crop": True,
            "crop_size": square,
        }
    )  # fmt: skip
    return {
        **shown, "do_resize": True, "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "do_convert_rgb": card.encoder.channels == 3, "image_mean": list(card.mean), "image_std": list(card.std),
    }  # fmt: skip


def to_huggingface(encoder: Encoder, card: Card, folder: Path) -> float:
    """A folder that `transformers.ViTModel.from_pretrained` loads; returns the largest difference.

    That model always ends with a layer norm. An encoder without one gets a plain one (weight 1, bias 0): its own tokens
    are `hidden_states[-1]` of a call with output_hidden_states=True.
    """
    transformers = needed("transformers")
    had, size, processor = card.encoder, card.preprocessing.size, processor_of(card)
    if had.registers or not had.class_token:
        without = f"with {had.registers} registers" if had.registers else "without a class token"
        raise WrongRequest(f"an encoder {without} has no place in ViTModel: export it to timm or onnx")
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "vit", "architectures": ["ViTModel"], "hidden_size": had.width, "num_hidden_layers": had.depth,
        "num_attention_heads": had.heads, "intermediate_size": 4 * had.width, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "layer_norm_eps": 1e-6,
        "image_size": size[0] if size[0] == size[1] else list(size), "patch_size": had.patch_size,
        "num_channels": had.channels, "qkv_bias": True,
    }  # fmt: skip
    write_atomically(folder / "config.json", json.dumps(config, indent=1).encode())
    write_atomically(folder / "preprocessor_config.json", json.dumps(processor, indent=1).encode())
    save_file(_huggingface_names(encoder, size), folder / "model.safetensors", metadata={"format": "pt"})
    loaded = transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    images = probe_images(card, size)
    with torch.no_grad():
        found = loaded(images, output_hidden_states=True)
        tokens = found.last_hidden_state if had.final_norm else found.hidden_states[-1]
        return difference(encoder(images).sequence, tokens)


def _huggingface_names(encoder: Encoder, size: Size) -> dict[str, Tensor]:
    """The state under transformers' names; layer scale goes into the layers before it."""
    state = {name: value.detach().clone() for name, value in encoder.vit.state_dict().items()}
    width = encoder.settings.width
    found = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.position_embeddings": table_of(encoder, size),
        "layernorm.weight": state.get("norm.weight", torch.ones(width)),
        "layernorm.bias": state.get("norm.bias", torch.zeros(width)),
    }
    for kind in ("weight", "bias"):
        found[f"embeddings.patch_embeddings.projection.{kind}"] = state[f"patch_embed.proj.{kind}"]
        for block in range(encoder.settings.depth):
            ours, theirs = f"blocks.{block}.", f"encoder.layer.{block}."
            parts = state[f"{ours}attn.qkv.{kind}"].chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                found[f"{theirs}attention.attention.{name}.{kind}"] = part.contiguous()
            for mine, their in (
                ("norm1", "layernorm_before"),
                ("norm2", "layernorm_after"),
                ("mlp.fc1", "intermediate.dense"),
            ):
                found[f"{theirs}{their}.{kind}"] = state[f"{ours}{mine}.{kind}"]
            for mine, their, scale in (
                ("attn.proj", "attention.output.dense", "ls1"),
                ("mlp.fc2", "output.dense", "ls2"),
            ):
                value = state[f"{ours}{mine}.{kind}"]
                gamma = state.get(f"{ours}{scale}.gamma")
                found[f"{theirs}{their}.{kind}"] = (
                    value if gamma is None else value * (gamma[:, None] if value.ndim > 1 else gamma)
                )
    return found


def needed(package: str) -> Any:
    """An optional package; raises WrongRequest where it is missing."""

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise WrongRequest(f"this export is verified with {package}: pip install 'otherview[export]'") from error


def _licence(card: Card) -> str:
    words = card.licence_of_starting_weights
    return "apache-2.0" if words.startswith("none:") or words.lower() == "apache-2.0" else "other"


SAID = {
    "crop": "the shorter side is resized to that (bicubic) and the centre is cut out",
    "squash": "the whole image is stretched to that (bicubic)",
    "pad": "the whole image is resized to fit into that (bicubic) and framed by the mean",
}


def write_card(folder: Path, card: Card, *, to: str, worst: float, words: str) -> None:
    """README.md of an exported folder: what it is, how to load it, how far it is from ours."""
    height, width = card.preprocessing.size
    text = f"""---
license: {_licence(card)}
library_name: {"timm" if to == "timm" else "transformers"}
tags: [self-supervised, {card.method}]
---

# A vision transformer pre-trained with {card.method}

Exported by otherview from a run of {card.steps} steps (recipe {card.recipe}, config {card.config_hash}, {card.branch}).
Images: {height}×{width} px, {SAID[card.fit]}; mean {list(card.mean)}, std {list(card.std)} of levels in [0, 1].
Weights it started from: {card.licence_of_starting_weights}.

The largest difference between its tokens and otherview's, on the same images: {worst:.2e}.

{words}
"""
    write_atomically(folder / "README.md", text.encode())
