"""What a plain library makes of a GPU: a masked autoencoder of timm's parts, to stand beside a step of ours.

timm's VisionTransformer masks three quarters itself, and a decoder of eight timm blocks 512 wide paints all patches. It is
as large as the config's encoder and sees the online views.
Axes: B images.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from otherview.config import RunConfig
from otherview.geometry import PatchGrid
from otherview.losses.objectives import StepLoss
from otherview.losses.reconstruction import patchify
from otherview.methods.learner import Learner
from otherview.nn.encoder import Encoder
from otherview.views.device_colour import normalised
from otherview.views.transforms import PairViews
from otherview.views.view import ViewPair

WIDTH, DEPTH, HEADS = 512, 8, 16
"""Of the decoder."""


class TimmMAE(Learner):
    """The autoencoder, as far as a bench needs it to be a method."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        encoder = config.encoder
        self.vit = VisionTransformer(
            img_size=encoder.image_size, patch_size=encoder.patch_size, in_chans=encoder.channels, embed_dim=encoder.width,
            depth=encoder.depth, num_heads=encoder.heads, num_classes=0, global_pool="", patch_drop_rate=0.75,
        )  # fmt: skip
        self.patch_size = encoder.patch_size
        self.enter = nn.Linear(encoder.width, WIDTH)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.decoder = nn.Sequential(*(Block(WIDTH, HEADS, qkv_bias=True) for _ in range(DEPTH)))
        self.leave = nn.Linear(WIDTH, encoder.channels * encoder.patch_size**2)
        self._views = PairViews(config.views, encoder.image_size, PatchGrid(*encoder.grid))

    @property
    def views(self) -> PairViews:
        return self._views

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        return {}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters()), "weight_decay": weight_decay}]

    def prepare(self, micro_batches: Sequence[ViewPair], progress: float) -> None:
        """Nothing is known beforehand."""

    def forward(self, batch: ViewPair, context: None, index: int) -> StepLoss:
        images = normalised(batch.online, self._views.settings, self._views.settings.online_colour)
        wanted = patchify(images, self.patch_size)
        seen = self.enter(self.vit.forward_features(images))
        masked = self.mask_token.expand(len(images), wanted.shape[1] + 1 - seen.shape[1], -1)
        predicted = self.leave(self.decoder(torch.cat([seen, masked], dim=1))[:, 1:])
        return StepLoss((predicted.float() - wanted).square().mean(), {})

    def metrics(self, context: None) -> Mapping[str, Tensor]:
        return {}
