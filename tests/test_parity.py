"""Golden numbers of the official implementations, matched to the stated tolerances."""

import json
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from otherview.bench.reference import NaiveSiameseIM
from otherview.geometry import PatchGrid, place
from otherview.losses.objectives import Dense
from otherview.methods.siamese_im import SiameseIM
from otherview.methods.target import EMATarget, constant_momentum
from otherview.nn.encoder import Encoder
from otherview.nn.heads import Branch, Predictor, Projector
from otherview.nn.positions import Conditioning, relative_code, sincos_grid
from otherview.nn.settings import EncoderSettings
from otherview.views.masks import blockwise_mask
from otherview.views.settings import MaskSettings, ViewSettings
from otherview.views.transforms import PairViews
from otherview.views.view import View, ViewPair
from tests.official import (
    DEFAULTS,
    by_stem,
    cases,
    check_gradients,
    crops,
    grid_of,
    load,
    our_name,
    relative,
    renamed,
    unbuilt_cases,
)
from tests.ranks import in_ranks, unigrad_of_rank

KNOWN_SETTINGS = {
    *DEFAULTS, "image_size", "patch_size", "embed_dim", "depth", "num_heads", "decoder_dim", "decoder_heads", "momentum",
    "masked_patches", "batch", "lr", "weight_decay", "betas", "clip_grad_norm", "note",
}  # fmt: skip


class PixelsAsTheyAre(SiameseIM):
    """Golden images are normalised already."""

    def _normalised(self, view: View, colour: object) -> torch.Tensor:
        return view.pixels


class NaiveTwin(PixelsAsTheyAre, NaiveSiameseIM):
    """What `bench step` measures against has to compute the same."""


def build(arrays: dict[str, np.ndarray], s: dict[str, Any], kind: type[SiameseIM] = PixelsAsTheyAre) -> SiameseIM:
    assert not (unknown := set(s) - KNOWN_SETTINGS), f"settings that this test does not honour: {unknown}"
    size = s["image_size"] if isinstance(s["image_size"], list) else [s["image_size"]] * 2
    encoder = EncoderSettings(
        image_size=tuple(size), patch_size=s["patch_size"], width=s["embed_dim"], depth=s["depth"], heads=s["num_heads"],
        layer_scale=s["init_values"], train_patch_embedding=s["train_patch_embed"],
    )  # fmt: skip
    width, heads = s["decoder_dim"], s["decoder_heads"]
    norm = {True: "layer", False: "batch"}
    projector = Projector(s["embed_dim"], width, depth=s["projector_depth"], heads=heads, norm=norm[s["use_proj_ln"]])
    online = Branch(Encoder(encoder), projector)
    learner = kind(
        online=online,
        target=EMATarget(online, partial(constant_momentum, always=s["momentum"])),
        predictor=Predictor(width, depth=s["predictor_depth"], heads=heads, norm=norm[s["use_pred_ln"]]),
        objective=Dense(s["neg_weight"]),
        views=PairViews(
            ViewSettings(mask=MaskSettings(count=s["masked_patches"])), tuple(size), grid_of(arrays["in/mask"])
        ),
        prediction_norm=nn.LayerNorm(width, eps=1e-5).requires_grad_(False) if s["online_ln"] else None,
    )
    learner.load_state_dict(renamed(arrays, "state/"), strict=True)
    return learner


def batch_of(arrays: dict[str, np.ndarray]) -> ViewPair:
    seen, other = crops(arrays, "in/")
    hidden = torch.from_numpy(arrays["in/mask"]).flatten(1)
    x1, x2 = (torch.from_numpy(arrays[f"in/x{i}"]) for i in (1, 2))
    return ViewPair(View(x1, seen, hidden), View(x2, other, torch.zeros_like(hidden)))


@by_stem("siamese_im")
def test_forward_parity(path: Path) -> None:
    arrays, settings = load(path)
    learner, batch = build(arrays, settings), batch_of(arrays)
    grid, width = grid_of(arrays["in/mask"]), settings["decoder_dim"]
    context = learner.prepare([batch], 0.0)
    code = relative_code(place(batch.target.crop, within=batch.online.crop, grid=grid), width=width)
    visible = (~batch.online.masked).nonzero()[:, 1].view(len(batch.online.masked), -1)
    target = learner.target
    raw = target.projector(target.encoder(batch.target.pixels).sequence)[:, 1:]
    ours = {
        "relative_position": code,
        "relative_position_embedding": learner.predictor.position(Conditioning(code, torch.zeros(0))),
        "online_encoder_output": learner.online.encoder(batch.online.pixels, visible).sequence,
        "pred": learner.predict(batch),
        "target_raw": raw,
        "target": context.targets[0],
    }
    for name, value in ours.items():
        assert relative(value, arrays[f"out/{name}"]) < 1e-5, name
    assert float(learner(batch, context, 0).total.detach()) == pytest.approx(arrays["out/losses"][0], rel=1e-5)


