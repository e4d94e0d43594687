"""Masked autoencoder: from a few patches of one view, its other pixels.

Kaiming He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv 2111.06377; our specification 4.

    view ──visible──▶ encoder ──▶ decoder(+ mask tokens) ──▶ pixels of the masked patches

    learner = MAE(encoder=…, decoder=…, view=…)

Axes: B images, L patches, V visible patches, N tokens of cls and visible patches, D encoder width, P decoder width,
K values of a patch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from timm.optim import param_groups_weight_decay  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn

from otherview.geometry import PatchGrid
from otherview.losses.objectives import StepLoss
from otherview.losses.reconstruction import masked_mean_square, normalise_patches, patchify
from otherview.methods.learner import Learner
from otherview.nn.encoder import Encoder
from otherview.nn.heads import transformer_blocks
from otherview.nn.initialise import initialise_linears
from otherview.nn.positions import halves_swapped, sincos_grid
from otherview.views.device_colour import normalised
from otherview.views.transforms import SingleView
from otherview.views.view import View, visible_indices


class Decoder(nn.Module):
    """From the visible tokens to the pixels of every patch: Linear D → P, mask tokens, blocks, norm, Linear P → K."""

    def __init__(self, width_in: int, width: int, *, depth: int, heads: int, values: int) -> None:
        super().__init__()
        self.embed = nn.Linear(width_in, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.blocks = transformer_blocks(width, depth=depth, heads=heads, norm="layer")
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, values)
        initialise_linears(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self, tokens: Float[Tensor, "B N D"], visible: Int[Tensor, "B V"], grid: PatchGrid
    ) -> Float[Tensor, "B L K"]:
        """`tokens` begin with cls; mask tokens stand where nothing was seen, and every patch gets its position."""
        embedded = self.embed(tokens)
        batch, _, width = embedded.shape
        patches = self.mask_token.to(embedded.dtype).repeat(batch, grid.patches, 1)
        patches = patches.scatter(1, visible[..., None].expand(-1, -1, width), embedded[:, 1:])
        patches = patches + halves_swapped(sincos_grid(grid, width=width, device=patches.device))  # columns first
        sequence = torch.cat([embedded[:, :1], patches], dim=1)
        for block in self.blocks:
            sequence = block(sequence)
        return self.head(self.norm(sequence))[:, 1:]


class MAE(Learner):
    """The method as its parts. The encoder has a final norm and trains its patch embedding."""

    def __init__(self, *, encoder: Encoder, decoder: Decoder, view: SingleView, normalise_pixels: bool = True) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.normalise_pixels = normalise_pixels
        self._view = view

    @property
    def views(self) -> SingleView:
        return self._view

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        return {"encoder": self.encoder}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        return param_groups_weight_decay(self, weight_decay)  # pyright: ignore[reportReturnType]

    def prepare(self, micro_batches: Sequence[View], progress: float) -> None:
        """Pixels are their own target: there is nothing to prepare."""

    def forward(self, batch: View, context: None, index: int) -> StepLoss:
        images = normalised(batch, self._view.settings, self._view.settings.online_colour)
        return StepLoss(self.loss(images, batch.masked), {})

    def metrics(self, context: None) -> Mapping[str, Tensor]:
        return {}

    def loss(self, images: Float[Tensor, "B C H W"], masked: Bool[Tensor, "B L"]) -> Float[Tensor, ""]:
        """How far the reconstruction of the masked patches is from the images, normalised already."""
        patches = patchify(images, self.encoder.settings.patch_size)
        target = normalise_patches(patches) if self.normalise_pixels else patches
        return masked_mean_square(self.reconstruct(images, masked), target, masked)

    def reconstruct(self, images: Float[Tensor, "B C H W"], masked: Bool[Tensor, "B L"]) -> Float[Tensor, "B L K"]:
        """Every patch's normalised values, from the visible ones."""
        grid = self._view.grid
        visible = visible_indices(masked, visible=grid.patches - self._view.settings.mask.masked_of(grid.patches))
        tokens = self.encoder(images, visible)
        return self.decoder(tokens.without_registers, visible, grid)
