"""An encoder of ours as a backbone for large images: most blocks attend within windows (ViTDet).

    backbone = windowed(encoder, size=1024, settings=WindowSettings())     # timm's vision transformer of Segment Anything
    backbone.forward_features(images)                                   # [B, D, H, W]

cls and registers are left behind; positions are computed for the new grid and learned from there on; relative positions
start at zero; after the last block there is no norm.
"""

from functools import partial

import torch
from jaxtyping import Float
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
