"""The whole way in minutes, on a CPU, with no network: pre-train on drawn images, evaluate, report."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otherview.recipes.registry import find
from otherview.verbs.pages import keep, refresh_page
from otherview.verbs.request import Computing

RECIPE = "siamese_im_demo"
TRAIN, BANK, TEST = "shapes:50000:train", "shapes:5000:val", "shapes:2000:test"
WATCH = {"knn_bank": "shapes:2000:train", "knn_test": "shapes:1000:val", "knn_every": 150}
"""What the curve is drawn from; the test images stay unseen until the end."""
NEIGHBOURS = (
    "Nearest neighbours.\nTest images and what lies nearest in the bank, for the trained and the untrained encoder."
)


@dataclass(kw_only=True)
class Demo(Computing):
    """Pre-train, evaluate and report on built-in images, in minutes, on a CPU, with no network."""

    out: Path = Path("runs/demo")
    """The run folder; a finished demo there is shown again, not repeated."""
    seed: int = 0
    """Seed of weights, views and order."""


def run(request: Demo) -> dict[str, Any]:
    """The verb."""
    from otherview.verbs import evaluate
    from otherview.verbs.pretrain import pretrain

    began = time.monotonic()
    config = find(RECIPE).make().model_copy(update={"seed": request.seed})
    computing = {"device": request.device, "threads": request.threads}
    trained = pretrain(config, data=TRAIN, out=request.out, **WATCH, **computing)
    scores = evaluate.knn(request.out, train=BANK, test=TEST, **computing)
    keep(request.out, "5-neighbours", _neighbours(request), NEIGHBOURS)
    refresh_page(request.out)
    value = {score.name: score.value for score in [*scores.scores, *scores.control]}
    return {
        "knn": {
            "trained": value["knn_encoder_mean"],
            "untrained": value["knn_untrained_mean"],
            "pixels": value["knn_pixels"],
        },
        "verdict": trained["verdict"],
        "report": str(request.out / "report.html"),
        "seconds": round(time.monotonic() - began, 1),
    }


def _neighbours(request: Demo, queries: int = 5, nearest: int = 6) -> Any:
    import torch

    from otherview.data.picture import picture_of
    from otherview.data.spec import open_source
    from otherview.evaluation.features import extract
    from otherview.nn.encoder import Encoder
    from otherview.report import pictures
    from otherview.verbs.weights import load_encoder

    bank, test = open_source("shapes:1000:val"), open_source(f"shapes:{queries}:test")
    trained = load_encoder(request.out)
    card = trained.card
    rows = []
    for name, encoder in (("trained", trained.encoder), ("untrained", Encoder(card.encoder, seed=card.seed))):
        a, b = (
            torch.nn.functional.normalize(extract(encoder, source, card.look).tokens["mean"], dim=1)
            for source in (test, bank)
        )
        found = (a @ b.T).topk(nearest, dim=1).indices.tolist()
        rows.append((name, [[picture_of(bank, index).decode() for index in indices] for indices in found]))
    return pictures.draw_neighbours([picture_of(test, index).decode() for index in range(queries)], rows)


def show(result: dict[str, Any]) -> Sequence[str]:
    """The three scores, the report and the time."""
    knn = result["knn"]
    return [
        "kNN accuracy on 2,000 images never seen (8 classes):",
        f"  trained    {knn['trained']:.1%}",
        f"  untrained  {knn['untrained']:.1%}",
        f"  raw pixels {knn['pixels']:.1%}",
        result["verdict"],
        f"report: {result['report']}",
        f"{result['seconds']:.0f} s",
    ]
