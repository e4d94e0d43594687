"""What an evaluation returns: scores beside their controls, named by their protocol, and one line of results.jsonl."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from otherview.errors import WrongRequest
from otherview.evaluation.settings import JudgeSettings
from otherview.launch import launched_rank
from otherview.report.run_page import refresh_page
from otherview.scores import Score, Scores, append_result
from otherview.training.device import resolve_device
from otherview.weights.names import folder_of

NAMED = (
    "block", "train_images", "test_images", "k", "temperature", "strength", "crop_pct", "draws", "seed", "epochs", "batch",
    "rate",
)  # fmt: skip
"""Settings that stand in the names of scores where they are not the defaults, so that one name is one protocol."""


def finish(
    settings: JudgeSettings,
    found: Mapping[str, Sequence[Score]],
    *,
    known: Mapping[str, Any],
    about: Mapping[str, Any],
    began: float,
) -> Scores:
    """The result with what it is about; rank 0 adds one line to results.jsonl, where there is a folder for it.

    `found` has the scores of "encoder" and, after it, of its controls; `known` is what the weights say of themselves.
    """
    unusual = _unusual(settings)
    found = {name: [score._replace(name=score.name + unusual) for score in scores] for name, scores in found.items()}
    named = {name: getattr(settings, name) for name in ("allow_shared", "block") if getattr(settings, name, None)}
    asked = {"weights": str(settings.weights), **about, **named, "device": str(resolve_device(settings.device))}
    control = [score for name, scores in found.items() if name != "encoder" for score in scores]
    result = Scores(found["encoder"], control, time.monotonic() - began, {**asked, **known})
    folder = settings.out or folder_of(settings.weights)
    if folder is not None and launched_rank() == 0:
        append_result(folder, result)
        refresh_page(folder)
    return result


def _unusual(settings: JudgeSettings) -> str:
    """Words for what a protocol has otherwise than by default."""
    words: list[str] = []
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name in NAMED and value not in (None, field.default):
            values = value if isinstance(value, tuple) else (value,)
            if len(values) == 1:  # scores of several values are named by each
                word = f"{values[0]:{',' if isinstance(values[0], int) else 'g'}}"
                words.append(f"{field.name.replace('_', ' ')} {word}")
    return f" ({', '.join(words)})" if words else ""


def check_crop_pct(crop_pct: float) -> None:
    """Raise WrongRequest for what is no share of an image's side."""
    if not 0 < crop_pct <= 1:
        raise WrongRequest(f"--crop-pct {crop_pct:g} must be above 0 and up to 1")


def fit_folder(settings: JudgeSettings, name: str) -> Path:
    """Where the checkpoints of a fit are kept; raises WrongRequest where there is no place for them."""
    folder = settings.out or folder_of(settings.weights)
    if folder is None:
        raise WrongRequest(f"--weights {settings.weights} is no run folder: give --out DIR, where checkpoints are kept")
    return folder / name
