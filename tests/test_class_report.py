"""Class by class: hand-worked tables, scikit-learn's areas, calibration by its definition, and what a terminal shows."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from otherview.commands.evaluate import class_table
from otherview.dense.box_ap import average_precision, by_category, category_report
from otherview.evaluate import knn
from otherview.evaluation.class_report import calibration_error, class_report, write_rows
from otherview.evaluation.pixel_scores import Segmented
from otherview.scores import wilson

TRUTH, SAID = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2]), np.array([0, 0, 0, 1, 1, 0, 2, 2, 2, 1])


def test_shares_by_hand() -> None:
    rows = class_report(TRUTH, SAID, ["a", "b", "c", "never"]).rows
    assert [(row["class"], row["n"]) for row in rows] == [("a", 4), ("b", 2), ("c", 4), ("never", 0)]
    a, b, c, never = rows
    assert (a["sensitivity"], a["specificity"], a["precision"]) == (0.75, round(5 / 6, 6), 0.75)
    assert (b["sensitivity"], b["specificity"], b["precision"]) == (0.5, 0.75, round(1 / 3, 6))
    assert (c["sensitivity"], c["specificity"], c["precision"]) == (0.75, 1.0, 1.0)
    assert never["sensitivity"] is None and never["precision"] is None and never["specificity"] == 1.0
    assert a["sensitivity_interval"] == wilson(0.75, 4) and "auroc" not in a


def test_areas_are_scikit_learns_and_their_intervals_hold_them() -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    chances = rng.dirichlet(np.ones(3), 300) + 0.4 * np.eye(3)[truth]
    chances /= chances.sum(axis=1, keepdims=True)
    report = class_report(truth, chances.argmax(axis=1), ["a", "b", "c"], chances=chances)
    for kind, row in enumerate(report.rows):
        assert row["auroc"] == pytest.approx(roc_auc_score(truth == kind, chances[:, kind]), abs=1e-6)
        assert row["auprc"] == pytest.approx(average_precision_score(truth == kind, chances[:, kind]), abs=1e-6)
        for name in ("auroc", "auprc"):
            low, high = row[f"{name}_interval"]
            assert low < row[name] < high and high - low < 0.25
    none = class_report(np.zeros(5, int), np.zeros(5, int), ["a", "b"], chances=np.full((5, 2), 0.5)).rows
    assert none[0]["auroc"] is None and none[1]["auroc"] is None


def test_calibration_by_its_definition() -> None:
    """Two images at .65 of which one is right, two at .95 that are right."""
    chances = np.array([[0.65, 0.35], [0.65, 0.35], [0.95, 0.05], [0.95, 0.05]])
    truth = np.array([0, 1, 0, 0])
    assert calibration_error(truth, chances) == pytest.approx(0.5 * 0.15 + 0.5 * 0.05)
    assert calibration_error(np.zeros(3, int), np.array([[1.0, 0.0]] * 3)) == 0


def test_overlap_class_by_class() -> None:
    confusion = torch.tensor(
        [[[8.0, 2, 0], [1, 4, 0], [0, 0, 0]], [[5, 0, 0], [0, 0, 0], [0, 0, 0]]], dtype=torch.float64
    )
    rows = Segmented(confusion).report(["ground", "organ"]).rows
    assert [(row["class"], row["pixels"], row["images"]) for row in rows] == [
        ("ground", 15, 2),
        ("organ", 5, 1),
        ("2", 0, 0),
    ]
    assert rows[0]["iou"] == pytest.approx(13 / 16, abs=1e-6) and rows[1]["iou"] == pytest.approx(4 / 7, abs=1e-6)
    assert rows[2]["iou"] is None and rows[1]["sensitivity"] == 0.8


def coco_of(outlined: bool) -> dict:
    images = [{"id": number, "height": 40, "width": 40} for number in range(1, 4)]
    annotations = [
        {"id": number, "image_id": number, "category_id": 1 + number % 2, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0,
         "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]}
        for number in range(1, 4)
    ]  # fmt: skip
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "none"}]
    return {"images": images, "annotations": annotations, "categories": categories, "outlined": outlined}


def test_average_precision_category_by_category() -> None:
    """Cats are found, of the two dogs one; the mean of the categories is the whole."""
    pytest.importorskip("faster_coco_eval")
    truth = coco_of(outlined=False)
    found = [
        {"image_id": number, "category_id": 1 + number % 2, "score": 0.9, "bbox": [5, 5, 20, 20]} for number in (1, 2)
    ]
    single = by_category(truth, found, what="bbox", image_ids=[1, 2, 3])
    whole = average_precision(truth, found, what="bbox", image_ids=[1, 2, 3])["AP"]
    assert single[1] == pytest.approx(1.0) and 0.45 < single[2] < 0.55 and np.isnan(single[3])
    assert whole == pytest.approx((single[1] + single[2]) / 2, abs=1e-6)
    rows = category_report(truth, found, image_ids=[1, 2, 3]).rows
    assert [(row["class"], row["objects"]) for row in rows] == [("cat", 1), ("dog", 2), ("none", 0)]
    assert "mask_ap" not in rows[0] and rows[2]["box_ap"] is None  # boxes without outlines have no masks to judge
    assert np.isnan(list(by_category(truth, [], what="bbox", image_ids=[1]).values())).all()


def test_the_table_in_a_file_and_on_a_terminal(tmp_path: Path) -> None:
    rows = class_report(TRUTH, SAID, ["a", "b" * 60, "c", "never"]).rows
    write_rows(tmp_path / "t.csv", rows)
    with (tmp_path / "t.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert (
        lines[0]["sensitivity"] == "0.75"
        and float(lines[0]["sensitivity_low"]) < 0.75
        and lines[3]["sensitivity"] == ""
    )
    shown = class_table(rows)
    assert max(map(len, shown)) <= 100 and shown[1].split() == ["class", "n", "sensitivity", "specificity", "precision"]
    assert class_table([{"class": str(kind), "n": 1} for kind in range(21)]) == [] == class_table([])


def test_an_evaluation_writes_its_classes(tmp_path: Path) -> None:
    found = knn("random:siamese_im_cpu_adamw", train="shapes:60", test="shapes:40:test", k=3, out=tmp_path).as_json()
    assert len(found["per_class"]) == 8 and sum(row["n"] for row in found["per_class"]) == 40
    right = sum(row["sensitivity"] * row["n"] for row in found["per_class"] if row["n"])
    assert right / 40 == pytest.approx(found["scores"][0]["value"], abs=1e-5)
    assert (tmp_path / "knn_classes.csv").exists()
