"""Use what was fitted: classes, boxes or pixels of new, unlabelled images.

    predict("runs/first", data="new/", out="classes.csv")

Which of the three is the fit's to say.
"""

import time
from pathlib import Path
from typing import Any

from otherview.data.source import Selected, first_of
from otherview.data.spec import absolute, open_aloud
from otherview.dense.dense_predictions import predict_boxes, predict_pixels
from otherview.errors import WrongRequest
from otherview.evaluation.class_predictions import predict_classes
from otherview.evaluation.parts import NewImages
from otherview.evaluation.split import SHORTENED_IMAGES
from otherview.files import check_written
from otherview.launch import shortened
from otherview.runs.settings import PredictSettings
from otherview.signature import takes
from otherview.training.device import compute_on
from otherview.weights.names import resolved
from otherview.weights.pretrained import kind_of

FITS = (
    "finetune/classifier.safetensors", "linear_probe/classifier-*.safetensors", "few_shot/classifier*.safetensors",
    "detect/detector.safetensors", "segment/segmenter.safetensors",
)  # fmt: skip
"""Where evaluations leave what they fit, below a run folder or --out."""
WORK = {"classifier": predict_classes, "detector": predict_boxes, "segmenter": predict_pixels}
HOW = "`otherview evaluate finetune`, `linear-probe`, `few-shot`, `detect` or `segment` makes one"


@takes(PredictSettings)
def predict(settings: PredictSettings) -> dict[str, Any]:
    """Apply a fitted model to images that need no labels; returns where the result is. Continues what was stopped."""
    began = time.monotonic()
    if settings.pictures < 0:
        raise WrongRequest(f"--pictures {settings.pictures} must be 0 or more")
    model = find_fit(settings.weights)
    kind = kind_of(model)
    if kind is None:
        raise WrongRequest(f"{model} holds no fitted head: {HOW}")
    source = open_aloud(settings.data)
    if shortened():
        source = Selected(source, first_of(source, SHORTENED_IMAGES))
    if kind == "classifier":
        check_written(settings.out, flag="--out")
    elif settings.out.suffix in (".csv", ".parquet", ".json"):
        raise WrongRequest(f"--out {settings.out} must be a folder: a {kind} writes several files")
    about = {"data": absolute(settings.data), "images": len(source)}
    new = NewImages(source, settings.out, about, compute_on(settings), settings.workers, settings.pictures)
    made = WORK[kind](model, new)
    left = {"left_out": len(source) - made["images"], "seconds": round(time.monotonic() - began, 1)}
    return {"out": str(settings.out), "kind": kind, "model": str(model), **made, **left}


def find_fit(where: str) -> Path:
    """The file of a fit: itself, the only one in its folder, or the only one of a run; raises WrongRequest."""
    path = resolved(where).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise WrongRequest(f"--weights {where} does not exist: give a fit. {HOW}")
    patterns = [*FITS, *(pattern.split("/")[1] for pattern in FITS)]
    found = sorted({file for pattern in patterns for file in path.glob(pattern)})
    if not found:
        raise WrongRequest(f"--weights {where} holds no fit: {HOW}")
    if len(found) > 1:
        raise WrongRequest(f"--weights {where} holds several fits: give one of {', '.join(map(str, found))}")
    return found[0]
