"""Classifiers on frozen features against scikit-learn's, and what is refused."""

import time

import numpy as np
import pytest
import torch

from otherview.data.spec import open_source
from otherview.errors import WrongRequest
from otherview.evaluation import frozen
from otherview.evaluation.frozen import Side, check_classes, subjects_of
from otherview.evaluation.knn import accuracy, knn_predict
from otherview.evaluation.logistic import fit_logistic
from otherview.nn.encoder import Encoder
from otherview.nn.settings import EncoderSettings


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


def test_raw_pixels_are_left_out_where_they_do_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = Encoder(EncoderSettings(image_size=(32, 32), patch_size=8, width=32, depth=1, heads=2))
    assert list(subjects_of(encoder, seed=0, images=100)) == ["encoder", "untrained", ""]
    monkeypatch.setattr(frozen, "MOST_PIXELS", 100 * 3 * 32 * 32 * 4 - 1)
    assert list(subjects_of(encoder, seed=0, images=100)) == ["encoder", "untrained"]
    assert "raw pixels are left out" in capsys.readouterr().err


def test_one_class_and_unknown_classes_are_refused() -> None:
    source = open_source("shapes:8")

    def side(*labels: int) -> Side:
        return Side(source, np.arange(len(labels)), torch.tensor(labels))

    check_classes(side(0, 1, 2), side(1))
    with pytest.raises(WrongRequest, match="one class only"):
        check_classes(side(1, 1), side(1))
    with pytest.raises(WrongRequest, match=r"classes that --train lacks \(\[3\]\)"):
        check_classes(side(0, 1), side(1, 3))


@pytest.mark.slow
def test_ten_thousand_queries_meet_fifty_thousand_neighbours_within_seconds() -> None:
    bank, queries = torch.randn(50_000, 768), torch.randn(10_000, 768)
    began = time.monotonic()
    knn_predict(bank, torch.randint(100, (50_000,)), queries)
    assert time.monotonic() - began < 60  # 10 s on two idle cores (docs/results.md); here others may run beside it
