"""What each exchangeable part of Siamese Image Modeling means, against a plain reading of it."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from otherview.geometry import Crop, PatchGrid
from otherview.losses import contrastive
from otherview.losses.contrastive import info_nce, info_nce_in_chunks
from otherview.losses.objectives import StepLoss, overlap_roots
from otherview.losses.reconstruction import normalise_patches, patchify
from otherview.methods.siamese_im import SiameseIM
from otherview.nn.positions import no_position, position_and_scale, position_only
from otherview.views.view import ViewPair, normalise
from tests.test_methods import PARTS, learner_and_batch

LAYER_NORM = {"projector_norm": "layer", "predictor_norm": "layer"}
"""So that an image's prediction does not depend on the others in its batch."""


def made(part: str, monkeypatch: pytest.MonkeyPatch) -> tuple[SiameseIM, ViewPair]:
    chosen = {**PARTS[part], "method": {**PARTS[part].get("method", {}), **LAYER_NORM}}
    monkeypatch.setitem(PARTS, part, chosen)
    learner, batch = learner_and_batch("siamese_im_cpu_adamw", part)
    assert isinstance(learner, SiameseIM)
    return learner, batch


@dataclass
class Recording:
    """An objective that keeps what it was shown."""

    shown: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def statistics(self, targets: Any) -> tuple[Tensor, ...]:
        return ()

    def __call__(self, y: Tensor, z: Tensor, statistics: Any) -> StepLoss:
        self.shown.append((y, z))
        return StepLoss(y.sum(), {})

    def figures(self, statistics: Any) -> dict[str, Tensor]:
        return {}


