"""The whole way in minutes, on a CPU, with no network: pre-train on drawn images, evaluate, report."""

import time
from typing import Any

import torch

from otherview.data.spec import open_source
from otherview.evaluation.features import extract
from otherview.evaluation.knn import knn
from otherview.evaluation.split import images_used
from otherview.evaluation.token_pictures import neighbour
from otherview.nn.encoder import Encoder
from otherview.recipes.registry import find
from otherview.report.drawn_tokens import draw_neighbours
from otherview.report.run_page import keep_picture, refresh_page
from otherview.runs.pretrain import pretrain
from otherview.runs.settings import DemoSettings
from otherview.signature import takes
from otherview.weights.names import load_encoder

RECIPE = "siamese_im_demo"
TRAIN, BANK, TEST = "shapes:50000:train", "shapes:5000:val", "shapes:2000:test"
WATCH = {"knn_bank": "shapes:2000:train", "knn_test": "shapes:1000:val", "knn_every": 150}
"""What the curve is drawn from; the test images stay unseen until the end."""
NEIGHBOURS = (
    "Nearest neighbours.\nTest images and what lies nearest in the bank, for the trained and the untrained encoder."
)


@takes(DemoSettings)
def demo(settings: DemoSettings) -> dict[str, Any]:
    """Pre-train, evaluate and report on built-in images; returns the scores and where the report is."""
    began = time.monotonic()
    config = find(RECIPE).make().model_copy(update={"seed": settings.seed})
    computing = {"device": settings.device, "threads": settings.threads}
    trained = pretrain(config, data=TRAIN, out=settings.out, **WATCH, **computing)
    scores = knn(settings.out, train=BANK, test=TEST, **computing)
    keep_picture(settings.out, "5-neighbours", _neighbours(settings), NEIGHBOURS)
    refresh_page(settings.out)
    value = {score.name: score.value for score in [*scores.scores, *scores.control]}
    return {
        "knn": {
            "trained": value["knn_encoder_mean"],
            "untrained": value["knn_untrained_mean"],
            "pixels": value["knn_pixels"],
        },
        "verdict": trained["verdict"],
        "report": str(settings.out / "report.html"),
        "seconds": round(time.monotonic() - began, 1),
    }


def _neighbours(settings: DemoSettings, queries: int = 5, nearest: int = 6) -> Any:
    bank, test = open_source(f"shapes:{images_used(1000)}:val"), open_source(f"shapes:{queries}:test")
    trained = load_encoder(settings.out)
    card = trained.card
    rows = []
    for name, encoder in (("trained", trained.encoder), ("untrained", Encoder(card.encoder, seed=card.seed))):
        a, b = (
            torch.nn.functional.normalize(extract(encoder, source, card.preprocessing).tokens["mean"], dim=1)
            for source in (test, bank)
        )
        values, found = (a @ b.T).topk(nearest, dim=1)
        near = zip(found.tolist(), values.tolist(), strict=True)
        rows.append((name, [[neighbour(bank, *one) for one in zip(*some, strict=True)] for some in near]))
    return draw_neighbours([neighbour(test, index) for index in range(queries)], rows)
