"""Golden cases: which there are, the official names beside ours, and how near gradients have to be."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from otherview.geometry import Crop, PatchGrid, crop_from_mirrored

FOLDERS = [Path(__file__).parent / "data", *map(Path, filter(None, [os.environ.get("OTHERVIEW_PARITY")]))]
KINDS = ("siamese_im", "unigrad", "positions", "mae", "moco_v3")

DEFAULTS = {
    "projector_depth": 2,
    "predictor_depth": 4,
    "neg_weight": 0.02,
    "use_proj_ln": False,
    "use_pred_ln": False,
    "train_patch_embed": False,
    "online_ln": False,
    "init_values": None,
}


def cases(kind: str) -> list[Path]:
    """All cases of a kind, each file stem once."""
    found = {path.stem: path for folder in FOLDERS for path in sorted(folder.glob(f"{kind}_*.npz"))}
    return list(found.values())


def by_stem(kind: str) -> Any:
    """A test for every case of a kind."""
    return pytest.mark.parametrize("path", cases(kind), ids=lambda path: path.stem)


def unbuilt_cases() -> list[Path]:
    """Cases of kinds that are not built yet."""
    return [path for folder in FOLDERS for path in sorted(folder.glob("*.npz")) if not path.stem.startswith(KINDS)]


def load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    settings = path.with_suffix(".json")
    return dict(np.load(path)), {**DEFAULTS, **(json.loads(settings.read_text()) if settings.exists() else {})}


def official(path: Path, kind: str) -> tuple[dict[str, Any], int, Any]:
    """A checkpoint as the official programs write it, from a golden case; its heads and its arrays."""
    arrays, settings = load(path)
    state = {
        k.removeprefix("state/"): torch.from_numpy(np.asarray(v)) for k, v in arrays.items() if k.startswith("state/")
    }
    arguments = argparse.Namespace(blr=1e-4, epochs=np.float64(1600))
    content = {"model": state, "epoch": 3, "args": arguments}
    if kind == "moco_v3":
        content = {"state_dict": {f"module.{name}": value for name, value in state.items()}, "arch": "vit_tiny"}
    return content, next(settings[name] for name in ("num_heads", "heads", "encoder_heads") if name in settings), arrays


def crops(arrays: dict[str, np.ndarray], prefix: str = "") -> tuple[Crop, Crop]:
    """Both views' crops, from boxes in the mirrored image."""

    def tensor(name: str) -> Tensor:
        value = torch.from_numpy(np.asarray(arrays[prefix + name]))
        return value.bool() if name.startswith("flip") else value.double()

    first, second = (
        crop_from_mirrored(
            tensor("top" + i),
            tensor("left" + i),
            height=tensor("height" + i),
            width=tensor("width" + i),
            flipped=tensor("flip" + i),
            image_width=tensor("image_width"),
        )
        for i in "12"
    )
    return first, second


def grid_of(mask: np.ndarray) -> PatchGrid:
    return PatchGrid(*mask.shape[-2:])


def relative(ours: Tensor, theirs: np.ndarray) -> float:
    """‖a − b‖ / ‖b‖ over the whole tensor."""
    a, b = ours.detach().double(), torch.from_numpy(theirs).double()
    return float((a - b).norm() / b.norm())


def check_gradients(module: nn.Module, expected: dict[str, Tensor]) -> None:
    """The same parameters have a gradient, and each agrees to 1e-4 of its norm or 1e-6 of the norm of all."""
    whole = float(torch.stack([value.double().norm() for value in expected.values()]).norm())
    got = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert set(got) == set(expected)
    for name, value in expected.items():
        assert float((got[name] - value).norm()) <= 1e-4 * float(value.norm()) + 1e-6 * whole, name


RENAMED = (
    ("patch_embed.", "{branch}.encoder.vit.patch_embed."),
    ("cls_token", "{branch}.encoder.vit.cls_token"),
    ("blocks.", "{branch}.encoder.vit.blocks."),
    ("decoder_embed.", "{branch}.projector.embed."),
    ("projector_decoder_blocks.", "{branch}.projector.blocks."),
    ("predictor_decoder_blocks.", "predictor.blocks."),
    ("decoder_pred.", "predictor.head."),
    ("decoder_pos_mlp.", "predictor.position.project."),
    ("mask_token", "predictor.mask_token"),
    ("student_norm.", "prediction_norm."),
)
NEVER_READ = ("running_mean", "running_var", "num_batches_tracked", "pos_embed")


ENCODER = ("patch_embed.", "cls_token", "blocks.", "norm.")
RIVALS = {
    "mae": (
        ("decoder_embed.", "decoder.embed."),
        ("decoder_blocks.", "decoder.blocks."),
        ("decoder_norm.", "decoder.norm."),
        ("decoder_pred.", "decoder.head."),
        ("mask_token", "decoder.mask_token"),
        *((name, f"encoder.vit.{name}") for name in ENCODER),
    ),
    "moco_v3": (
        ("predictor.", "predictor."),
        *(
            pair
            for theirs, ours in (("base_encoder.", "online."), ("momentum_encoder.", "target."))
            for pair in (
                (f"{theirs}head.", f"{ours}projector."),
                *((theirs + name, f"{ours}encoder.vit.{name}") for name in ENCODER),
            )
        ),
    ),
}


def rival_parameters(arrays: dict[str, np.ndarray], prefix: str, kind: str) -> dict[str, Tensor]:
    """All parameters of a rival below a prefix under our names."""
    found = {}
    for key, value in arrays.items():
        if key.startswith(prefix) and not key.endswith(NEVER_READ):
            name = key.removeprefix(prefix)
            theirs, ours = next(pair for pair in RIVALS[kind] if name.startswith(pair[0]))
            found[ours + name.removeprefix(theirs)] = torch.from_numpy(np.asarray(value))
    return found


def our_name(name: str) -> str | None:
    """Our name of an official parameter; None for what is never read."""
    if name.endswith(NEVER_READ) or name == "mm_mask_token":
        return None
    branch = "target" if name.startswith("mm_") else "online"
    bare = name.removeprefix("mm_")
    for theirs, ours in RENAMED:
        if bare.startswith(theirs):
            return ours.format(branch=branch) + bare.removeprefix(theirs).replace(".bn.", ".")
    raise KeyError(f"no name of ours for the official {name}")


def renamed(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    """All parameters below a prefix under our names."""
    pairs = ((our_name(key.removeprefix(prefix)), value) for key, value in arrays.items() if key.startswith(prefix))
    return {name: torch.from_numpy(np.asarray(value)) for name, value in pairs if name is not None}
