"""The word --weights: a run folder, a file, random:RECIPE (the untrained control) or reference:NAME; and what a card says."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from otherview.config import RunConfig, config_hash
from otherview.errors import WrongRequest
from otherview.recipes.registry import find
from otherview.verbs.reference import resolved

if TYPE_CHECKING:
    from otherview.data.levels import Decoding
    from otherview.evaluation.subject import Subject
    from otherview.nn.encoder import Encoder
    from otherview.weights.pretrained import Card, PretrainedEncoder


def load_encoder(where: str | Path) -> "PretrainedEncoder":
    """An encoder that takes images as they are: uint8 or floats in [0, 1], [B, C, H, W].

    Raises WrongRequest where there is none.
    """
    from otherview.weights.pretrained import PretrainedEncoder, load_encoder

    prefix, _, name = str(where).partition(":")
    if prefix != "random":
        return load_encoder(resolved(where))
    from otherview.nn.encoder import Encoder

    config = find(name).make()
    card = card_of(config, method="untrained", branch="encoder", steps=0)
    return PretrainedEncoder(Encoder(config.encoder, seed=config.seed), card).eval()


def load_subject(where: "str | Path | Subject") -> "Subject":
    """What `--weights` names, beside what it was before training; a Subject is one already."""
    if not isinstance(where, str | Path):
        return where
    loaded = load_encoder(where)
    return subject_of(loaded.encoder, loaded.card, name=str(where))


def subject_of(encoder: "Encoder", card: "Card", *, name: str) -> "Subject":
    """An encoder of ours, beside what it was before training."""
    from otherview.evaluation.subject import Subject
    from otherview.nn.encoder import Encoder

    settings = card.encoder
    return Subject(
        name=name,
        encoder=encoder,
        look=card.look,
        patch_size=settings.patch_size,
        depth=settings.depth,
        untrained=Encoder(settings, seed=card.seed),
        about=known_of(card),
    )


def known_of(card: "Card") -> dict[str, Any]:
    """What every result says of the run that an encoder comes from."""
    return {"recipe": card.recipe, "config_hash": card.config_hash, "seed": card.seed, "steps": card.steps}


def check_weights(where: "str | Path | Subject") -> None:
    """Raise WrongRequest for what cannot be an encoder, before anything heavy is imported."""
    if not isinstance(where, str | Path):
        return
    prefix, _, name = str(where).partition(":")
    if prefix == "random":
        find(name)
    elif not resolved(where).expanduser().exists():
        raise WrongRequest(
            f"{where} holds no encoder: give a finished run's folder, an encoder.safetensors, random:RECIPE or "
            "reference:demo"
        )


def card_of(config: RunConfig, *, method: str, branch: str, steps: int, licence: str | None = None) -> "Card":
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
        **({"licence_of_starting_weights": licence} if licence else {}),
    )


def decoding_of(config: RunConfig) -> "Decoding":
    """How the bytes of this run's images become levels."""
    from otherview.data.levels import Decoding

    return Decoding(config.encoder.channels, config.views.levels)
