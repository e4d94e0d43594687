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

import numpy as np

from otherview.dense.inference import Detection
from otherview.errors import WrongRequest
from otherview.evaluation.class_report import ClassReport
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
    names, wanted = LVIS_METRICS if is_lvis(truth) else COCO_METRICS, set(image_ids)
    annotated = any(one["image_id"] in wanted and not one["iscrowd"] for one in truth["annotations"])
    measure = _measure(truth, found, what=what, image_ids=image_ids) if annotated else None
    if measure is None:
        return dict.fromkeys(names, 0.0 if annotated else math.nan)
    stats = measure.stats_as_dict
    return {name: _share(stats.get(theirs, -1)) for name, theirs in names.items()}


def by_category(
    truth: Mapping[str, Any], found: Sequence[Detection], *, what: What, image_ids: Sequence[int]
) -> dict[int, float]:
    """AP of every category, by its id; NaN where there is nothing to find."""
    ids = [kind["id"] for kind in truth["categories"]]
    measure = _measure(truth, found, what=what, image_ids=image_ids)
    if measure is None:
        return dict.fromkeys(ids, math.nan)
    precision = np.asarray(measure.eval["precision"])  # [overlaps, recalls, categories, (areas, most detections)]
    precision = precision.reshape(*precision.shape[:3], -1)
    areas = len(measure.params.areaRng)
    whole = precision[:, :, :, len(measure.params.maxDets) - 1] if precision.shape[3] > areas else precision[:, :, :, 0]
    found_ids = dict(zip(measure.params.catIds, np.moveaxis(whole, 2, 0), strict=True))
    return {kind: _mean(found_ids[kind]) if kind in found_ids else math.nan for kind in ids}


def _mean(precision: np.ndarray) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else math.nan


def _measure(truth: Mapping[str, Any], found: Sequence[Detection], *, what: What, image_ids: Sequence[int]) -> Any:
    """faster-coco-eval's own object, evaluated; None where nothing was found."""
    evaluate, read = _tools()
    lvis, wanted = is_lvis(truth), set(image_ids)
    lines = [_of_kind(one, what) for one in (cut(found) if lvis else found) if one["image_id"] in wanted]
    if not lines:
        return None
    with contextlib.redirect_stdout(None):
        known = read(dict(truth))
        measure = evaluate(known, known.loadRes(lines), what, lvis_style=lvis, print_function=_silent)
        measure.params.imgIds = sorted(wanted)
        if lvis:
            measure.params.maxDets = [LVIS_DETECTIONS]
        measure.run()
    return measure


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


def kinds_of(truth: Mapping[str, Any]) -> dict[str, What]:
    """Boxes, and masks where annotations have outlines: without, an object's box would be its mask."""
    return {"box": "bbox", "mask": "segm"} if truth.get("outlined", True) else {"box": "bbox"}


def category_report(truth: Mapping[str, Any], found: Sequence[Detection], *, image_ids: Sequence[int]) -> ClassReport:
    """AP of boxes and masks, category by category, with how many objects there are; None where there are none."""
    wanted, counts = set(image_ids), defaultdict[int, int](int)
    for one in truth["annotations"]:
        counts[one["category_id"]] += one["image_id"] in wanted and not one["iscrowd"]
    rows = [{"class": kind["name"], "objects": counts[kind["id"]]} for kind in truth["categories"]]
    for name, what in kinds_of(truth).items():
        values = by_category(truth, found, what=what, image_ids=image_ids)
        for row, kind in zip(rows, truth["categories"], strict=True):
            value = values[kind["id"]]
            missed = 0.0 if counts[kind["id"]] else None
            row[f"{name}_ap"] = missed if math.isnan(value) else round(value, 6)
    return ClassReport(rows)


def ap_scores(
    truth: Mapping[str, Any], found: Sequence[Detection], *, image_ids: Sequence[int], name: str
) -> list[Score]:
    """Scores of boxes and masks, AP first; metrics for which there is nothing to find are left out."""
    scores = []
    for kind, what in kinds_of(truth).items():
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
