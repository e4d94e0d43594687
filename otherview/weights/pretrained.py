"""An encoder that travels: safetensors with timm's names, and everything needed to use it in the metadata.

encoder = read_encoder(Path("runs/first/encoder.safetensors"))
tokens = encoder(images)                        # uint8, or floats in [0, 1]; [B, 3, H, W]
tokens.cls, tokens.patches, tokens.mean
"""

import json
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, UInt
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from otherview.data.image import Preprocessing
from otherview.data.settings import Fit, Levels, Range
from otherview.errors import WrongRequest
from otherview.files import atomically
from otherview.geometry import PatchGrid
from otherview.nn.encoder import Encoder, Tokens
from otherview.nn.heads import ClassHead
from otherview.nn.settings import EncoderSettings
from otherview.views.view import normalise

KEY, CLASSES = "otherview", "otherview_classes"
"""Entries of a file's metadata: the card, and a classifier's classes."""
UNTRAINED = "none: trained from random weights"
"""The licence of starting weights where there are none."""
ENCODER = "encoder."
"""Before the names of the encoder's tensors in a classifier's file."""


class Card(BaseModel):
    """What an encoder file says of itself."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    method: str
    recipe: str
    branch: str
    encoder: EncoderSettings
    mean: tuple[float, ...]
    std: tuple[float, ...]
    levels: Levels = "auto"
    ranges: dict[str, tuple[Range, ...]] = {}
    """What the values of images with more than eight bits meant in training, by kind of file."""
    size: tuple[int, int] | None = None
    """Of the images, where it is not the size that the encoder was trained on."""
    fit: Fit = "crop"
    """How whole images get this size."""
    crop_pct: float = 1.0
    """Of a classifier: the share of the shorter side that its centre crop keeps."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    seed: int
    steps: int
    config_hash: str
    licence_of_starting_weights: str = UNTRAINED

    @property
    def preprocessing(self) -> Preprocessing:
        """How the encoder wants its images."""
        return Preprocessing(
            self.size or self.encoder.image_size, self.mean, self.std, self.encoder.channels, self.levels, self.ranges,
            self.fit, self.crop_pct, self.interpolation,
        )  # fmt: skip

    def seeing(self, preprocessing: Preprocessing) -> "Card":
        """The card of what is fitted to images that are read this way."""
        named = {name: getattr(preprocessing, name) for name in ("size", "fit", "levels", "crop_pct", "interpolation")}
        return self.model_copy(update={**named, "ranges": dict(preprocessing.ranges)})

    @property
    def grid(self) -> PatchGrid:
        """Patches of its images."""
        return PatchGrid(*(side // self.encoder.patch_size for side in self.preprocessing.size))


class PretrainedEncoder(nn.Module):
    """An encoder with its normalisation: takes images as they are."""

    def __init__(self, encoder: Encoder, card: Card) -> None:
        super().__init__()
        self.encoder = encoder
        self.card = card

    def forward(self, images: UInt[Tensor, "B C H W"] | Float[Tensor, "B C H W"]) -> Tokens:
        """Tokens of images of any size that the patch divides: uint8, uint16 over its whole range, or floats in [0, 1]."""
        levels = images * 255 if images.is_floating_point() else images
        return self.encoder(normalise(levels, self.card.mean, self.card.std))


def save_encoder(path: Path, encoder: Encoder, card: Card) -> None:
    """Write the vision transformer's state under timm's names, atomically."""
    state = {name: value.detach().cpu().contiguous() for name, value in encoder.vit.state_dict().items()}
    metadata = {KEY: card.model_dump_json(), "format": "pt"}
    atomically(path, lambda temporary: save_file(state, temporary, metadata=metadata))


def read_encoder(path: Path) -> PretrainedEncoder:
    """Load an encoder's file or a classifier's, whose head is left; raises WrongRequest for anything else."""
    card, state = _read(path)
    return PretrainedEncoder(_filled(card, state, path), card).eval()


def encoder_from(checkpoint: Path, make_card: Callable[[int, str | None], Card]) -> PretrainedEncoder:
    """The online encoder in a checkpoint of a run; raises WrongRequest for a file that has none."""
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        prefix = state["encoders"]["encoder"]
    except Exception as error:
        raise WrongRequest(f"{checkpoint} is no checkpoint that an encoder can be read from: {error}") from error
    card = make_card(state["step"], state.get("licence"))
    return PretrainedEncoder(_filled(card, part_of(state["learner"], prefix), checkpoint), card).eval()


def _filled(card: Card, state: dict[str, Tensor], path: Path) -> Encoder:
    """An encoder of the card's sizes with these weights; raises WrongRequest where they do not fit."""
    encoder = Encoder(card.encoder)
    expected = encoder.vit.state_dict()
    wrong = [
        n
        for n in expected.keys() | state.keys()
        if n not in state or n not in expected or state[n].shape != expected[n].shape
    ]
    if wrong:
        raise WrongRequest(
            f"{path} does not fit its own card: {len(wrong)} tensors differ, {min(wrong)} first; it is not whole"
        )
    encoder.vit.load_state_dict(state)
    return encoder


def contents_of(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata and tensors of a file; raises WrongRequest for one that is no safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise WrongRequest(f"{path} is no readable safetensors file: {error}") from error


def part_of(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with it, named without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _read(path: Path) -> tuple[Card, dict[str, Tensor]]:
    metadata, state = contents_of(path)
    if CLASSES in metadata:
        state = part_of(state, ENCODER)
    if KEY not in metadata:
        raise WrongRequest(f"{path} was not written by otherview: its metadata has no {KEY!r} entry")
    try:
        return Card.model_validate(json.loads(metadata[KEY])), state
    except (ValidationError, json.JSONDecodeError) as error:
        raise WrongRequest(f"{path} has a card that cannot be read: {str(error).splitlines()[0]}") from error


MODEL = "otherview_model"
"""The entry of a fitted model's metadata: its kind, and everything needed to build it."""
OURS = {KEY, CLASSES, MODEL}
"""Metadata of files that were written here."""


def save_state(path: Path, module: nn.Module, *, about: Mapping[str, Any]) -> None:
    """Write it, atomically."""
    state = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    metadata = {MODEL: json.dumps(about), "format": "pt"}
    atomically(path, lambda temporary: save_file(state, temporary, metadata=metadata))


def kind_of(path: Path) -> Literal["classifier", "detector", "segmenter"] | None:
    """What kind of fitted model a file holds; None for another file. Raises WrongRequest for no safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WrongRequest(f"{path} is no readable safetensors file: {error}") from error
    return "classifier" if CLASSES in metadata else json.loads(metadata.get(MODEL, "{}")).get("kind")


HEAD = "head."


class Classifier(NamedTuple):
    """What a file holds."""

    encoder: Encoder
    head: ClassHead
    card: Card
    classes: list[str]


def save_classifier(path: Path, encoder: Encoder, head: ClassHead, card: Card, classes: list[str]) -> None:
    """Write it, atomically."""
    parts = {ENCODER: encoder.vit, HEAD: head}
    state = {
        prefix + name: value.detach().cpu().contiguous()
        for prefix, part in parts.items()
        for name, value in part.state_dict().items()
    }
    metadata = {KEY: card.model_dump_json(), CLASSES: json.dumps(classes), "format": "pt"}
    atomically(path, lambda temporary: save_file(state, temporary, metadata=metadata))


def load_classifier(path: Path) -> Classifier:
    """Read it; raises WrongRequest for what is no classifier of ours."""
    metadata, state = contents_of(path)
    if KEY not in metadata or CLASSES not in metadata:
        raise WrongRequest(
            f"{path} is no classifier, it has no head: give the classifier.safetensors of `otherview evaluate finetune`"
        )
    card, classes = Card.model_validate(json.loads(metadata[KEY])), json.loads(metadata[CLASSES])
    encoder, head = Encoder(card.encoder), ClassHead(card.encoder.width, len(classes))
    for prefix, part in {ENCODER: encoder.vit, HEAD: head}.items():
        part.load_state_dict(part_of(state, prefix))
    return Classifier(encoder.eval(), head.eval(), card, classes)


def weights_fingerprint(module: nn.Module) -> str:
    """Sixteen hexadecimal digits of a module's weights."""
    digest = blake2b(digest_size=8)
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
