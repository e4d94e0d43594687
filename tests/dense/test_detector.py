"""Mask R-CNN's parts against plain arithmetic; losses, gradients, and what a detector says of images."""

import math
from random import Random

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align

from otherview.data.image import Preprocessing
from otherview.data.loader import KINDS, Ragged
from otherview.data.objects import Category
from otherview.data.picture import picture_of
from otherview.data.spec import open_source
from otherview.data.workers import joining
from otherview.dense.detection import Detect
from otherview.dense.detector import Anchors, Detector, make_proposals
from otherview.dense.inference import in_image, pasted
from otherview.dense.regions import CANONICAL_PATCHES, Federated, Pooler, mask_loss, repeat_factors, repeated
from otherview.dense.samples import JitteredObjects
from otherview.dense.settings import BoxSettings, DetectConfig, WindowSettings
from otherview.dense.windows import STRIDES
from otherview.nn.encoder import Encoder
from otherview.nn.settings import EncoderSettings
from otherview.recipes.dense import vitdet_b_coco, vitdet_b_lvis
from otherview.training.optim import falling, polynomial

LOOK = Preprocessing((32, 32), (0.5,) * 3, (0.25,) * 3)


def tiny(**boxes: object) -> DetectConfig:
    small = {
        "channels": 16, "hidden": 32, "box_convolutions": 1, "mask_convolutions": 1, "proposals_before": (50, 50),
        "proposals": 30, "anchors_sampled": 32, "regions_sampled": 16, "detections": 10,
    }  # fmt: skip
    windows = WindowSettings(window=4, global_blocks=(1,), drop_path=0.0)
    return DetectConfig(size=64, jitter=(0.7, 1.4), windows=windows, boxes=BoxSettings(**{**small, **boxes}))


def learner(config: DetectConfig) -> Detect:
    settings = EncoderSettings(image_size=(32, 32), patch_size=8, width=32, depth=2, heads=2)
    categories = open_source("shapes:4").categories  # pyright: ignore[reportAttributeAccessIssue]
    shown = [Category(kind.id, kind.name, images=kind.id) for kind in categories]
    detector = Detector(Encoder(settings), config, shown, seed=0)
    views = JitteredObjects(config.size, config.jitter, config.flip)
    return Detect(detector, views, LOOK, layer_decay=0.7, seed=0).train()


def batch(one: Detect, count: int):
    source = open_source("shapes:20@64")
    return joining(KINDS)([one.views(picture_of(source, index), Random(index)) for index in range(count)])


def test_ragged_rows_join_and_split_again() -> None:
    parts = [torch.arange(6.0).view(3, 2), torch.zeros(0, 2), torch.ones(1, 2)]
    joined = joining(KINDS)([Ragged.of(part) for part in parts])
    assert all(torch.equal(one, two) for one, two in zip(joined.split(), parts, strict=True))


@pytest.mark.parametrize("classification", ["softmax", "federated"])
def test_every_weight_learns_and_a_step_repeats(classification: str) -> None:
    one = learner(tiny(classification=classification, federated_classes=4))
    views, losses = batch(one, 3), []
    for _ in range(2):
        one.zero_grad()
        one.prepare([views], 0.25)
        step = one(views, None, 0)
        step.total.backward()
        losses.append(float(step.total.detach()))
    assert losses[0] == losses[1] and math.isfinite(losses[0])
    assert set(step.terms) == {"objectness", "proposal", "class", "box", "mask"}
    assert [name for name, value in one.named_parameters() if value.grad is None] == []


def test_an_image_without_objects_trains() -> None:
    one = learner(tiny())
    views = batch(one, 2)
    nothing = views._replace(
        boxes=Ragged(torch.zeros(0, 4), torch.tensor([0, 0])),
        labels=Ragged(torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0])),
        masks=Ragged(torch.zeros(0, 64, 64, dtype=torch.uint8), torch.tensor([0, 0])),
    )
    one.prepare([nothing], 0.0)
    step = one(nothing, None, 0)
    step.total.backward()
    assert math.isfinite(float(step.total)) and float(step.terms["box"]) == float(step.terms["mask"]) == 0


