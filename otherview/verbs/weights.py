"""The word --weights: a run folder, a file, or random:RECIPE, the untrained control."""

from pathlib import Path
from typing import TYPE_CHECKING

from otherview.recipes.registry import find

if TYPE_CHECKING:
    from otherview.weights.pretrained import PretrainedEncoder


def load_encoder(where: str | Path) -> "PretrainedEncoder":
    """An encoder that takes images as they are: uint8 or floats in [0, 1], [B, 3, H, W].

    Raises WrongRequest where there is none.
    """
    from otherview.weights.pretrained import Card, PretrainedEncoder, load_encoder

    prefix, _, name = str(where).partition(":")
    if prefix != "random":
        return load_encoder(where)
    from otherview.config import config_hash
    from otherview.nn.encoder import Encoder

    config = find(name).make()
    card = Card(
        method="untrained",
        recipe=config.recipe,
        branch="encoder",
        encoder=config.encoder,
        mean=config.views.mean,
        std=config.views.std,
        seed=config.seed,
        steps=0,
        config_hash=config_hash(config),
    )
    return PretrainedEncoder(Encoder(config.encoder, seed=config.seed), card).eval()
