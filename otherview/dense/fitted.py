"""Detectors and segmenters as files: weights, and everything needed to build the model and to show it images."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from otherview.data.objects import Category
from otherview.dense.detector import Detector
from otherview.dense.settings import DetectConfig, SegmentConfig
from otherview.dense.upernet import UPerNet
from otherview.errors import WrongRequest
from otherview.nn.encoder import Encoder
from otherview.weights.pretrained import MODEL, Card, contents_of, save_state


class FittedDetector(NamedTuple):
    """What a file holds."""

    detector: Detector
    config: DetectConfig
    card: Card
    categories: list[Category]


class FittedSegmenter(NamedTuple):
    """What a file holds; `names` are those of the classes, by number."""

    net: UPerNet
    config: SegmentConfig
    card: Card
    names: list[str]


def save_detector(path: Path, fitted: FittedDetector) -> None:
    """Write it, atomically."""
    categories = [[kind.id, kind.name, kind.images] for kind in fitted.categories]
    save_state(path, fitted.detector, about={"kind": "detector", "categories": categories, **_about(fitted)})


def save_segmenter(path: Path, fitted: FittedSegmenter) -> None:
    """Write it, atomically."""
    save_state(path, fitted.net, about={"kind": "segmenter", "names": fitted.names, **_about(fitted)})


def _about(fitted: FittedDetector | FittedSegmenter) -> dict[str, Any]:
    return {"config": fitted.config.model_dump(mode="json"), "card": fitted.card.model_dump(mode="json")}


def load_detector(path: Path) -> FittedDetector:
    """Read it; raises WrongRequest for what is no detector of ours."""
    about, state, card = _read(path, "detector")
    config, categories = DetectConfig(**about["config"]), [Category(*kind) for kind in about["categories"]]
    detector = Detector(Encoder(card.encoder), config, categories, seed=0)
    detector.load_state_dict(state)
    return FittedDetector(detector.eval(), config, card, categories)


def load_segmenter(path: Path) -> FittedSegmenter:
    """Read it; raises WrongRequest for what is no segmenter of ours."""
    about, state, card = _read(path, "segmenter")
    config, names = SegmentConfig(**about["config"]), about["names"]
    net = UPerNet(Encoder(card.encoder), config, classes=len(names), seed=0)
    net.load_state_dict(state)
    return FittedSegmenter(net.eval(), config, card, names)


def _read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Any], Card]:
    metadata, state = contents_of(path)
    about = json.loads(metadata.get(MODEL, "{}"))
    if about.get("kind") != kind:
        raise WrongRequest(f"{path} is no {kind} that `otherview evaluate` has fitted")
    return about, state, Card.model_validate(about["card"])
