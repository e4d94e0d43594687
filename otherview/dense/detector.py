"""Mask R-CNN on a windowed encoder (ViTDet, arXiv 2203.16527): torchvision's parts, put together for square images.

Axes: B images, C channels, S side in pixels.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from otherview.data.objects import Category
from otherview.dense.backbone import patches_of, windowed
from otherview.dense.federated import Federated
from otherview.dense.proposals import make_proposals
from otherview.dense.pyramid import SimplePyramid
from otherview.dense.regions import Regions
from otherview.dense.settings import DetectConfig
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
