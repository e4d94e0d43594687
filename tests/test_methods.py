"""Every method under the one contract: a finite loss, gradient where it belongs and nowhere else, no state in forward."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import default_collate

from otherview.config import RunConfig
from otherview.data.picture import picture_of
from otherview.data.shapes import Shapes
from otherview.losses.contrastive import info_nce
from otherview.losses.reconstruction import masked_mean_square, normalise_patches, patchify
from otherview.methods.build import build
from otherview.methods.learner import Learner
from otherview.methods.moco_v3 import MoCoV3
from otherview.recipes.registry import find
from otherview.seeding import sample_rng
from otherview.views.settings import PLAIN, MaskSettings
from tests.ranks import in_ranks, moco_v3_of_rank

PICO = ("siamese_im_cpu_adamw", "mae_cpu", "moco_v3_cpu", "supervised_cpu")
SMALL: dict[str, dict[str, Any]] = {
    "siamese_im": {"head_width": 32, "negative_weight": 0.5},
    "mae": {"decoder_width": 32},
    "moco_v3": {"hidden_width": 32, "output_width": 16},
    "supervised": {"classes": 8},
}
PARTS: dict[str, dict[str, dict[str, Any]]] = {
    "same crop": {"views": {"target_crop": "same"}},
    "no colour in the online view": {"views": {"online_colour": PLAIN}},
    "no colour in the target view": {"views": {"target_colour": PLAIN}},
    "colours on the device": {"views": {"colour_on": "device"}},
    "colours on the device, three masks": {
        "views": {"colour_on": "device", "masks_per_image": 3, "mask": MaskSettings(count=38)}
    },
    "random mask": {"views": {"mask": MaskSettings(kind="random", count=20)}},
    "uniform mask": {"views": {"mask": MaskSettings(kind="uniform", count=38)}},
    "no mask": {"views": {"mask": MaskSettings(kind="none")}},
    "three masks": {"views": {"masks_per_image": 3, "mask": MaskSettings(count=38)}},
    "a quarter predicted": {"views": {"predict_ratio": 0.25}},
    "three masks, a quarter predicted": {
        "views": {"masks_per_image": 3, "mask": MaskSettings(count=38), "predict_ratio": 0.25}
    },
    "registers": {"encoder": {"registers": 2}},
    "patch embedding": {"encoder": {"train_patch_embedding": True}},
    "pixels": {"method": {"target": "pixels"}},
    "pixels, overlap": {"method": {"target": "pixels", "overlap_only": True}},
    "position alone": {"method": {"relative_position": "position"}},
    "no_position": {"method": {"relative_position": "none"}},
    "condition on colour": {"method": {"condition_on_colour": True}},
    "global dense": {"method": {"loss": "global_dense"}},
    "global": {"method": {"loss": "global"}},
    "info_nce": {"method": {"loss": "info_nce"}},
    "overlap": {"method": {"overlap_only": True}},
    "overlap, three masks, a quarter predicted": {
        "method": {"overlap_only": True},
        "views": {"masks_per_image": 3, "mask": MaskSettings(count=38), "predict_ratio": 0.25},
    },
    "layer norm": {"method": {"projector_norm": "layer", "predictor_norm": "layer"}},
    "shallow heads": {"method": {"projector_depth": 0, "predictor_depth": 1}},
    "constant momentum": {"method": {"momentum_schedule": "constant"}},
    "no momentum": {"method": {"momentum_schedule": "none"}},
    "zero start": {"method": {"predictor_start": "zero"}},
}
"""Every part of Siamese Image Modeling that can be exchanged, by what it is."""


def small(recipe: str, part: str | None = None) -> RunConfig:
    config = find(recipe).make()
    changes = {"encoder": {"width": 32, "depth": 1}, "method": SMALL[config.method.name], "views": {}}
    for room, change in PARTS[part].items() if part else ():
        changes[room] = {**changes[room], **change}
    rooms = {room: getattr(config, room).model_copy(update=change) for room, change in changes.items()}
    return config.model_copy(update=rooms)


def learner_and_batch(recipe: str, part: str | None = None, count: int = 6) -> tuple[Learner, Any]:
    return made(small(recipe, part), count)


def made(config: RunConfig, count: int) -> tuple[Learner, Any]:
    """The learner of a config, and drawn images as it sees them."""
    config.check()
    learner = build(config.method, encoder=config.encoder, views=config.views, seed=0)
    source = Shapes(count)
    samples = [
        learner.views(picture_of(source, index), sample_rng(seed=0, epoch=0, index=index)) for index in range(count)
    ]
    return learner, default_collate(samples)


@pytest.mark.parametrize(
    ("recipe", "part"), [*((recipe, None) for recipe in PICO), *(("siamese_im_cpu_adamw", part) for part in PARTS)]
)
def test_a_step_of_every_method_and_part(recipe: str, part: str | None) -> None:
    learner, batch = learner_and_batch(recipe, part)
    learner.train()
    context = learner.prepare([batch], 0.1)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    loss = learner(batch, context, 0)
    assert all(torch.equal(before[name], value) for name, value in learner.state_dict().items())
    assert torch.isfinite(loss.total)
    assert not any(part.requires_grad for part in loss.terms.values())
    assert all(torch.isfinite(value).all() for value in learner.metrics(context).values())
    loss.total.backward()
    frozen = not small(recipe, part).encoder.train_patch_embedding
    for name, parameter in learner.named_parameters():
        learns = not name.startswith("target.") and not (frozen and "patch_embed" in name)
        assert (parameter.grad is not None) == parameter.requires_grad == learns, name
        first = part != "zero start" or name.startswith("predictor.head")
        assert parameter.grad is None or bool(parameter.grad.any()) == first, name
    grouped = [p for group in learner.parameter_groups(0.05) for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in learner.parameters() if p.requires_grad}


def exchanged(config: RunConfig, changes: dict[str, Any]) -> RunConfig:
    """The config with settings exchanged by their names."""
    content = config.model_dump()
    for name, value in changes.items():
        *rooms, last = name.split(".")
        room = content
        for one in rooms:
            room = room[one]
        room[last] = value
    return RunConfig.model_validate(content)


@pytest.mark.parametrize(
    ("recipe", "beside", "changes"),
    [
        ("mae", {}, {"views.target_colour.jitter_probability": 0.1, "views.target_colour.solarise_probability": 1.0}),
        ("supervised", {}, {"views.target_colour.gray_probability": 1.0}),
        ("siamese_im", {}, {"method.temperature": 9.0, "method.global_weight": 9.0, "method.dense_weight": 9.0}),
        ("siamese_im", {"method.loss": "info_nce"}, {"method.negative_weight": 9.0}),
        (
            "siamese_im",
            {"method.target": "pixels"},
            {"method.momentum": 0.5, "method.momentum_schedule": "constant", "method.negative_weight": 9.0},
        ),
        ("siamese_im", {"method.momentum_schedule": "none"}, {"method.momentum": 0.5}),
        ("siamese_im", {"method.projector_depth": 0}, {"method.projector_norm": "layer"}),
        (
            "siamese_im",
            {"views.mask.kind": "none"},
            {"views.mask.ratio": 0.2, "views.mask.count": 3, "views.mask.minimum_block": 9},
        ),
        ("siamese_im", {"views.mask.kind": "random"}, {"views.mask.minimum_block": 9}),
        ("siamese_im", {"views.mask.count": 20}, {"views.mask.ratio": 0.9}),
        ("siamese_im", {"views.target_crop": "same"}, {"method.relative_position": "none"}),
        ("siamese_im", {"views.target_crop": "same"}, {"method.overlap_only": True}),
        ("siamese_im", {"encoder.positions": "learned"}, {"encoder.column_first": True}),
    ],
)
def test_what_is_called_unused_decides_nothing(recipe: str, beside: dict[str, Any], changes: dict[str, Any]) -> None:
    config = exchanged(small("siamese_im_cpu_adamw" if recipe == "siamese_im" else f"{recipe}_cpu"), beside)
    for name in changes:
        assert any(f"{name}.".startswith(f"{unused}.") for unused in config.unused()), name
    losses: list[torch.Tensor] = []
    for one in (config, exchanged(config, changes)):
        learner, batch = made(one, 6)
        for parameter in learner.parameters():
            parameter.data.add_(0.01)  # a target has something to follow
        losses.append(learner.train()(batch, learner.prepare([batch], 0.1), 0).total)
    assert torch.equal(*losses)


@pytest.mark.parametrize(("schedule", "step"), [("constant", 0.01), ("cosine", 0.005)])
def test_moco_v3s_target_keeps_its_momentum_or_slows_down(schedule: str, step: float) -> None:
    learner, batch = made(exchanged(small("moco_v3_cpu"), {"method.momentum_schedule": schedule}), 6)
    assert isinstance(learner, MoCoV3)
    before = learner.target.encoder.vit.cls_token.clone()
    learner.online.encoder.vit.cls_token.data.add_(1.0)
    learner.prepare([batch], 0.5)
    moved = learner.target.encoder.vit.cls_token - before
    assert torch.allclose(moved, torch.full_like(moved, step), atol=1e-6)


def test_the_weights_of_every_method_follow_from_the_seed() -> None:
    for recipe in PICO:
        config = small(recipe)
        one, two, other = (
            build(config.method, encoder=config.encoder, views=config.views, seed=seed) for seed in (0, 0, 1)
        )
        for (name, a), b, c in zip(one.named_parameters(), two.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b), name
            assert not torch.equal(a, c) or a.unique().numel() == 1, name


def test_patches_as_a_loop_reads_them() -> None:
    images = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    patches = patchify(images, 4)
    assert patches.shape == (2, 6, 48)
    for row in range(2):
        for column in range(3):
            cut = images[1, :, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
            assert torch.equal(patches[1, row * 3 + column], cut.permute(1, 2, 0).reshape(-1))
    normal = normalise_patches(patches)
    assert torch.allclose(normal.mean(dim=-1), torch.zeros(2, 6), atol=1e-6)
    assert torch.allclose(normal.var(dim=-1), torch.ones(2, 6), atol=1e-4)
    assert normalise_patches(torch.ones(1, 1, 48)).abs().max() == 0


def test_only_hidden_patches_count() -> None:
    target = torch.zeros(2, 3, 4)
    prediction = torch.ones(2, 3, 4)
    prediction[:, 0] = 100.0
    hidden = torch.tensor([[False, True, True], [False, False, True]])
    assert float(masked_mean_square(prediction, target, hidden)) == 1.0


def test_info_nce_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(count, 5, generator=generator) for count in (4, 9))
    own = torch.tensor([2, 3, 4, 5])
    total = 0.0
    for query, place in zip(queries, own, strict=True):
        logits = F.cosine_similarity(query[None], keys) / 0.2
        total -= float(logits[place] - logits.exp().sum().log())
    assert float(info_nce(queries, keys, own, temperature=0.2)) == pytest.approx(2 * 0.2 * total / 4, rel=1e-5)


def test_moco_v3_s_keys_come_from_all_ranks(tmp_path: Path) -> None:
    """The mean of the ranks' losses and gradients is the large batch's, batch norm included."""
    one = moco_v3_of_rank(0, 1)
    both = in_ranks(2, moco_v3_of_rank, tmp_path, 2)
    assert float(both[0]["loss"] + both[1]["loss"]) / 2 == pytest.approx(float(one["loss"]), rel=1e-5)
    assert torch.allclose(both[0]["keys"], both[1]["keys"]) and torch.allclose(both[0]["keys"], one["keys"], atol=1e-5)
    whole = torch.stack([gradient.norm() for gradient in one["gradients"].values()]).norm()
    for name, gradient in one["gradients"].items():
        parts = [found["gradients"][name] for found in both]
        mean, terms = (
            sum(parts) / 2,
            sum(part.norm() for part in parts),
        )  # float32 rounds the terms, not their difference
        if gradient.norm() > 1e-6 * whole:  # else the true gradient is zero: a bias before a batch norm
            assert (mean - gradient).norm() < 1e-5 * terms, name


@pytest.mark.slow
def test_supervised_pre_training_takes_its_classes_from_the_data(tmp_path: Path, otherview: Callable) -> None:
    run = ("pretrain", "--recipe", "supervised_cpu", "--encoder.width", 32, "--encoder.depth", 1, "--batch", 16)
    run = (*run, "--steps", 3, "--out", tmp_path / "run")
    for number in range(16):
        (tmp_path / "flat").mkdir(exist_ok=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "flat" / f"{number}.png")
    done = otherview(*run, "--data", tmp_path / "flat")
    assert done.returncode == 2 and "has no labels" in done.stderr
    done = otherview(*run, "--data", "shapes:64", "--method.classes", 5)
    assert done.returncode == 2 and "fewer than the 8 classes" in done.stderr
    done = otherview(*run, "--data", "shapes:64", "--json")
    assert done.returncode == 0, done.stderr
    assert "classes: 8" in (tmp_path / "run/config.yaml").read_text()
    assert not (tmp_path / "run/target.safetensors").exists()
