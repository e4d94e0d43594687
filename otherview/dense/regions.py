"""What is in a region: class, box and mask heads on torchvision's, with the choices of ViTDet; LVIS's loss and sampling.

Regions are pooled with aligned corners; sides of boxes have an L1 loss; classes a softmax, or the sigmoids of LVIS, whose
classes are many with few images of most: repeat-factor sampling and the federated loss (arXiv 1908.03195; 2104.08444).

Axes: R regions, K classes (0 is the background under softmax), C channels, S side of the pooled square.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from timm.layers import LayerNorm2d  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes, roi_align

from otherview.dense.settings import BoxSettings
from otherview.dense.windows import STRIDES

ROUNDS = 16
"""An epoch under repeat factors is so many passes over the images, each with its own rounding of fractions."""


class Federated(nn.Module):
    """Sigmoid cross-entropy over the classes of a step's objects and others drawn until there are `count`."""

    weights: Tensor

    def __init__(self, images: Sequence[int], *, count: int, power: float) -> None:
        """`images` has the number of images that show each class."""
        super().__init__()
        self.count = min(count, len(images))
        self.register_buffer("weights", torch.as_tensor(images, dtype=torch.float32) ** power, persistent=False)

    def forward(self, scores: Float[Tensor, "R K"], labels: Int[Tensor, " R"]) -> Float[Tensor, ""]:
        chosen = self.classes(labels)
        wanted = F.one_hot(labels, scores.shape[1]).to(scores.dtype)
        loss = F.binary_cross_entropy_with_logits(scores[:, chosen], wanted[:, chosen], reduction="sum")
        return loss / max(1, len(labels))

    def classes(self, labels: Int[Tensor, " R"]) -> Int[Tensor, " C"]:
        """Columns of the scores that count in this step: all that occur, and negatives drawn by their weights."""
        occurring = torch.unique(labels[labels > 0])
        missing = self.count - len(occurring)
        weights = self.weights.clone()
        weights[occurring - 1] = 0
        missing = min(missing, int((weights > 0).sum()))
        if missing <= 0:
            return occurring
        return torch.cat([occurring, torch.multinomial(weights, missing) + 1])


def repeat_factors(kinds: Sequence[Sequence[int]], *, threshold: float) -> Float[np.ndarray, " N"]:
    """How often each image is seen in an epoch: the largest of max(1, sqrt(threshold / f)) over the classes it shows,
    where f is the share of images that show the class."""
    count = max((max(some, default=-1) for some in kinds), default=-1) + 1
    shown = np.bincount([kind for some in kinds for kind in some], minlength=count) / max(1, len(kinds))
    factors = np.maximum(1.0, np.sqrt(threshold / np.maximum(shown, 1e-12)))
    return np.array([max((factors[kind] for kind in some), default=1.0) for some in kinds])


def repeated(factors: Float[np.ndarray, " N"], *, seed: int) -> Int[np.ndarray, " M"]:
    """Places of images, each as often as its factor says, over ROUNDS passes; fractions are rounded by chance."""
    rng = np.random.default_rng(seed)
    whole, part = np.divmod(factors, 1.0)
    times = whole[None].astype(int) + (rng.random((ROUNDS, len(factors))) < part)
    return np.concatenate([np.repeat(np.arange(len(factors)), some) for some in times])


CANONICAL_PATCHES = 14
"""A region of so many patches along a side is pooled from the level of the patches themselves (224 px at 16)."""
POOLED_LEVELS = 4
BOX_SIDE, MASK_SIDE = 7, 14


class Pooler(nn.Module):
    """RoIAlign with aligned corners, from the level that fits a region's area (arXiv 1612.03144, equation 1)."""

    def __init__(self, side: int, patch_size: int) -> None:
        super().__init__()
        self.side, self.patch_size = side, patch_size

    def forward(self, levels: Mapping[str, Tensor], boxes: list[Tensor], _sizes: Any) -> Float[Tensor, "R C S S"]:
        maps = list(levels.values())[:POOLED_LEVELS]
        owners = torch.cat([torch.full_like(some[:, :1], image) for image, some in enumerate(boxes)])
        regions = torch.cat([owners, torch.cat(boxes)], dim=1)
        chosen = self.level_of(regions[:, 1:])
        pooled = maps[0].new_zeros((len(regions), maps[0].shape[1], self.side, self.side))
        for number, level in enumerate(maps):
            here = torch.where(chosen == number)[0]
            scale = 1 / (STRIDES[number] * self.patch_size)
            found = roi_align(level, regions[here].to(level.dtype), self.side, scale, sampling_ratio=-1, aligned=True)
            pooled[here] = found.to(pooled.dtype)
        return pooled

    def level_of(self, boxes: Float[Tensor, "R 4"]) -> Int[Tensor, " R"]:
        """The number of the level that a box is pooled from."""
        side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=0).sqrt()
        level = STRIDES.index(1.0) + torch.log2(side / (CANONICAL_PATCHES * self.patch_size) + 1e-8)
        return level.floor().clamp(0, POOLED_LEVELS - 1).long()