@by_stem("siamese_im")
def test_moving_average_parity(path: Path) -> None:
    arrays, settings = load(path)
    learner = build(arrays, settings)
    learner.prepare([batch_of(arrays)], 0.0)
    moved, expected = learner.state_dict(), renamed(arrays, "ema_after_first_forward/")
    assert set(expected) >= {f"target.{name}" for name, _ in learner.target.named_parameters()}
    for name, value in expected.items():
        assert relative(moved[name], value.numpy()) < 1e-6, name


@by_stem("siamese_im")
@pytest.mark.parametrize("kind", [PixelsAsTheyAre, NaiveTwin])
def test_gradient_parity(path: Path, kind: type[SiameseIM]) -> None:
    arrays, settings = load(path)
    learner, batch = build(arrays, settings, kind), batch_of(arrays)
    learner(batch, learner.prepare([batch], 0.0), 0).total.backward()
    check_gradients(learner, renamed(arrays, "grad/"))


@by_stem("siamese_im")
@pytest.mark.parametrize("kind", [PixelsAsTheyAre, NaiveTwin])
def test_five_steps_parity(path: Path, kind: type[SiameseIM]) -> None:
    arrays, s = load(path)
    learner, batch = build(arrays, s, kind), batch_of(arrays)
    optimiser = torch.optim.AdamW(learner.parameter_groups(s["weight_decay"]), lr=s["lr"], betas=s["betas"])
    trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    losses, norms = [], []
    for _ in arrays["out/losses"]:
        loss = learner(batch, learner.prepare([batch], 0.0), 0).total
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(trained, s["clip_grad_norm"] or float("inf"))))
        losses.append(float(loss.detach()))
        optimiser.step()
        optimiser.zero_grad()
    assert losses == pytest.approx(arrays["out/losses"].tolist(), rel=1e-3)
    assert norms == pytest.approx(arrays["out/grad_norms"].tolist(), rel=1e-3)


@by_stem("positions")
def test_positions_parity(path: Path) -> None:
    arrays, _ = load(path)
    grid, width = PatchGrid(int(arrays["grid"]), int(arrays["grid"])), int(arrays["dim"])
    seen, other = crops(arrays)
    code = relative_code(place(other, within=seen, grid=grid), width=width)
    assert relative(code, arrays["relative_embedding"]) < 1e-5
    table = torch.cat([torch.zeros(1, width), sincos_grid(grid, width=width)])
    assert relative(table, arrays["absolute_embedding_with_cls"]) < 1e-5


@by_stem("unigrad")
def test_unigrad_parity_ranks(path: Path, tmp_path: Path) -> None:
    arrays, _ = load(path)
    count = len({key.split("/")[0] for key in arrays if key.startswith("rank")})
    results = in_ranks(count, unigrad_of_rank, tmp_path, str(path))
    for rank, (loss, gradient) in enumerate(results):
        assert loss == pytest.approx(float(arrays[f"rank{rank}/loss"]), rel=1e-5)
        assert relative(gradient, arrays[f"rank{rank}/grad"]) < 1e-5


def mask_statistics() -> dict[str, dict[str, Any]]:
    return json.loads((Path(__file__).parent / "data" / "blockwise_mask_statistics.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", mask_statistics())
def test_blockwise_mask_statistics_parity(name: str) -> None:
    golden = mask_statistics()[name]
    grid, count = PatchGrid(golden["grid"], golden["grid"]), golden["samples"]
    rng = Random(1)
    masks = np.stack([
        blockwise_mask(grid, count=golden["masked"], minimum_block=golden["min_block"], rng=rng) for _ in range(count)
    ])  # fmt: skip
    assert (masks.sum(axis=(1, 2)) == golden["masked"]).all()
    frequency = np.asarray(golden["frequency_by_position"])
    # Both sides are samples: the difference of two frequencies has twice the binomial variance.
    error = np.sqrt(2 * frequency * (1 - frequency) / count)
    deviation = (masks.mean(axis=0) - frequency) / error
    assert np.abs(deviation).max() < 4.5
    assert deviation.std() < 1.5
    for axis, key in ((2, "agree_horizontal"), (1, "agree_vertical")):
        agree = 1 - np.abs(np.diff(masks.astype(np.int8), axis=axis)).mean(axis=(1, 2))
        assert abs(agree.mean() - golden[key]) < 4.5 * np.sqrt(2) * agree.std() / np.sqrt(count)


def test_every_case_is_of_a_kind_that_is_built() -> None:
    if unbuilt := unbuilt_cases():
        pytest.skip("not built yet: " + ", ".join(path.stem for path in unbuilt))


def test_every_official_name_is_known() -> None:
    arrays, _ = load(cases("siamese_im")[0])
    assert sum(our_name(key.removeprefix("state/")) is not None for key in arrays if key.startswith("state/")) > 100
