"""A fine-tuned classifier that travels: the encoder with timm's names, its head, its card and the names of its classes."""

import json
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import save_file

from otherview.atomic import atomically
from otherview.errors import WrongRequest
from otherview.nn.class_head import ClassHead
from otherview.nn.encoder import Encoder
from otherview.weights.pretrained import CLASSES, ENCODER, KEY, Card, contents_of, part_of

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
