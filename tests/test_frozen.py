"""Classifiers on frozen features against scikit-learn's, and what is refused."""

import csv
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from otherview.errors import WrongRequest
from otherview.evaluation import frozen
from otherview.evaluation.backbone import load_backbone
from otherview.evaluation.frozen import modules_of
from otherview.evaluation.knn import accuracy, knn_predict, knn_sweep
from otherview.evaluation.linear import fit_logistic
from otherview.evaluation.result import write_confusion
from otherview.evaluation.split import check_classes
from otherview.scores import wilson


def clouds(n: int, width: int, classes: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    middles = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=rng)
    return middles[labels] + 1.5 * torch.randn(n, width, generator=rng), labels


@pytest.mark.parametrize("k", [1, 7, 20])
def test_knn_is_scikit_learns(k: int) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    (bank, labels), (queries, _) = clouds(900, 24, 6, seed=0), clouds(301, 24, 6, seed=1)
    theirs = KNeighborsClassifier(
        n_neighbors=k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07), algorithm="brute"
    ).fit(bank.numpy(), labels.numpy())
    ours = knn_predict(bank, labels, queries, k=k, temperature=0.07, chunk=64)
    assert (ours.numpy() == theirs.predict(queries.numpy())).all()


def test_the_linear_measure_is_scikit_learns() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    (train, labels), (test, truth) = clouds(800, 30, 5, seed=0), clouds(500, 30, 5, seed=1)
    scaler = StandardScaler().fit(train.numpy())
    theirs = LogisticRegression(C=1 / (1e-2 * 800), tol=1e-8, max_iter=2000).fit(
        scaler.transform(train.numpy()), labels.numpy()
    )
    ours = fit_logistic(train, labels, strength=1e-2).predict(test)
    assert (ours.numpy() == theirs.predict(scaler.transform(test.numpy()))).mean() > 0.995
    assert accuracy(ours, truth) > 0.8


@pytest.mark.parametrize("seed", [0, 3, 22])
def test_the_linear_measure_is_at_its_optimum_where_features_are_alike(seed: int) -> None:
    """As those of an untrained encoder are: without round coordinates 200 iterations end far above."""
    from sklearn.linear_model import LogisticRegression

    (features, labels), strength = clouds(3000, 60, 5, seed=0), 1e-4
    mixed = features @ torch.randn(60, 60, generator=torch.Generator().manual_seed(5))
    axes = torch.linalg.svd(mixed, full_matrices=False).Vh
    flat = (
        mixed
        @ axes.T
        * torch.logspace(0, -3, 60)
        @ torch.linalg.qr(torch.randn(60, 60, generator=torch.Generator().manual_seed(seed)))[0]
    )
    ours = fit_logistic(flat, labels, strength=strength)
    inputs = ((flat - ours.shift) / ours.scale).double()
    theirs = LogisticRegression(C=1 / (strength * 3000), solver="newton-cholesky", tol=1e-10, max_iter=500).fit(
        inputs.numpy(), labels.numpy()
    )

    def objective(weight: torch.Tensor, bias: torch.Tensor) -> float:
        logits = inputs @ weight.double() + bias.double()
        return float(
            torch.nn.functional.cross_entropy(logits, labels) + 0.5 * strength * weight.double().square().sum()
        )

    best = objective(torch.from_numpy(theirs.coef_.T), torch.from_numpy(theirs.intercept_))
    assert objective(ours.weight, ours.bias) == pytest.approx(best, rel=1e-5)


def test_the_linear_measure_is_scikit_learns_where_images_are_few() -> None:
    from sklearn.linear_model import LogisticRegression

    (features, labels), strength = clouds(60, 200, 4, seed=0), 1e-2
    ours = fit_logistic(features, labels, strength=strength)
    inputs = ((features - ours.shift) / ours.scale).double()
    theirs = LogisticRegression(C=1 / (strength * 60), tol=1e-10, max_iter=5000).fit(inputs.numpy(), labels.numpy())
    torch.testing.assert_close(ours.weight.double(), torch.from_numpy(theirs.coef_.T), atol=2e-3, rtol=0)


def test_a_head_that_is_not_at_its_optimum_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    fit_logistic(*clouds(300, 10, 3, seed=0), iterations=2)
    assert "not at its optimum after 2 iterations" in capsys.readouterr().err
    fit_logistic(*clouds(300, 10, 3, seed=0))
    assert not capsys.readouterr().err


