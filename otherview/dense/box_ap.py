"""Average precision of boxes and masks, as COCO and LVIS measure it; the matching is faster-coco-eval's.

    average_precision(truth, found, what="bbox", image_ids=ids)["AP"]

COCO: the mean over overlaps .50, .55, … .95 and classes, 100 detections an image and class. LVIS: 300 detections an image,
categories that an image is not known to be free of are not held against a detector; APr, APc and APf by frequency.
"""

import contextlib
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from otherview.dense.inference import Detection
from otherview.errors import WrongRequest
from otherview.scores import Score

What = Literal["bbox", "segm"]
LVIS_DETECTIONS = 300
PARTS = 5
"""The spread of a score is the standard error over so many parts of the test images."""
COCO_METRICS = {
    "AP": "AP_all",
    "AP50": "AP_50",
    "AP75": "AP_75",
    "APs": "AP_small",
    "APm": "AP_medium",
    "APl": "AP_large",
}
LVIS_METRICS = {**COCO_METRICS, "APr": "APr", "APc": "APc", "APf": "APf"}


def is_lvis(truth: Mapping[str, Any]) -> bool:
    """Whether annotations are federated: their images say which categories they are free of."""
    return any("neg_category_ids" in image for image in truth["images"])


def average_precision(
    truth: Mapping[str, Any], found: Sequence[Detection], *, what: What, image_ids: Sequence[int]
) -> dict[str, float]:
    """AP, AP50, AP75, APs, APm, APl (small, medium, large) and for LVIS APr, APc, APf; NaN where there is nothing to find."""
    evaluate, read = _tools()
    lvis = is_lvis(truth)
    names = LVIS_METRICS if lvis else COCO_METRICS
    wanted = set(image_ids)
    lines = [_of_kind(one, what) for one in (cut(found) if lvis else found) if one["image_id"] in wanted]
    annotated = any(one["image_id"] in wanted and not one["iscrowd"] for one in truth["annotations"])
    if not lines or not annotated:
        return dict.fromkeys(names, 0.0 if annotated else math.nan)
    with contextlib.redirect_stdout(None):
        known = read(dict(truth))
        measure = evaluate(known, known.loadRes(lines), what, lvis_style=lvis, print_function=_silent)
        measure.params.imgIds = sorted(wanted)
        if lvis:
            measure.params.maxDets = [LVIS_DETECTIONS]
        measure.run()
    stats = measure.stats_as_dict
    return {name: _share(stats.get(theirs, -1)) for name, theirs in names.items()}


def _silent(*_: object) -> None:
    """Tables that nobody asked for."""


def _share(value: float) -> float:
    return math.nan if value < 0 else float(value)


def _of_kind(one: Detection, what: What) -> Detection:
    """A line as it is measured: with both, the areas of masks would be those of boxes."""
    return {name: value for name, value in one.items() if name != ("segmentation" if what == "bbox" else "bbox")}


def cut(found: Sequence[Detection]) -> list[Detection]:
    """The 300 likeliest detections of every image, over all categories."""
    by_image: defaultdict[int, list[Detection]] = defaultdict(list)
    for one in found:
        by_image[one["image_id"]].append(one)
    return [
        one
        for some in by_image.values()
        for one in sorted(some, key=lambda one: one["score"], reverse=True)[:LVIS_DETECTIONS]
    ]


def ap_scores(
    truth: Mapping[str, Any], found: Sequence[Detection], *, image_ids: Sequence[int], name: str
) -> list[Score]:
    """Scores of boxes and masks, AP first; metrics for which there is nothing to find are left out."""
    scores = []
    kinds: dict[str, What] = {"box": "bbox", "mask": "segm"}
    for kind, what in kinds.items():
        whole = average_precision(truth, found, what=what, image_ids=image_ids)
        parts = [
            average_precision(truth, found, what=what, image_ids=image_ids[part::PARTS])
            for part in range(PARTS if len(image_ids) >= 2 * PARTS else 0)
        ]
        for figure, value in whole.items():
            known = [part[figure] for part in parts if not math.isnan(part[figure])]
            spread = statistics.stdev(known) / math.sqrt(len(known)) if len(known) > 1 else 0.0
            if not math.isnan(value):
                answers = Parts([part[figure] for part in parts])
                scores.append(Score(f"{name}_{kind}_{figure}", value, "AP", len(image_ids), spread, None, answers))
    return scores


class Parts(NamedTuple):
    """What a score's error was computed from: the same measure on parts of the test images."""

    values: list[float]

    def beside(self, other: "Parts") -> tuple[float, None] | None:
        """The standard error over parts that both know."""
        pairs = zip(self.values, other.values, strict=False)
        differences = [one - two for one, two in pairs if not math.isnan(one - two)]
        if len(self.values) != len(other.values) or len(differences) < 2:
            return None
        return statistics.stdev(differences) / math.sqrt(len(differences)), None


def _tools() -> tuple[Any, Any]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise WrongRequest("average precision needs a package: pip install 'otherview[detection]'") from error
    return COCOeval_faster, COCO
