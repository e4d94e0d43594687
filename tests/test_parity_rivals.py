"""Golden numbers of MAE and MoCo-v3, to the tolerances of the SiameseIM cases."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from otherview.geometry import Crop, PatchGrid
from otherview.losses.objectives import StepLoss
from otherview.methods.learner import Learner
from otherview.methods.mae import MAE, Decoder
from otherview.methods.moco_v3 import Head, MoCoV3
from otherview.methods.target import constant_momentum
from otherview.nn.encoder import Encoder
from otherview.nn.settings import EncoderSettings
from otherview.views.settings import MaskSettings, ViewSettings
from otherview.views.transforms import PairViews, SingleView
from otherview.views.view import View, ViewPair
from tests.official import by_stem, check_gradients, load, relative, rival_parameters

SIZES = {"image_size", "patch_size", "embed_dim", "depth", "num_heads", "lr", "weight_decay", "betas", "note"}
KNOWN = {
    "mae": {"decoder_dim", "decoder_depth", "decoder_heads", "normalize_pixels", "mask_ratio"},
    "moco_v3": {"mlp_dim", "output_dim", "temperature", "momentum"},
}
NOWHERE = Crop(*torch.tensor([[0.0], [0.0], [1.0], [1.0]]), torch.tensor([False]))
"""Neither method asks where a view was cut."""


class MAEOfTensors(MAE):
    """Golden images are normalised already."""

    def forward(self, batch: View, context: None, index: int) -> StepLoss:
        return StepLoss(self.loss(batch.pixels, batch.masked), {})


class MoCoV3OfTensors(MoCoV3):
    def _normalised(self, view: View, colour: object) -> torch.Tensor:
        return view.pixels


def golden(path: Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The case as its file has it, without the defaults of other kinds."""
    arrays, settings = load(path)
    settings = {name: value for name, value in settings.items() if name in SIZES | KNOWN[kind]}
    return arrays, settings


def encoder_of(s: dict[str, Any], *, train_patch_embedding: bool, column_first: bool = False) -> Encoder:
    size = s["image_size"] if isinstance(s["image_size"], list) else [s["image_size"]] * 2
    return Encoder(
        EncoderSettings(
            image_size=tuple(size), patch_size=s["patch_size"], width=s["embed_dim"], depth=s["depth"],
            heads=s["num_heads"], final_norm=True, train_patch_embedding=train_patch_embedding,
            column_first=column_first,
        )
    )  # fmt: skip


def mae_of(path: Path) -> tuple[MAE, list[View], dict[str, np.ndarray], dict[str, Any]]:
    """The learner, the same images under every step's mask, and the case."""
    arrays, s = golden(path, "mae")
    encoder = encoder_of(s, train_patch_embedding=True, column_first=True)
    grid = PatchGrid(*encoder.grid)
    kept = int(grid.patches * (1 - s["mask_ratio"]))
    mask = MaskSettings(kind="random", count=grid.patches - kept)
    values = 3 * s["patch_size"] ** 2
    learner = MAEOfTensors(
        encoder=encoder,
        decoder=Decoder(
            s["embed_dim"], s["decoder_dim"], depth=s["decoder_depth"], heads=s["decoder_heads"], values=values
        ),
        view=SingleView(ViewSettings(mask=mask), encoder.settings.image_size, grid),
        normalise_pixels=s["normalize_pixels"],
    )
    learner.load_state_dict(rival_parameters(arrays, "state/", "mae"), strict=True)
    images = torch.from_numpy(arrays["in/images"])
    views = []
    for noise in torch.from_numpy(arrays["in/noise"]):
        hidden = torch.ones_like(noise, dtype=torch.bool).scatter(1, noise.argsort(dim=1)[:, :kept], False)
        views.append(View(images, NOWHERE, hidden))
    return learner, views, arrays, s


def moco_v3_of(path: Path) -> tuple[MoCoV3, list[ViewPair], dict[str, np.ndarray], dict[str, Any]]:
    arrays, s = golden(path, "moco_v3")
    encoder = encoder_of(s, train_patch_embedding=False)
    wide, narrow = s["mlp_dim"], s["output_dim"]
    learner = MoCoV3OfTensors(
        encoder=encoder,
        projector=Head(s["embed_dim"], wide, wide, narrow),
        predictor=Head(narrow, wide, narrow),
        views=PairViews(
            ViewSettings(mask=MaskSettings(kind="none")), encoder.settings.image_size, PatchGrid(*encoder.grid)
        ),
        momentum=partial(constant_momentum, always=s["momentum"]),
        temperature=s["temperature"],
    )
    learner.load_state_dict(rival_parameters(arrays, "state/", "moco_v3"), strict=True)
    nothing = torch.zeros(len(arrays["in/x1"]), learner.views.grid.patches, dtype=torch.bool)
    first, second = (View(torch.from_numpy(arrays[f"in/x{i}"]), NOWHERE, nothing) for i in (1, 2))
    return learner, [ViewPair(first, second)] * len(arrays["out/losses"]), arrays, s


def first_step(learner: Learner, batch: Any) -> None:
    learner(batch, learner.prepare([batch], 0.0), 0).total.backward()


def five_steps(learner: Learner, batches: list[Any], s: dict[str, Any]) -> list[float]:
    optimiser = torch.optim.AdamW(learner.parameter_groups(s["weight_decay"]), lr=s["lr"], betas=s["betas"])
    losses = []
    for batch in batches:
        loss = learner(batch, learner.prepare([batch], 0.0), 0).total
        loss.backward()
        losses.append(float(loss.detach()))
        optimiser.step()
        optimiser.zero_grad()
    return losses


@by_stem("mae")
def test_mae_parity(path: Path) -> None:
    learner, views, arrays, s = mae_of(path)
    assert relative(learner.reconstruct(views[0].pixels, views[0].masked), arrays["out/pred"]) < 1e-5
    assert (views[0].masked.numpy() == arrays["out/mask"].astype(bool)).all()
    first_step(learner, views[0])
    check_gradients(learner, rival_parameters(arrays, "grad/", "mae"))
    learner, views, arrays, s = mae_of(path)
    assert five_steps(learner, views, s) == pytest.approx(arrays["out/losses"].tolist(), rel=1e-3)


@by_stem("moco_v3")
def test_moco_v3_parity(path: Path) -> None:
    learner, batches, arrays, s = moco_v3_of(path)
    first_step(learner, batches[0])
    check_gradients(learner, rival_parameters(arrays, "grad/", "moco_v3"))
    moved = learner.state_dict()
    for name, value in rival_parameters(arrays, "ema_after_first_forward/", "moco_v3").items():
        assert relative(moved[name], value.numpy()) < 1e-6, name
    learner, batches, arrays, s = moco_v3_of(path)
    assert five_steps(learner, batches, s) == pytest.approx(arrays["out/losses"].tolist(), rel=1e-3)
    (everything,) = learner.parameter_groups(0.1)  # norms and biases too
    assert everything["weight_decay"] == 0.1
