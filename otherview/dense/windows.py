"""An encoder of ours as a backbone for large images: most blocks attend within windows (ViTDet).

    backbone = windowed(encoder, size=1024, settings=WindowSettings())     # timm's vision transformer of Segment Anything
    backbone.forward_features(images)                                   # [B, D, H, W]

cls and registers are left behind; positions are computed for the new grid and learned from there on; relative positions
start at zero; after the last block there is no norm. The simple feature pyramid makes every level from the last block's
tokens alone (arXiv 2203.16527, section 3).
"""

from collections import OrderedDict
from functools import partial

import torch
from jaxtyping import Float
from timm.layers import LayerNorm2d  # pyright: ignore[reportPrivateImportUsage]
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn

from otherview.dense.settings import WindowSettings
from otherview.geometry import PatchGrid
from otherview.nn.encoder import Encoder


def windowed(encoder: Encoder, *, size: int, settings: WindowSettings) -> VisionTransformerSAM:
    """The same blocks, as many of them within windows as the settings say; `size` is the images' side in pixels."""
    had = encoder.settings
    backbone = VisionTransformerSAM(
        img_size=size,
        patch_size=had.patch_size,
        in_chans=had.channels,
        num_classes=0,
        embed_dim=had.width,
        depth=had.depth,
        num_heads=had.heads,
        init_values=had.layer_scale,
        drop_path_rate=settings.drop_path,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),  # pyright: ignore[reportArgumentType]
        use_rel_pos=settings.relative_positions,
        window_size=settings.window,
        global_attn_indexes=settings.global_blocks,
        neck_chans=0,
        global_pool="",
    )
    backbone.neck = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    state = {
        name: value for name, value in encoder.vit.state_dict().items() if name.startswith(("patch_embed.", "blocks."))
    }
    missing, unexpected = backbone.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all("rel_pos" in name or name == "pos_embed" for name in missing), missing
    grid = PatchGrid(size // had.patch_size, size // had.patch_size)
    with torch.no_grad():
        table = encoder.positions(grid, torch.device("cpu"))
        backbone.pos_embed.copy_(table.view(1, *grid, had.width))  # pyright: ignore[reportOptionalMemberAccess]
    return backbone.requires_grad_(True)


def patches_of(backbone: VisionTransformerSAM, images: Float[Tensor, "B C X Y"]) -> Float[Tensor, "B D H W"]:
    """The last block's tokens as a picture of patches."""
    return backbone.forward_features(images)


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

    def forward(self, patches: Float[Tensor, "B D H W"]) -> OrderedDict[str, Tensor]:
        levels = [output(scale(patches)) for scale, output in zip(self.scales, self.outputs, strict=True)]
        return OrderedDict((str(number), level) for number, level in enumerate([*levels, self.coarsest(levels[-1])]))
