"""UPerNet on a plain encoder (arXiv 1807.10221, with the neck and head of BEiT and MAE): a class for every pixel.

    tokens of four blocks ──neck──▶ 4, 2, 1, 1/2 times the grid ──pooling pyramid, top-down path──▶ scores at 4 times the grid

Axes: B images, C channels, S side in pixels, D width, K classes, H and W patches.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from otherview.dense.settings import SegmentConfig
from otherview.distributed import from_first, ranks
from otherview.evaluation.classifier import drop_paths
from otherview.geometry import PatchGrid
from otherview.nn.encoder import Encoder
from otherview.nn.initialise import seeded

POOLED = 1, 2, 3, 6
"""Cells along a side of the pooling pyramid."""
AUXILIARY_LEVEL = 2


def convolved(entering: int, channels: int, *, kernel: int) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(entering, channels, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
    )


class Neck(nn.Module):
    """Tokens of four blocks as pictures at 4, 2, 1 and 1/2 times the grid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList((
            nn.Sequential(
                nn.ConvTranspose2d(width, width, 2, 2), nn.BatchNorm2d(width), nn.GELU(),
                nn.ConvTranspose2d(width, width, 2, 2),
            ),
            nn.ConvTranspose2d(width, width, 2, 2),
            nn.Identity(),
            nn.MaxPool2d(2, 2),
        ))  # fmt: skip

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        return [scale(tap) for scale, tap in zip(self.scales, taps, strict=True)]


class UPerHead(nn.Module):
    """From four levels, the finest first, to scores at the finest."""

    def __init__(self, width: int, channels: int, classes: int, *, dropout: float) -> None:
        super().__init__()
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(cells), convolved(width, channels, kernel=1)) for cells in POOLED
        )
        self.bottleneck = convolved(width + len(POOLED) * channels, channels, kernel=3)
        self.laterals = nn.ModuleList(convolved(width, channels, kernel=1) for _ in range(3))
        self.smooth = nn.ModuleList(convolved(channels, channels, kernel=3) for _ in range(3))
        self.fuse = convolved(4 * channels, channels, kernel=3)
        self.classify = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(channels, classes, 1))

    def forward(self, levels: Sequence[Float[Tensor, "B D _ _"]]) -> Float[Tensor, "B K _ _"]:
        coarsest = levels[-1]
        pooled = [resized(pool(coarsest), like=coarsest) for pool in self.pools]
        path = [self.bottleneck(torch.cat([coarsest, *pooled], dim=1))]
        for lateral, level in zip(reversed(self.laterals), reversed(levels[:-1]), strict=True):
            path.append(lateral(level) + resized(path[-1], like=level))
        fine = [smooth(level) for smooth, level in zip(self.smooth, reversed(path[1:]), strict=True)]
        return self.classify(self.fuse(torch.cat([resized(level, like=fine[0]) for level in [*fine, path[0]]], dim=1)))


def resized(values: Float[Tensor, "B C _ _"], *, like: Tensor) -> Float[Tensor, "B C _ _"]:
    """Bilinear, to the size of another picture."""
    return F.interpolate(values, like.shape[-2:], mode="bilinear", align_corners=False)


def synchronised(net: "UPerNet", *, cuda: bool) -> "UPerNet":
    """Batch norms over all ranks where torch has them, which is on CUDA."""
    if ranks() == 1 or not cuda:
        return net
    return nn.SyncBatchNorm.convert_sync_batchnorm(net)  # pyright: ignore[reportReturnType]


def share_statistics(net: "UPerNet") -> None:
    """Rank 0's running statistics, which are those of the checkpoint, on all ranks, where each had its own."""
    for name, values in net.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            values.copy_(from_first(values.cpu()))


class RelativePositions(nn.Module):
    """What attention adds for the offset of two patches, head by head, from zero on; cls has offsets of its own."""

    index: Int[Tensor, "N N"]

    def __init__(self, grid: PatchGrid, heads: int, prefix: int) -> None:
        super().__init__()
        span = (2 * grid.rows - 1) * (2 * grid.columns - 1)
        self.table = nn.Parameter(torch.zeros(span + 3, heads))
        row, column = (side.flatten() for side in torch.meshgrid(*map(torch.arange, grid), indexing="ij"))
        down, across = (side[:, None] - side[None] for side in (row, column))
        index = torch.full((prefix + grid.patches,) * 2, span)  # from cls to patches
        index[prefix:, :prefix], index[:prefix, :prefix] = span + 1, span + 2
        index[prefix:, prefix:] = (down + grid.rows - 1) * (2 * grid.columns - 1) + across + grid.columns - 1
        self.register_buffer("index", index, persistent=False)

    def forward(self) -> Float[Tensor, "1 heads N N"]:
        return self.table[self.index].permute(2, 0, 1)[None]


class UPerNet(nn.Module):
    """Scores of the classes at a quarter of a patch, and those of the auxiliary head in training."""

    def __init__(self, encoder: Encoder, config: SegmentConfig, *, classes: int, seed: int) -> None:
        super().__init__()
        width = encoder.settings.width
        self.taps = config.taps
        self.grid = PatchGrid(*(config.size // encoder.settings.patch_size,) * 2)
        self.backbone = encoder.requires_grad_(True)
        deepest = max(config.taps)
        for unused in (encoder.vit.norm, *encoder.vit.blocks[deepest:]):  # every trained weight has a gradient
            unused.requires_grad_(False)
        drop_paths(encoder, config.drop_path)
        with seeded(seed, "segmentation heads"):
            self.neck = Neck(width)
            self.head = UPerHead(width, config.channels, classes, dropout=config.dropout)
            self.auxiliary = nn.Sequential(
                convolved(width, config.auxiliary_channels, kernel=3),
                nn.Dropout2d(config.dropout),
                nn.Conv2d(config.auxiliary_channels, classes, 1),
            )
        self.relative = nn.ModuleList(
            RelativePositions(self.grid, encoder.settings.heads, encoder.prefix)
            for _ in range(deepest if config.relative_positions else 0)
        )

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The encoder's."""
        return list(self.backbone.vit.blocks)

    def forward(self, images: Float[Tensor, "B C S S"]) -> tuple[Tensor, Tensor | None]:
        taps = self.backbone.taps(images, self.taps, biases=[bias() for bias in self.relative])
        pictures = [tokens.patches.transpose(1, 2).unflatten(2, self.grid) for tokens in taps]
        levels = self.neck(pictures)
        return self.head(levels), self.auxiliary(levels[AUXILIARY_LEVEL]) if self.training else None