def mask_loss(
    logits: Float[Tensor, "R K M M"],
    boxes: list[Tensor],
    truth: list[Tensor],
    *,
    matched: list[Tensor],
    labels: Int[Tensor, " R"],
) -> Float[Tensor, ""]:
    """Cross-entropy of the masks of positive regions: the truth is cut out of each box with aligned corners.

    `truth` has the masks of each image's objects, `matched` which of them each region shows.
    """
    if not len(labels):
        return logits.sum() * 0
    side = logits.shape[-1]
    wanted = []
    for masks, some, which in zip(truth, boxes, matched, strict=True):
        regions = torch.cat([which[:, None].to(some.dtype), some], dim=1)
        wanted.append(
            roi_align(masks[:, None].to(some.dtype), regions, side, 1.0, sampling_ratio=-1, aligned=True)[:, 0]
        )
    chosen = logits[torch.arange(len(labels), device=logits.device), labels]
    return F.binary_cross_entropy_with_logits(chosen, (torch.cat(wanted) >= 0.5).to(chosen.dtype))


class Regions(RoIHeads):
    """Class, box and mask of every region; `federated` replaces the softmax."""

    def __init__(self, settings: BoxSettings, *, classes: int, patch_size: int, federated: Federated | None) -> None:
        channels = settings.channels
        pyramid = (channels, BOX_SIDE, BOX_SIDE)
        box_head = FastRCNNConvFCHead(
            pyramid, [channels] * settings.box_convolutions, [settings.hidden], norm_layer=LayerNorm2d
        )
        super().__init__(
            box_roi_pool=Pooler(BOX_SIDE, patch_size),
            box_head=box_head,
            box_predictor=FastRCNNPredictor(settings.hidden, classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=settings.regions_sampled,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=settings.least_score,
            nms_thresh=settings.suppression,
            detections_per_img=settings.detections,
            mask_roi_pool=Pooler(MASK_SIDE, patch_size),
            mask_head=MaskRCNNHeads(channels, [channels] * settings.mask_convolutions, 1, norm_layer=LayerNorm2d),
            mask_predictor=MaskRCNNPredictor(channels, channels, classes + 1),
        )
        self.federated = federated
        nn.init.normal_(self.box_predictor.cls_score.weight, std=0.01)
        nn.init.normal_(self.box_predictor.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.box_predictor.bbox_pred.bias)
        # Where every class is a question of its own, none is likely at the start.
        nn.init.constant_(self.box_predictor.cls_score.bias, -math.log(99) if federated else 0.0)

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Losses in training, detections otherwise; masks come as [n, 1, 28, 28] within their boxes."""
        if targets is not None:
            return [], self._losses(features, proposals, image_shapes, targets)
        scores, sides = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, image_shapes)))
        found = self.postprocess_detections(scores.float(), sides.float(), proposals, image_shapes)
        boxes, _, labels = found
        logits = self._masks(features, boxes, image_shapes)
        masks = maskrcnn_inference(logits.float(), labels)
        parts = zip(*found, masks, strict=True)
        return [{"boxes": b, "scores": s, "labels": k, "masks": m} for b, s, k, m in parts], {}

    def _masks(self, features: dict[str, Tensor], boxes: list[Tensor], shapes: Any) -> Tensor:
        assert self.mask_roi_pool and self.mask_head and self.mask_predictor
        return self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, shapes)))

    def _losses(
        self, features: dict[str, Tensor], proposals: list[Tensor], shapes: Any, targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        proposals, matched, labels, wanted = self.select_training_samples(proposals, targets)
        scores, sides = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, shapes)))
        known, positive = torch.cat(labels), [torch.where(some > 0)[0] for some in labels]
        objects = torch.where(known > 0)[0]
        chosen = sides.view(len(known), -1, 4)[objects, known[objects]]
        shown = [boxes[some] for boxes, some in zip(proposals, positive, strict=True)]
        logits = self._masks(features, shown, shapes)
        truth = [target["masks"] for target in targets]
        of_truth = [some[here] for some, here in zip(matched, positive, strict=True)]
        classify = F.cross_entropy if self.federated is None else self.federated
        return {
            "class": classify(scores.float(), known),
            "box": F.l1_loss(chosen.float(), torch.cat(wanted)[objects], reduction="sum") / len(known),
            "mask": mask_loss(logits.float(), shown, truth, matched=of_truth, labels=known[objects]),
        }

    def postprocess_detections(
        self, class_logits: Tensor, box_regression: Tensor, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Boxes, scores and classes of every image: decoded, cut to the image, the weak and the doubled left out."""
        counts = [len(some) for some in proposals]
        decoded = self.box_coder.decode(box_regression, proposals).split(counts)
        likely = class_logits.softmax(dim=1) if self.federated is None else class_logits.sigmoid()
        kept: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for boxes, scores, shape in zip(decoded, likely.split(counts), image_shapes, strict=True):
            region, kind = torch.where(scores[:, 1:] > self.score_thresh)
            kind = kind + 1
            cut, likeliest = clip_boxes_to_image(boxes[region, kind], shape), scores[region, kind]
            whole = remove_small_boxes(cut, min_size=1e-2)
            cut, likeliest, kind = cut[whole], likeliest[whole], kind[whole]
            best = batched_nms(cut, likeliest, kind, self.nms_thresh)[: self.detections_per_img]
            for some, values in zip(kept, (cut, likeliest, kind), strict=True):
                some.append(values[best])
        return kept
