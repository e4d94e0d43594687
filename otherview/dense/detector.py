"""Mask R-CNN on a windowed encoder (ViTDet, arXiv 2203.16527): torchvision's parts, put together for square images.

Proposals are torchvision's with the choices of ViTDet: anchors as they are, L1, 1000 kept.

Axes: B images, C channels, S side in pixels.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from otherview.data.objects import Category
from otherview.dense.regions import Federated, Regions
from otherview.dense.settings import BoxSettings, DetectConfig
from otherview.dense.windows import STRIDES, SimplePyramid, patches_of, windowed
from otherview.nn.encoder import Encoder
from otherview.nn.initialise import seeded

Found = dict[str, Tensor]
"""Of one image: boxes [n, 4] in pixels of the square, scores [n], labels [n] from 1, masks [n, 1, 28, 28] within boxes."""


class Detector(nn.Module):
    """Losses where objects are given, detections otherwise."""

    def __init__(self, encoder: Encoder, config: DetectConfig, categories: Sequence[Category], *, seed: int) -> None:
        super().__init__()
        patch, settings = encoder.settings.patch_size, config.boxes
        self.backbone = windowed(encoder, size=config.size, settings=config.windows)
        with seeded(seed, "detection heads"):
            self.pyramid = SimplePyramid(encoder.settings.width, settings.channels)
            self.proposals = make_proposals(settings, patch_size=patch)
            federated = (
                Federated(
                    [kind.images for kind in categories],
                    count=settings.federated_classes,
                    power=settings.federated_power,
                )
                if settings.classification == "federated"
                else None
            )
            self.regions = Regions(settings, classes=len(categories), patch_size=patch, federated=federated)

    def forward(
        self,
        images: Float[Tensor, "B C S S"],
        sizes: Sequence[tuple[int, int]],
        objects: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[Found], dict[str, Tensor]]:
        """Normalised images and the (height, width) that each shows; objects as boxes, labels from 1 and masks [n, S, S]."""
        levels = self.pyramid(patches_of(self.backbone, images))
        # Losses and boxes in float32, whatever the autocast.
        with torch.autocast(images.device.type, enabled=False):
            levels = {name: level.float() for name, level in levels.items()}
            boxes, likely = self.proposals(ImageList(images, list(sizes)), levels, objects)
        found, losses = self.regions(levels, boxes, list(sizes), objects)
        renamed = {"loss_objectness": "objectness", "loss_rpn_box_reg": "proposal"}
        return found, {renamed[name]: value for name, value in likely.items()} | losses


ASPECTS = (0.5, 1.0, 2.0)


class Anchors(AnchorGenerator):
    """Anchors whose sides and places are not rounded to pixels, on the pyramid of patches of `patch_size`."""

    def __init__(self, finest: float, patch_size: int) -> None:
        """`finest` is their side on the finest level, in pixels."""
        self.strides = [stride * patch_size for stride in STRIDES]
        sides = tuple((finest * stride / self.strides[0],) for stride in self.strides)
        super().__init__(sides, (ASPECTS,) * len(STRIDES))

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Every anchor of each image: float [anchors, 4]."""
        self.set_cell_anchors(feature_maps[0].dtype, feature_maps[0].device)
        strides = [[torch.tensor(stride, device=feature_maps[0].device)] * 2 for stride in self.strides]
        grids = [list(level.shape[-2:]) for level in feature_maps]
        return [torch.cat(self.grid_anchors(grids, strides))] * len(image_list.image_sizes)

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (as the parent has it)
    ) -> Tensor:
        sides = torch.as_tensor(scales, dtype=dtype, device=device)
        roots = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        widths, heights = (sides[None] / roots[:, None]).flatten(), (sides[None] * roots[:, None]).flatten()
        return torch.stack([-widths, -heights, widths, heights], dim=1) / 2


class Proposals(RegionProposalNetwork):
    """Boxes that may hold an object; the loss of their sides is L1."""

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: Sequence[Tensor],
        regression_targets: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        positive, negative = (torch.cat(chosen) > 0 for chosen in self.fg_bg_sampler([*labels]))
        sampled, known = positive | negative, torch.cat([*labels])
        sides = F.l1_loss(pred_bbox_deltas[positive], torch.cat([*regression_targets])[positive], reduction="sum")
        whether = F.binary_cross_entropy_with_logits(objectness.flatten()[sampled], known[sampled])
        return whether, sides / sampled.sum()


def make_proposals(settings: BoxSettings, *, patch_size: int) -> Proposals:
    """One side of anchor and three aspects on every level of the pyramid, whose finest has a quarter of a patch as stride."""
    before: dict[str, int] = {"training": settings.proposals_before[0], "testing": settings.proposals_before[1]}
    return Proposals(
        Anchors(settings.anchor_patches * patch_size, patch_size),
        RPNHead(settings.channels, len(ASPECTS), conv_depth=2),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=settings.anchors_sampled,
        positive_fraction=0.5,
        pre_nms_top_n=before,
        post_nms_top_n=dict.fromkeys(before, settings.proposals),
        nms_thresh=0.7,
    )