def test_raw_pixels_are_left_out_where_they_do_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = load_backbone("random:siamese_im_cpu_adamw")
    assert list(modules_of(subject, images=100)) == ["encoder", "untrained", "pixels"]
    monkeypatch.setattr(frozen, "MOST_PIXELS", 100 * 3 * 32 * 32 * 4 - 1)
    assert list(modules_of(subject, images=100)) == ["encoder", "untrained"]
    assert "raw pixels are left out" in capsys.readouterr().err


def test_one_class_and_unknown_classes_are_refused() -> None:
    check_classes([0, 1, 2], [1], names=None)
    with pytest.raises(WrongRequest, match=r"one class only \(dog\)"):
        check_classes([1, 1], [1], names=("cat", "dog"))
    with pytest.raises(WrongRequest, match=r"classes that --train lacks \(3\)"):
        check_classes([0, 1], [1, 3], names=None)


@pytest.mark.slow
def test_ten_thousand_queries_meet_fifty_thousand_neighbours_within_seconds() -> None:
    bank, queries = torch.randn(50_000, 768), torch.randn(10_000, 768)
    began = time.monotonic()
    knn_predict(bank, torch.randint(100, (50_000,)), queries)
    assert time.monotonic() - began < 60  # 10 s on two idle cores (docs/results.md); here others may run beside it


def test_a_sweep_is_one_prediction_after_the_other() -> None:
    (bank, labels), (queries, _) = clouds(300, 8, 4, seed=0), clouds(70, 8, 4, seed=1)
    swept = knn_sweep(bank, labels, queries, ks=(1, 5, 20), temperatures=(0.02, 1.0), chunk=32)
    assert len(swept) == 6 and len({tuple(predicted.tolist()) for predicted in swept.values()}) > 2
    for (k, temperature), predicted in swept.items():
        assert torch.equal(predicted, knn_predict(bank, labels, queries, k=k, temperature=temperature))


@pytest.mark.parametrize(("value", "n", "low", "high"), [(0.5, 100, 0.4038, 0.5962), (0.0, 10, 0.0, 0.2775)])
def test_intervals_are_wilsons(value: float, n: int, low: float, high: float) -> None:
    assert wilson(value, n) == pytest.approx((low, high), abs=1e-4)


def test_confusion_counts_every_image_once(tmp_path: Path) -> None:
    truth, predicted = np.array([0, 0, 0, 1, 3]), np.array([0, 2, 2, 1, 0])
    write_confusion(tmp_path / "c.csv", truth, predicted, names=["cat", "dog", "owl", "bee"])
    assert (tmp_path / "c.csv").read_text().split() == [
        "class,n,accuracy,cat,dog,owl,bee", "cat,3,0.333333,1,0,2,0", "dog,1,1.000000,0,1,0,0", "owl,0,,0,0,0,0",
        "bee,1,0.000000,1,0,0,0",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_verb_sweeps_confuses_and_refuses_shared_images(
    tmp_path: Path, result_of: Callable, otherview: Callable
) -> None:
    words = ["evaluate", "knn", "--weights", "random:siamese_im_cpu_adamw", "--train", "shapes:160"]
    table = tmp_path / "c.csv"
    result = result_of(*words, "--test", "shapes:80:test", "--k", "5", "20", "--confusion", table)
    names = [score["name"] for score in result["scores"]]
    assert names == [f"knn_encoder_{kind} (k {k}, temperature 0.07)" for kind in ("mean", "cls") for k in (5, 20)]
    low, high = result["scores"][0]["interval"]
    assert low < result["scores"][0]["value"] < high
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    right = sum(int(row[row["class"]]) for row in rows)
    assert right / sum(int(row["n"]) for row in rows) == pytest.approx(result["scores"][0]["value"])
    for verb in ("knn", "linear-segment"):
        refused = otherview("evaluate", verb, *words[2:], "--test", "shapes:20:test,shapes:1")
        assert refused.returncode == 2 and "is in both the training and the test images" in refused.stderr
        *progress, answer = refused.stderr.strip().splitlines()
        assert answer.startswith("otherview: ") and all(line.startswith("comparing images ") for line in progress)
    assert result_of(*words, "--test", "shapes:20:test,shapes:1", "--allow-shared")["scores"][0]["n"] == 21


def test_every_verb_of_evaluation_is_a_function_too() -> None:
    import otherview as package
    from otherview.__main__ import COMMANDS

    commands = {name.removeprefix("evaluate ").replace("-", "_") for name in COMMANDS if name.startswith("evaluate ")}
    assert commands == set(package.evaluate.__all__)
    assert all(callable(getattr(package.evaluate, name)) for name in commands)