@pytest.mark.parametrize("part", ["three masks", "three masks, a quarter predicted"])
def test_several_masks_are_several_batches(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass of the target serves them all, and the loss is the mean of what each mask alone would give."""
    learner, batch = made(part, monkeypatch)
    context = learner.prepare([batch], 0.0)
    assert len(context.targets) == 1 and len(context.targets[0]) == 6
    hidden = batch.online.masked
    assert hidden.shape == (6, 3, 64) and not torch.equal(hidden[:, 0], hidden[:, 1])
    together = learner(batch, context, 0).total
    alone = [
        learner(batch._replace(online=batch.online._replace(masked=hidden[:, mask])), context, 0).total
        for mask in range(3)
    ]
    assert float(together.detach()) == pytest.approx(float(torch.stack(alone).detach().mean()), rel=1e-5)


def test_asked_patches_meet_their_own_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = made("a quarter predicted", monkeypatch)
    learner.objective = recording = Recording()
    context = learner.prepare([batch], 0.0)
    learner(batch, context, 0)
    ((y, z),) = recording.shown
    assert y.shape == z.shape == (6, 16, 32)
    for image in range(6):
        assert torch.equal(z[image], context.targets[0][image][~batch.target.masked[image]])


def test_the_pixels_of_the_other_view_are_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = made("pixels", monkeypatch)
    learner.objective = recording = Recording()
    learner(batch, learner.prepare([batch], 0.0), 0)
    ((y, z),) = recording.shown
    images = normalise(batch.target.pixels, learner.views.settings.mean, learner.views.settings.std)
    assert torch.equal(z, normalise_patches(patchify(images, 4))) and y.shape == z.shape
    assert list(learner.encoders) == ["encoder"]


@pytest.mark.parametrize("part", ["overlap", "overlap, three masks, a quarter predicted"])
def test_what_the_seen_view_does_not_show_counts_for_nothing(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crops in pixels, patch by patch: the loss is the mean over asked patches whose centre the seen crop holds."""
    learner, batch = made(part, monkeypatch)
    context = learner.prepare([batch], 0.0)
    loss = learner(batch, context, 0)
    everywhere = context._replace(weights=None)
    learner.objective, dense = Recording(), learner.objective
    learner(batch, everywhere, 0)
    ((y, z),) = learner.objective.shown
    within = torch.tensor([_centres_within(batch, image) for image in range(6)])
    assert 0.1 < within.float().mean() < 0.9
    asked = [(~batch.target.masked[image]).nonzero()[:, 0] for image in range(6)]
    kept = torch.stack([within[image][asked[image]] for image in range(6)])
    kept = kept.repeat_interleave(len(y) // 6, dim=0)
    expected = dense(y[kept][None], z[kept][None], context.statistics)
    assert float(loss.total.detach()) == pytest.approx(float(expected.total.detach()), rel=1e-5)


def _centres_within(batch: ViewPair, image: int) -> list[bool]:
    seen, other = ([float(torch.as_tensor(side)[image]) for side in view.crop] for view in (batch.online, batch.target))
    found = []
    for row in range(8):
        for column in range(8):
            y = other[0] + other[2] * (row + 0.5) / 8
            across = (column + 0.5) / 8
            x = other[1] + other[3] * (1 - across if other[4] else across)
            found.append(seen[0] <= y < seen[0] + seen[2] and seen[1] <= x < seen[1] + seen[3])
    return found


def test_nothing_overlaps_means_no_loss() -> None:
    (roots,) = overlap_roots([torch.zeros(2, 4, dtype=torch.bool)], [torch.ones(2, 4, dtype=torch.bool)])
    assert (roots == 0).all()


def test_what_the_predictor_is_told() -> None:
    grid = PatchGrid(4, 4)
    seen, other = Crop(0.0, 0.0, 32.0, 32.0, False), Crop(8.0, 4.0, 16.0, 8.0, True)
    whole, place_alone, nothing = (
        relation(seen, other, grid) for relation in (position_and_scale, position_only, no_position)
    )
    assert torch.equal(whole.rows, place_alone.rows) and torch.equal(whole.columns, place_alone.columns)
    assert float(whole.row_scale) == 0.5 and float(place_alone.row_scale) == 1.0 == float(place_alone.column_scale)
    assert torch.allclose(nothing.rows, torch.arange(4.0, dtype=torch.float64))
    assert torch.allclose(nothing.columns, torch.arange(4.0, dtype=torch.float64))


@pytest.mark.parametrize("part", ["condition on colour", "zero start"])
def test_colours_matter_where_they_are_told(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = made(part, monkeypatch)
    torch.nn.init.normal_(learner.predictor.head.weight)
    changed = batch._replace(target=batch.target._replace(colour=batch.target.colour + 0.5))
    same = torch.equal(learner.predict(batch), learner.predict(changed))
    assert same == (part == "zero start")
    assert batch.target.colour.shape == (6, 7) and batch.target.colour.abs().sum() > 0


def test_no_momentum_is_the_online_branch_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = made("no momentum", monkeypatch)
    for parameter in learner.online.parameters():
        parameter.data.add_(0.01)
    learner.prepare([batch], 0.7)
    target, online = learner.target.state_dict(), learner.online.state_dict()
    assert target.keys() == online.keys() and all(torch.equal(target[name], online[name]) for name in online)


def test_constant_momentum_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = made("constant momentum", monkeypatch)
    before = learner.target.encoder.vit.cls_token.clone()
    learner.online.encoder.vit.cls_token.data.add_(1.0)
    learner.prepare([batch], 0.9)
    moved = learner.target.encoder.vit.cls_token - before
    assert torch.allclose(moved, torch.full_like(moved, 0.01), atol=1e-6)  # 1 − momentum .99, at any progress


def test_the_overlap_of_a_step_is_weighed_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two micro-batches of different overlap: their losses' mean is that of the batch they make up."""
    learner, batch = made("overlap", monkeypatch)
    halves = [tree_map(lambda part, s=s: part[s], batch) for s in (slice(0, 3), slice(3, 6))]
    whole = learner(batch, learner.prepare([batch], 0.0), 0).total
    context = learner.prepare(halves, 0.0)
    parts = [learner(half, context, index).total for index, half in enumerate(halves)]
    assert float(torch.stack(parts).detach().mean()) == pytest.approx(float(whole.detach()), rel=1e-5)


def test_the_same_crop_with_colours_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    _, batch = made("same crop", monkeypatch)
    for mine, theirs in zip(batch.online.crop, batch.target.crop, strict=True):
        assert torch.equal(torch.as_tensor(mine), torch.as_tensor(theirs))
    assert not torch.equal(batch.online.colour, batch.target.colour)


def test_info_nce_in_chunks_is_info_nce(monkeypatch: pytest.MonkeyPatch) -> None:
    """In value and gradient, the last chunk being a short one."""
    monkeypatch.setattr(contrastive, "CHUNK", 4)
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(count, 5, generator=generator) for count in (10, 14))
    own = torch.arange(2, 12)
    values, gradients = [], []
    for loss in (
        lambda q: info_nce(q, keys, own, temperature=0.2),
        lambda q: info_nce_in_chunks(q, keys[own], keys, temperature=0.2),
    ):
        free = queries.clone().requires_grad_()
        value = loss(free)
        value.backward()
        values.append(float(value.detach()))
        gradients.append(free.grad)
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6)
