"""The whole way in minutes, on a CPU, with no network: pre-train on drawn images, evaluate, report."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otherview.evaluation.scores import Scores
from otherview.recipes.registry import find
from otherview.verbs.request import Computing

RECIPE = "siamese_im_demo"
TRAIN, BANK, TEST = "shapes:50000:train", "shapes:5000:val", "shapes:2000:test"
WATCH = {"knn_bank": "shapes:2000:train", "knn_test": "shapes:1000:val", "knn_every": 150}
"""What the curve is drawn from; the test images stay unseen until the end."""


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
    report = request.out / "report.html"
    _report(request, scores, str(trained["verdict"]), report)
    value = {score.name: score.value for score in [*scores.scores, *scores.control]}
    return {
        "knn": {
            "trained": value["knn_encoder_mean"],
            "untrained": value["knn_untrained_mean"],
            "pixels": value["knn_pixels"],
        },
        "verdict": trained["verdict"],
        "report": str(report),
        "seconds": round(time.monotonic() - began, 1),
    }


def _report(request: Demo, scores: Scores, verdict: str, path: Path) -> None:
    from otherview.data.picture import picture_of
    from otherview.data.spec import open_source
    from otherview.geometry import PatchGrid
    from otherview.report import curves, pictures
    from otherview.report.page import Picture, write_page
    from otherview.seeding import sample_rng
    from otherview.training.journal import read_journal
    from otherview.views.pair import PairViews

    print("drawing the report", file=sys.stderr)
    config = find(RECIPE).make()
    grid = PatchGrid(*config.encoder.grid)
    source = open_source(TRAIN)
    views = PairViews(config.views, config.encoder.image_size, grid)
    images = [picture_of(source, index) for index in range(4)]
    pairs = [views(image, sample_rng(seed=request.seed, epoch=0, index=index)) for index, image in enumerate(images)]
    shown = [
        Picture("Is it learning?",
                "The loss says little: watch kNN on images that training does not use, from the untrained encoder at "
                "step 0 on. The effective rank of C (how many directions the targets fill) falls first and climbs later.",
                curves.draw_curves(read_journal(request.out / "metrics.jsonl"))),
        Picture("What the learner sees", "Two crops of one image; the seen view is masked, the other has to be predicted.",
                pictures.draw_views(images, pairs, grid)),
        Picture("Where the patches fall", "The predictor is told only where the other view lies relative to the seen one.",
                pictures.draw_correspondence(pairs[:2], grid)),
        Picture("Nearest neighbours",
                "Test images and the images of the bank that lie nearest, for the trained and the untrained encoder.",
                _neighbours(request)),
    ]  # fmt: skip
    rows = {score.name: f"{score.value:.1%} ± {score.spread:.1%}" for score in [*scores.scores, *scores.control]}
    write_page(
        path,
        title="otherview demo",
        verdict=verdict,
        command=f"otherview demo --seed {request.seed}",
        scores=rows,
        pictures=shown,
    )


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