def test_anchors_are_not_rounded_and_sit_on_their_strides() -> None:
    anchors = Anchors(7.0, 14)
    levels = [torch.zeros(1, 8, math.ceil(112 / (14 * stride)), math.ceil(112 / (14 * stride))) for stride in STRIDES]
    found = anchors(ImageList(torch.zeros(1, 3, 112, 112), [(112, 112)]), levels)[0]
    widths, heights = found[:, 2] - found[:, 0], found[:, 3] - found[:, 1]
    assert found.shape[0] == 3 * sum(level.shape[-1] ** 2 for level in levels)
    torch.testing.assert_close((widths * heights)[: 3 * 32 * 32], torch.full((3 * 32 * 32,), 49.0))
    torch.testing.assert_close(heights[:3] / widths[:3], torch.tensor([0.5, 1.0, 2.0]))
    centres = (found[: 3 * 32 * 32 : 3, 0] + found[: 3 * 32 * 32 : 3, 2]) / 2
    torch.testing.assert_close(centres[:32], 3.5 * torch.arange(32.0), rtol=0, atol=1e-4)


def test_the_loss_of_proposals_is_cross_entropy_and_l1() -> None:
    proposals = make_proposals(BoxSettings(anchors_sampled=8), patch_size=8)
    scores, sides, wanted = torch.randn(6, 1), torch.randn(6, 4), torch.randn(6, 4)
    labels = torch.tensor([1.0, 0.0, 1.0, 0.0, -1.0, 0.0])
    whether, where = proposals.compute_loss(scores, sides, [labels], [wanted])
    counted, shown = labels >= 0, labels > 0
    expected = F.binary_cross_entropy_with_logits(scores[counted, 0], labels[counted])
    assert float(whether) == pytest.approx(float(expected))
    assert float(where) == pytest.approx(float((sides - wanted)[shown].abs().sum() / 5))


def test_regions_are_pooled_from_the_level_of_their_size() -> None:
    pooler = Pooler(3, 16)
    sides = torch.tensor([50.0, 111.0, 113.0, 223.0, 225.0, 447.0, 449.0, 2000.0])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], dim=1)
    assert CANONICAL_PATCHES * 16 == 224
    assert pooler.level_of(boxes).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    levels = {
        str(number): torch.randn(2, 4, round(64 / stride), round(64 / stride)) for number, stride in enumerate(STRIDES)
    }
    some = [boxes[:3] + torch.tensor([1.0, 2.0, 1.0, 2.0]), boxes[4:5]]
    found = pooler(levels, some, None)
    regions = torch.tensor([[0.0, *some[0][2].tolist()]])
    expected = roi_align(levels["1"], regions, 3, 1 / 8, sampling_ratio=-1, aligned=True)
    torch.testing.assert_close(found[2:3], expected)
    regions = torch.tensor([[1.0, *some[1][0].tolist()]])
    torch.testing.assert_close(found[3:], roi_align(levels["2"], regions, 3, 1 / 16, sampling_ratio=-1, aligned=True))


def test_a_detector_finds_the_same_whatever_shares_its_batch() -> None:
    one = learner(tiny(least_score=0.0)).eval()
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    sizes = [(64, 64), (40, 64), (64, 48)]
    with torch.no_grad():
        together = one.detector(images, sizes)[0]
        alone = one.detector(images[1:2], sizes[1:2])[0][0]
    torch.testing.assert_close(together[1]["boxes"], alone["boxes"], rtol=1e-3, atol=1e-3)
    for found, (height, width) in zip(together, sizes, strict=True):
        assert len(found["boxes"]) and (found["boxes"][:, 2] <= width).all() and (found["boxes"][:, 3] <= height).all()
        assert (found["labels"] >= 1).all() and (found["labels"] <= 8).all()
        assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)


def test_masks_are_pasted_at_pixel_centres() -> None:
    mask = torch.zeros(28, 28)
    mask[:, :14] = 1
    whole = pasted(mask, torch.tensor([4.0, 2.0, 12.0, 10.0]), (16, 20))
    expected = np.zeros((16, 20), np.uint8)
    expected[2:10, 4:8] = 1
    assert (whole == expected).all()
    assert pasted(torch.ones(28, 28), torch.tensor([-3.0, -3.0, 40.0, 40.0]), (16, 20)).all()
    assert not pasted(mask, torch.tensor([30.0, 2.0, 40.0, 10.0]), (16, 20)).any()


def test_detections_are_written_in_pixels_of_the_image() -> None:
    found = {
        "boxes": torch.tensor([[8.0, 4.0, 24.0, 20.0]]), "scores": torch.tensor([0.9]), "labels": torch.tensor([2]),
        "masks": torch.ones(1, 1, 28, 28),
    }  # fmt: skip
    line = in_image(found, size=(32, 64), whole=(16, 128), image_id=7, category_ids=[10, 90])[0]
    assert line["bbox"] == [16, 2, 32, 8] and (line["image_id"], line["category_id"]) == (7, 90)
    assert line["segmentation"]["size"] == [16, 128] and isinstance(line["segmentation"]["counts"], str)


