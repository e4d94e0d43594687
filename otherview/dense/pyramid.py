"""The simple feature pyramid: every level from the last block's tokens alone (ViTDet, arXiv 2203.16527, section 3).

Axes: B images, D encoder width, C channels, H and W patches.
"""

from collections import OrderedDict

from jaxtyping import Float
from timm.layers import LayerNorm2d  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn

STRIDES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the levels, in patches."""


class SimplePyramid(nn.Module):
    """Levels at 4, 2, 1, 1/2 and 1/4 times the resolution of the patches, each with `channels`."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        half, quarter = width // 2, width // 4
        self.scales = nn.ModuleList((
            nn.Sequential(
                nn.ConvTranspose2d(width, half, 2, 2), LayerNorm2d(half), nn.GELU(), nn.ConvTranspose2d(half, quarter, 2, 2)
            ),
            nn.ConvTranspose2d(width, half, 2, 2),
            nn.Identity(),
            nn.MaxPool2d(2, 2),
        ))  # fmt: skip
        self.outputs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(entering, channels, 1, bias=False),
                LayerNorm2d(channels),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                LayerNorm2d(channels),
            )
            for entering in (quarter, half, width, width)
        )
        self.coarsest = nn.MaxPool2d(1, 2)

    def forward(self, patches: Float[Tensor, "B D H W"]) -> "OrderedDict[str, Tensor]":
        levels = [output(scale(patches)) for scale, output in zip(self.scales, self.outputs, strict=True)]
        return OrderedDict((str(number), level) for number, level in enumerate([*levels, self.coarsest(levels[-1])]))
