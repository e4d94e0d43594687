"""Average precision against pycocotools on real annotations, and against hand-worked numbers on a federated case."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otherview.data.objects import mask_tools
from otherview.data.spec import open_source
from otherview.dense.box_ap import ap_scores, average_precision, cut

THEIRS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def disturbed(truth: dict, seed: int) -> list[dict[str, Any]]:
    """Detections as a mediocre detector makes them: moved boxes and masks, wrong classes, doubles, misses."""
    rng, tools, found = np.random.default_rng(seed), mask_tools(), []
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    kinds = [kind["id"] for kind in truth["categories"]]
    for one in truth["annotations"]:
        if rng.random() < 0.2:
            continue
        height, width = sizes[one["image_id"]]
        shift = rng.normal(0, 0.08, 4) * max(8.0, one["bbox"][2])
        box = [max(0.0, side + move) for side, move in zip(one["bbox"], shift, strict=True)]
        mask = tools.decode(tools.merge(tools.frPyObjects(one["segmentation"], height, width)))
        mask = np.roll(mask, rng.integers(-4, 5, 2), axis=(0, 1))
        runs = tools.encode(np.asfortranarray(mask))
        counts = runs["counts"].decode() if isinstance(runs["counts"], bytes) else runs["counts"]
        kind = int(rng.choice(kinds)) if rng.random() < 0.15 else one["category_id"]
        for _ in range(1 + (rng.random() < 0.2)):
            found.append({
                "image_id": one["image_id"], "category_id": kind, "bbox": box, "score": float(rng.random()),
                "segmentation": {"size": [height, width], "counts": counts},
            })  # fmt: skip
    return found


@pytest.mark.parametrize("what", ["bbox", "segm"])
def test_ap_equals_pycocotools(real_data: Path, what: str) -> None:
    coco, evaluation = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    folder = real_data / "coco128"
    truth = open_source(f"coco:{folder / 'instances_val2017.json'}@{folder / 'val2017'}").truth()  # pyright: ignore
    ids = [image["id"] for image in truth["images"]][:70]
    found = disturbed(truth, seed=0)
    ours = average_precision(truth, found, what=what, image_ids=ids)  # pyright: ignore[reportArgumentType]
    known = coco.COCO(str(folder / "instances_val2017.json"))
    lines = [{name: value for name, value in one.items() if what == "bbox" or name != "bbox"} for one in found]
    measure = evaluation.COCOeval(known, known.loadRes(lines), what)
    measure.params.imgIds = ids
    measure.evaluate()
    measure.accumulate()
    measure.summarize()
    assert [ours[name] for name in THEIRS] == pytest.approx(measure.stats[:6].tolist(), abs=1e-12)
    assert 0.1 < ours["AP"] < 0.9


def federated() -> tuple[dict, list[dict]]:
    """Three categories (1 frequent, 2 common, 3 rare) in four images.

    Image 1 shows category 1 and is free of 3; image 2 shows category 2, is free of 1, and its category 3 is not exhaustively
    annotated; image 3 shows category 3; image 4 is not known to be free of anything.
    """
    size = {"height": 100, "width": 100}
    images = [
        {"id": 1, **size, "neg_category_ids": [3], "not_exhaustive_category_ids": []},
        {"id": 2, **size, "neg_category_ids": [1], "not_exhaustive_category_ids": [3]},
        {"id": 3, **size, "neg_category_ids": [], "not_exhaustive_category_ids": []},
        {"id": 4, **size, "neg_category_ids": [], "not_exhaustive_category_ids": []},
    ]
    categories = [
        {"id": kind, "name": f"c{kind}", "frequency": frequency} for kind, frequency in ((1, "f"), (2, "c"), (3, "r"))
    ]

    def box(image: int, kind: int, left: int) -> dict:
        return {"image_id": image, "category_id": kind, "bbox": [left, 10, 20, 20]}

    truth = [box(1, 1, 10), box(2, 2, 10), box(2, 3, 60), box(3, 3, 10)]
    annotations = [
        {**one, "id": number, "area": 400, "iscrowd": 0, "segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]]}
        for number, one in enumerate(truth, start=1)
    ]
    found = [
        (box(1, 1, 10), 0.9),  # right
        (box(2, 1, 50), 0.95),  # wrong: image 2 is free of category 1
        (box(4, 1, 50), 0.99),  # not counted: nobody knows
        (box(2, 2, 10), 0.8),  # right
        (box(1, 2, 50), 0.9),  # not counted: image 1 is not known to be free of category 2
        (box(1, 3, 50), 0.9),  # wrong: image 1 is free of category 3
        (box(2, 3, 10), 0.8),  # not counted: image 2 is not exhaustive for category 3
        (box(2, 3, 60), 0.7),  # right
    ]
    return {"images": images, "annotations": annotations, "categories": categories}, [
        {**one, "score": score} for one, score in found
    ]


def test_a_federated_case_by_hand() -> None:
    """Category 1: wrong, right: precision 1/2 at every recall. Category 2: right: 1. Category 3, of two: wrong, right:
    precision 1/2 up to recall 1/2, which 51 of the 101 points of recall are."""
    truth, found = federated()
    figures = average_precision(truth, found, what="bbox", image_ids=[1, 2, 3, 4])
    rare = 0.5 * 51 / 101
    assert (figures["APf"], figures["APc"]) == (pytest.approx(0.5), pytest.approx(1.0))
    assert figures["APr"] == pytest.approx(rare)
    assert figures["AP"] == pytest.approx((0.5 + 1.0 + rare) / 3) == pytest.approx(figures["AP50"])


def test_lvis_cuts_an_image_to_its_300_likeliest() -> None:
    lines = [{"image_id": 1, "score": 0.001 * place} for place in range(400)] + [{"image_id": 2, "score": 0.5}]
    kept = cut(lines)
    assert len(kept) == 301 and min(one["score"] for one in kept if one["image_id"] == 1) == pytest.approx(0.1)


def test_nothing_found_scores_nothing_and_nothing_to_find_has_no_score() -> None:
    truth, _ = federated()
    assert average_precision(truth, [], what="bbox", image_ids=[1, 2])["AP"] == 0
    assert math.isnan(average_precision(truth, [], what="bbox", image_ids=[4])["AP"])


def test_annotations_may_be_counted_from_0(tmp_path: Path) -> None:
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [4, 4, 20, 20], "iscrowd": 0} for n in range(3)]
    images = [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 48} for n in range(3)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    truth = open_source(f"coco:{tmp_path / 'a.json'}@{tmp_path}").truth()  # pyright: ignore[reportAttributeAccessIssue]
    found = [{"image_id": n, "category_id": 1, "bbox": [4, 4, 20, 20], "score": 0.9} for n in range(3)]
    assert average_precision(truth, found, what="bbox", image_ids=[0, 1, 2])["AP"] == pytest.approx(1)


def test_scores_have_a_spread_and_leave_out_what_is_not_there(tmp_path: Path) -> None:
    source = open_source("shapes:30@64")
    truth = source.truth()  # pyright: ignore[reportAttributeAccessIssue]
    tools, found = mask_tools(), []
    for one in truth["annotations"]:
        if one["id"] % 3:
            found.append(
                {key: one[key] for key in ("image_id", "category_id", "bbox", "segmentation")} | {"score": 0.9}
            )
    ids = [source.image_id(index) for index in range(30)]  # pyright: ignore[reportAttributeAccessIssue]
    scores = {score.name: score for score in ap_scores(truth, found, image_ids=ids, name="x")}
    assert "x_box_APl" not in scores  # no object of 64-pixel images is large
    assert 0.4 < scores["x_box_AP"].value < 0.8 and 0 < scores["x_mask_AP"].spread < 0.2
    assert json.dumps([score.as_json() for score in scores.values()]) and tools
