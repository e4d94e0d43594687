"""Where might an object be: torchvision's proposals with the choices of ViTDet (anchors as they are, L1, 1000 kept)."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from otherview.dense.pyramid import STRIDES
from otherview.dense.settings import BoxSettings

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
        scales: list[int],
        aspect_ratios: list[float],
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
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        positive, negative = (torch.cat(chosen) > 0 for chosen in self.fg_bg_sampler(labels))
        sampled, known = positive | negative, torch.cat(labels)
        sides = F.l1_loss(pred_bbox_deltas[positive], torch.cat(regression_targets)[positive], reduction="sum")
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
