"""The word --weights: a run folder, a file, or random:RECIPE, the untrained control; and what an encoder's card says."""

from pathlib import Path
from typing import TYPE_CHECKING

from otherview.config import RunConfig, config_hash
from otherview.errors import WrongRequest
from otherview.recipes.registry import find

if TYPE_CHECKING:
    from otherview.data.levels import Decoding
    from otherview.weights.pretrained import Card, PretrainedEncoder


def load_encoder(where: str | Path) -> "PretrainedEncoder":
    """An encoder that takes images as they are: uint8 or floats in [0, 1], [B, C, H, W].

    Raises WrongRequest where there is none.
    """
    from otherview.weights.pretrained import PretrainedEncoder, load_encoder

    prefix, _, name = str(where).partition(":")
    if prefix != "random":
        return load_encoder(where)
    from otherview.nn.encoder import Encoder

    config = find(name).make()
    card = card_of(config, method="untrained", branch="encoder", steps=0)
    return PretrainedEncoder(Encoder(config.encoder, seed=config.seed), card).eval()


def check_weights(where: str | Path) -> None:
    """Raise WrongRequest for what cannot be an encoder, before anything heavy is imported."""
    prefix, _, name = str(where).partition(":")
    if prefix == "random":
        find(name)
    elif not Path(where).expanduser().exists():
        raise WrongRequest(
            f"{where} holds no encoder: give a finished run's folder, an encoder.safetensors, or random:RECIPE"
        )


def card_of(config: RunConfig, *, method: str, branch: str, steps: int) -> "Card":
    """What an encoder of this run says of itself."""
    from otherview.weights.pretrained import Card

    return Card(
        method=method,
        recipe=config.recipe,
        branch=branch,
        encoder=config.encoder,
        mean=config.views.mean,
        std=config.views.std,
        levels=config.views.levels,
        seed=config.seed,
        steps=steps,
        config_hash=config_hash(config),
    )


def decoding_of(config: RunConfig) -> "Decoding":
    """How the bytes of this run's images become levels."""
    from otherview.data.levels import Decoding

    return Decoding(config.encoder.channels, config.views.levels)
