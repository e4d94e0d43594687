"""The encoder: a timm VisionTransformer that can see only some of its patches (specification 1.3).

    tokens = encoder(images)                       # whole image
    tokens = encoder(images, visible=indices)      # only these patches enter the blocks
    tokens.cls, tokens.patches, tokens.mean

The vision transformer inside is timm's, names and all, so its state dict loads anywhere timm does. Positions are
computed for the grid of the images at hand.
Axes: B images, C channels, H and W pixels, L patches, V visible patches, N tokens, D width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from otherview.errors import WrongRequest
from otherview.geometry import PatchGrid
from otherview.nn.initialise import initialise_as_moco_v3, initialise_linears, initialise_patch_embedding, seeded
from otherview.nn.positions import halves_swapped, resampled, sincos_grid
from otherview.nn.settings import EncoderSettings


class Tokens(NamedTuple):
    """What an encoder gives for a batch of images."""

    sequence: Float[Tensor, "B N D"]
    """[cls, registers, patches]"""
    prefix: int
    """How many tokens stand before the patches."""

    @property
    def cls(self) -> Float[Tensor, "B D"]:
        """The mean of the patches where there is no class token."""
        return self.sequence[:, 0] if self.prefix else self.mean

    @property
    def patches(self) -> Float[Tensor, "B V D"]:
        return self.sequence[:, self.prefix :]

    @property
    def mean(self) -> Float[Tensor, "B D"]:
        return self.patches.mean(dim=1)

    @property
    def without_registers(self) -> Float[Tensor, "B N D"]:
        """[cls, patches]"""
        return self.sequence if self.prefix <= 1 else torch.cat([self.sequence[:, :1], self.patches], dim=1)


class Encoder(nn.Module):
    """A plain pre-norm ViT with fixed sine-cosine positions, initialised as the specification says.

    The weights depend on `seed` alone, so that the untrained control of any run can be rebuilt from its settings.
    """

    def __init__(self, settings: EncoderSettings, *, seed: int = 0) -> None:
        super().__init__()
        settings.check()
        self.settings = settings
        self.grid = PatchGrid(*settings.grid)
        with seeded(seed, "encoder"):
            self.vit = _build_vit(settings)
            initialise_linears(self.vit)
            assert isinstance(self.vit.patch_embed.proj, nn.Conv2d)
            initialise_patch_embedding(self.vit.patch_embed.proj)
            for token in (self.vit.cls_token, self.vit.reg_token, self.vit.pos_embed):
                if token is not None:
                    nn.init.normal_(token, std=0.02)
            if settings.start == "moco_v3":
                initialise_as_moco_v3(self.vit)
        self.vit.patch_embed.requires_grad_(settings.train_patch_embedding)

    @property
    def prefix(self) -> int:
        """Tokens before the patches: cls and registers."""
        return int(self.settings.class_token) + self.settings.registers

    def forward(
        self, images: Float[Tensor, "B C H W"], visible: Int[Tensor, "B V"] | None = None, *, block: int | None = None
    ) -> Tokens:
        """Normalised images of any size that the patch divides; `visible` holds patch indices in row order.

        With `block`, counted from 1, tokens as that block leaves them; else the last block's, after the final norm where
        there is one.
        """
        sequence = self.entering(images, visible)
        for transform in self.vit.blocks[:block]:
            sequence = transform(sequence)
        return Tokens(sequence if block else self.vit.norm(sequence), self.prefix)

    def taps(
        self,
        images: Float[Tensor, "B C H W"],
        after: Sequence[int],
        *,
        biases: Sequence[Float[Tensor, "1 heads N N"]] = (),
    ) -> list[Tokens]:
        """Tokens as each of the blocks `after`, counted from 1, leaves them; `biases` has what a block's attention adds."""
        sequence, found = self.entering(images, None), dict[int, Tokens]()
        for number, transform in enumerate(self.vit.blocks[: max(after)], start=1):
            sequence = transform(sequence, attn_mask=biases[number - 1]) if biases else transform(sequence)
            found[number] = Tokens(sequence, self.prefix)
        return [found[number] for number in after]

    def entering(self, images: Tensor, visible: Tensor | None = None) -> Float[Tensor, "B N D"]:
        """[cls, registers, patches] as they enter the first block."""
        patches = self._embed(images)
        if visible is not None:
            patches = patches.gather(1, visible[..., None].expand(-1, -1, patches.shape[-1]))
        if not self.prefix:
            return patches
        before = torch.cat([token for token in (self.vit.cls_token, self.vit.reg_token) if token is not None], dim=1)
        if self.vit.pos_embed is not None:
            before = before + self.vit.pos_embed[:, : self.prefix]
        return torch.cat([before.expand(len(images), -1, -1), patches], dim=1)

    def positions(self, grid: PatchGrid, device: torch.device) -> Float[Tensor, "L D"]:
        """The position table of a grid of patches."""
        if self.vit.pos_embed is not None:
            return resampled(self.vit.pos_embed[0, self.prefix :], self.grid, grid)
        table = sincos_grid(grid, width=self.settings.width, trained_on=self.grid, device=device)
        return halves_swapped(table) if self.settings.column_first else table

    def _embed(self, images: Tensor) -> Float[Tensor, "B L D"]:
        height, width = images.shape[-2:]
        size = self.settings.patch_size
        if height % size or width % size:
            raise WrongRequest(f"images of {height}×{width} are not divisible by the encoder's patch size {size}")
        table = self.positions(PatchGrid(height // size, width // size), images.device)
        if images.device.type == "cpu":
            return self.vit.patch_embed(images).flatten(1, 2) + table  # dynamic_img_size keeps rows and columns apart
        return embedded_as_product(images, self.vit.patch_embed.proj) + table


def embedded_as_product(images: Float[Tensor, "B C H W"], convolution: nn.Module) -> Float[Tensor, "B L D"]:
    """The patch embedding as one matrix product; in bf16, cuDNN's convolution took a twentieth of a step at ViT-S/16."""
    assert isinstance(convolution, nn.Conv2d)
    rows, columns = convolution.stride
    patches = images.unfold(2, rows, rows).unfold(3, columns, columns).permute(0, 2, 3, 1, 4, 5)
    return F.linear(patches.flatten(3).flatten(1, 2), convolution.weight.flatten(1), convolution.bias)


def _build_vit(settings: EncoderSettings) -> VisionTransformer:
    return VisionTransformer(
        img_size=settings.image_size,
        patch_size=settings.patch_size,
        in_chans=settings.channels,
        embed_dim=settings.width,
        depth=settings.depth,
        num_heads=settings.heads,
        num_classes=0,
        global_pool="",
        pos_embed="learn" if settings.positions == "learned" else "none",
        class_token=settings.class_token,
        reg_tokens=settings.registers,
        init_values=settings.layer_scale,
        final_norm=settings.final_norm,
        dynamic_img_size=True,
        weight_init="skip",
        norm_layer=_layer_norm,
    )


def _layer_norm(width: int, **kwargs: object) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6, **kwargs)  # pyright: ignore[reportArgumentType]
