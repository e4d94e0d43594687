"""What the protocols of evaluation share: classes without gaps, images apart, requests answered before any work."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from otherview import evaluate
from otherview.data.source import Relabelled
from otherview.data.spec import open_source
from otherview.errors import WrongRequest
from otherview.evaluate import few_shot, finetune, knn, linear_probe, retrieval
from otherview.evaluation.few_shot import draw_listed
from otherview.evaluation.knn import knn_predict
from otherview.evaluation.settings import LabelledSettings
from otherview.evaluation.split import labels_fingerprint, open_splits, with_fingerprints
from otherview.runs.study import MEASURES
from otherview.scores import Scores
from otherview.training.fit import check_fit, default_batch
from tests.test_sources import shard

WEIGHTS = "random:siamese_im_cpu_adamw"


def sides(train: str, test: str, **options: Any) -> Any:
    return open_splits(LabelledSettings(weights=WEIGHTS, train=train, test=test, **options))


def numbered(path: Path, labels: list[int]) -> str:
    """A shard whose classes are numbers."""
    source = open_source(f"shapes:{len(labels)}")
    members = {f"{index:04d}.png": source.read(index) for index in range(len(labels))}
    return str(shard(path, members | {f"{index:04d}.cls": str(label).encode() for index, label in enumerate(labels)}))


def test_classes_are_numbered_without_gaps(tmp_path: Path) -> None:
    train, test = numbered(tmp_path / "a.tar", [0, 37_000, 0, 259_000]), numbered(tmp_path / "b.tar", [259_000, 0])
    one, two = sides(train, test)
    assert one.labels.tolist() == [0, 1, 0, 2] and two.labels.tolist() == [2, 0]
    assert list(one.names) == ["0", "37000", "259000"]
    relabelled = Relabelled(one.source, one.indices, labels=one.labels.numpy(), names=one.names)
    assert [relabelled.label(index) for index in range(4)] == [0, 1, 0, 2]
    table = tmp_path / "c.csv"
    knn(WEIGHTS, train=train, test=test, k=1, allow_shared=True, confusion=table, out=tmp_path)
    assert table.read_text().splitlines()[0] == "class,n,accuracy,0,37000,259000"
    assert json.loads((tmp_path / "results.jsonl").read_text())["allow_shared"] is True
    with pytest.raises(WrongRequest, match=r"classes that --train lacks \(37000\)"):
        sides(test, train)


def test_shared_images_are_found_before_a_fit_begins() -> None:
    with pytest.raises(WrongRequest, match="is in both the training and the test images"):
        with_fingerprints(sides("shapes:40", "shapes:20:test,shapes:1"), workers=0, allow_shared=False)
    with_fingerprints(sides("shapes:40", "shapes:20:test,shapes:1"), workers=0, allow_shared=True)
    with_fingerprints(sides("shapes:40", "shapes:20:test"), workers=0, allow_shared=False)


def test_a_fit_is_known_by_its_images_and_only_once_it_has_begun(tmp_path: Path) -> None:
    one, two = sides("shapes:40", "shapes:20:test")[0], sides("shapes:39", "shapes:20:test")[0]
    assert (
        labels_fingerprint(one) != labels_fingerprint(two) == labels_fingerprint(sides("shapes:39", "shapes:9:test")[0])
    )
    check_fit(tmp_path / "fit", {"rate": 1.0})
    check_fit(tmp_path / "fit", {"rate": 2.0})  # nothing was done yet
    (tmp_path / "fit/checkpoints").mkdir()
    check_fit(tmp_path / "fit", {"rate": 2.0})
    with pytest.raises(WrongRequest, match=r"holds a fit with rate 2.0, not 3.0"):
        check_fit(tmp_path / "fit", {"rate": 3.0})


@pytest.mark.parametrize(
    ("images", "unit", "batch"), [(50_000, 1, 1024), (500, 1, 50), (505, 8, 48), (9, 1, 2), (9, 4, 4), (10**6, 6, 1020)]
)
def test_the_default_batch_is_shared_out_evenly(images: int, unit: int, batch: int) -> None:
    assert default_batch(images, most=1024, unit=unit) == batch


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        (finetune, {"smoothing": 3.0}, "--smoothing 3 must lie between 0 and 0.999"),
        (finetune, {"mixup": -1.0}, "--mixup -1 must lie between"),
        (finetune, {"epochs": float("nan")}, "--epochs nan must lie between"),
        (finetune, {"drop_path": 1.5}, "--drop-path 1.5 must lie between"),
        (finetune, {"augment": "foo"}, "--augment foo is no RandAugment"),
        (finetune, {"crop_share": (0.5, 1.5)}, "--crop-share 0.5 1.5 must be two shares"),
        (finetune, {"batch": -2}, "--batch -2 must be 2 or more"),
        (linear_probe, {"crop_pct": 2.0}, "--crop-pct 2 must be above 0 and up to 1"),
        (linear_probe, {"batch": 1}, "--batch 1 is too small for batch norm"),
        (linear_probe, {"epochs": float("inf")}, "must be above 0"),
        (few_shot, {"shares": (), "shots": (0,)}, "--shots 0 is too few"),
        (few_shot, {"train_images": 0}, "0 is too few: give 1 or more"),
        (knn, {"test_images": -5}, "-5 is too few"),
        (knn, {"k": (5, 41)}, "--k 41 is larger than the 40 training images"),
    ],
)
def test_wrong_requests_are_answered_before_any_work(
    function: Any, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(WrongRequest, match=said):
        function(WEIGHTS, train="shapes:40", test="shapes:20:test", **{"out": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()


def test_one_image_has_no_score(tmp_path: Path) -> None:
    with pytest.raises(WrongRequest, match="fewer than 2 images"):
        retrieval(WEIGHTS, test="shapes:1", out=tmp_path)


def test_a_small_temperature_leaves_the_nearest() -> None:
    rng = torch.Generator().manual_seed(0)
    bank, queries, labels = (
        torch.randn(200, 16, generator=rng),
        torch.randn(50, 16, generator=rng),
        torch.arange(200) % 5,
    )
    nearest = knn_predict(bank, labels, queries, k=1)
    assert torch.equal(knn_predict(bank, labels, queries, k=20, temperature=1e-4), nearest)
    assert len(set(nearest.tolist())) == 5


def test_a_list_means_the_image_it_names() -> None:
    names = ["cat/1.png", "dog/1.png", "dog/2.png"]
    assert draw_listed(names, ["cat/1.png", "2.png"], name="l").chosen.tolist() == [0, 2]
    assert draw_listed(names, ["elsewhere/2.png"], name="l").chosen.tolist() == [2]
    with pytest.raises(WrongRequest, match=r"'1\.png' is the name of several images"):
        draw_listed(names, ["1.png"], name="l")


def test_images_that_cannot_be_read_are_no_side(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        (tmp_path / f"broken/{kind}").mkdir(parents=True)
        (tmp_path / f"broken/{kind}/1.png").write_bytes(b"no picture")
    good = Path(tmp_path / "good")
    for index, kind in enumerate(("cat", "dog")):
        (good / kind).mkdir(parents=True)
        (good / kind / "1.png").write_bytes(open_source("shapes:2").read(index))
    for train, test, flag in ((good, tmp_path / "broken", "--test"), (tmp_path / "broken", good, "--train")):
        with pytest.raises(WrongRequest, match=rf"none of \d+ images of {flag} can be read"):
            knn(WEIGHTS, train=str(train), test=str(test), k=1, workers=0, out=tmp_path / "out")


@pytest.mark.slow
def test_a_scores_name_says_what_its_protocol_has_otherwise() -> None:
    sides: dict[str, Any] = {"train": "shapes:40", "test": "shapes:20:test", "cache": False}
    weights = "random:siamese_im_cpu_adamw"

    def first(scores: Scores) -> str:
        return scores.scores[0].name

    assert first(evaluate.knn(weights, **sides)) == MEASURES["knn"]
    assert first(evaluate.linear(weights, **sides)) == MEASURES["linear"]
    assert first(evaluate.few_shot(weights, **sides, shares=(0.5,))) == "few_shot_encoder_mean (50 %)"
    assert first(evaluate.linear_segment(weights, **sides)) == MEASURES["linear-segment"]
    assert first(evaluate.retrieval(weights, test="shapes:20:test")) == MEASURES["retrieval"]
    assert first(evaluate.knn(weights, **sides, k=3, block=1)) == "knn_encoder_mean (block 1, k 3)"
    assert first(evaluate.linear(weights, **sides, train_images=30, strength=0.01)) == (
        "linear_encoder_mean (train images 30, strength 0.01)"
    )
    assert (
        first(evaluate.retrieval(weights, test="shapes:20:test", test_images=5)) == "retrieval_encoder (test images 5)"
    )