def test_the_federated_loss_counts_the_drawn_classes_alone() -> None:
    loss = Federated([0, 5, 100, 1], count=3, power=0.5)
    labels = torch.tensor([2, 0, 2])
    torch.manual_seed(0)
    drawn = [loss.classes(labels).tolist() for _ in range(300)]
    assert all(len(set(classes)) == 3 and 2 in classes and 1 not in classes for classes in drawn)  # class 1: no images
    assert all({3, 4} <= set(classes) for classes in drawn)  # the only two others that exist
    two = Federated([5, 5, 100, 1], count=2, power=0.5)
    picked = [next(kind for kind in two.classes(torch.tensor([1])).tolist() if kind != 1) for _ in range(3000)]
    weights = np.array([5, 100, 1]) ** 0.5
    shares = np.bincount(picked, minlength=5)[2:] / 3000
    assert shares == pytest.approx(weights / weights.sum(), abs=0.03)
    scores = torch.randn(3, 5)
    expected = sum(
        float(F.binary_cross_entropy_with_logits(scores[row, kind], torch.tensor(float(labels[row] == kind))))
        for row in range(3) for kind in (2, 3, 4)
    ) / 3  # fmt: skip
    assert float(loss(scores, labels)) == pytest.approx(expected, rel=1e-5)


def test_repeat_factors_by_hand() -> None:
    kinds = [[0]] * 98 + [[0, 1], [1], []]  # of 101 images: class 0 in 99, class 1 in 2
    factors = repeat_factors(kinds, threshold=0.08)
    rare = math.sqrt(0.08 / (2 / 101))
    assert factors[:98] == pytest.approx(1) and factors[98:100] == pytest.approx(rare) and factors[100] == 1
    times = np.bincount(repeated(factors, seed=0), minlength=101) / 16
    assert (times[:98] == 1).all() and times[98:100].mean() == pytest.approx(rare, abs=0.25)


def test_recipes_are_the_published_ones() -> None:
    coco, lvis = vitdet_b_coco(), vitdet_b_lvis()
    assert coco.training.lr_per_256 * coco.batch / 256 == pytest.approx(1e-4)
    assert lvis.training.lr_per_256 * lvis.batch / 256 == pytest.approx(2e-4)
    assert [round(fall * coco.steps) for fall in coco.milestones] == [163_889, 177_546]
    assert [round(fall * lvis.steps) for fall in lvis.milestones] == [138_889, 150_463]
    assert (lvis.boxes.detections, lvis.boxes.least_score, lvis.boxes.classification) == (300, 0.02, "federated")


def test_schedules() -> None:
    warmup = 250 / 184_375
    assert falling(0.0, warmup=warmup, milestones=(0.8, 0.9)) == pytest.approx(1e-3)
    assert [falling(p, warmup=warmup, milestones=(0.8, 0.9)) for p in (warmup, 0.5, 0.8, 0.95)] == pytest.approx(
        [1, 1, 0.1, 0.01]
    )
    assert [polynomial(p, warmup=0.1, power=1.0) for p in (0.0, 0.05, 0.1, 0.5, 1.0)] == pytest.approx(
        [1e-6, 0.5 * 0.95, 0.9, 0.5, 0], abs=1e-5
    )


def test_the_truth_of_a_mask_is_cut_with_aligned_corners() -> None:
    """A mask that fills its box is inside everywhere; one that fills the left half, in the left half."""
    truth = torch.zeros(1, 20, 20, dtype=torch.uint8)
    truth[0, 4:16, 4:10] = 1
    logits = torch.zeros(1, 2, 28, 28)
    logits[0, 1, :, :14], logits[0, 1, :, 14:] = 50, -50
    boxes, first, label = [torch.tensor([[4.0, 4.0, 16.0, 16.0]])], [torch.tensor([0])], torch.tensor([1])
    assert float(mask_loss(logits, boxes, [truth], matched=first, labels=label)) < 1e-6
    filled = [torch.tensor([[4.0, 4.0, 10.0, 16.0]])]
    whole = mask_loss(torch.full((1, 2, 28, 28), 50.0), filled, [truth], matched=first, labels=label)
    assert float(whole) == pytest.approx(50 * 4 / 28**2)  # bilinear: the four corners are less than half inside
    nothing = mask_loss(
        torch.zeros(0, 2, 28, 28), [torch.zeros(0, 4)], [truth], matched=[first[0][:0]], labels=label[:0]
    )
    assert float(nothing) == 0
