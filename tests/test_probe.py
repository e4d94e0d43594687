"""The published probe: LARS by hand, the one-try crop, rates that do not meet, scikit-learn's accuracy, and the verb."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from torch import nn

from otherview.data.picture import Picture
from otherview.evaluation.linear_probe import LinearProbe
from otherview.geometry import PatchGrid
from otherview.nn.encoder import Encoder
from otherview.nn.settings import EncoderSettings
from otherview.training.optim import make_lars, set_rate
from otherview.training.settings import TrainingSettings
from otherview.views.crop import one_try_crop
from otherview.views.settings import PLAIN, MaskSettings, ViewSettings
from otherview.views.transforms import LabelledView, LabelledViews, SingleView
from otherview.views.view import View

SMALL = EncoderSettings(image_size=(16, 16), patch_size=8, width=32, depth=1, heads=2)
VIEWS = ViewSettings(online_colour=PLAIN, mask=MaskSettings(kind="none"))
SETTINGS = TrainingSettings(lr_per_256=0.1, weight_decay=0.0)


def probe(rates: tuple[float, ...] = (0.1,), classes: int = 5) -> LinearProbe:
    views = LabelledViews(SingleView(VIEWS, (16, 16), PatchGrid(2, 2), draw=one_try_crop))
    frozen = {"encoder": Encoder(SMALL, seed=0), "untrained": Encoder(SMALL, seed=1)}
    return LinearProbe(frozen, width=32, classes=classes, rates=rates, views=views, seed=0).train()


def some_batch(n: int = 64, *, seed: int = 0) -> LabelledView:
    """Images whose class is their colour, more or less."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 5
    colours = torch.randint(60, 196, (5, 3, 1, 1), generator=torch.Generator().manual_seed(9))
    noise = torch.randint(-60, 60, (n, 3, 16, 16), generator=rng)
    pixels = (colours[labels] + noise).clamp(0, 255).to(torch.uint8)
    return LabelledView(View(pixels, None, torch.zeros(n, 4, dtype=torch.bool)), labels)  # pyright: ignore


def test_lars_is_worked_by_hand() -> None:
    learner = probe()
    optimiser = make_lars(learner, SETTINGS)
    trained = [value for value in learner.parameters() if value.requires_grad]
    expected = [value.detach().double().clone() for value in trained]
    momentum = [torch.zeros_like(value) for value in expected]
    rng = torch.Generator().manual_seed(0)
    for rate in (0.5, 2.0, 0.1):
        for index, value in enumerate(trained):
            value.grad = torch.randn(value.shape, generator=rng)
            gradient = value.grad.double()
            if value.ndim > 1:
                gradient = gradient * 0.001 * expected[index].norm() / gradient.norm()
            momentum[index] = 0.9 * momentum[index] + gradient
            expected[index] = expected[index] - rate * momentum[index]
        set_rate(optimiser, rate)
        optimiser.step()
    assert len(trained) == 4
    for value, wanted in zip(trained, expected, strict=True):
        torch.testing.assert_close(value.double(), wanted, atol=1e-6, rtol=1e-5)


def test_every_rate_is_trained_as_if_alone() -> None:
    both, alone = probe((0.1, 1.0)), probe((1.0,))
    for name in ("encoder", "untrained"):
        alone.probes[name].heads[0].load_state_dict(both.probes[name].heads[1].state_dict())  # pyright: ignore
    for learner, base in ((both, 0.1), (alone, 1.0)):
        optimiser = make_lars(learner, SETTINGS)
        for step in range(4):
            learner(some_batch(seed=step), None, 0).total.backward()
            set_rate(optimiser, base)
            optimiser.step()
            optimiser.zero_grad()
    for name in ("encoder", "untrained"):
        one, two = both.probes[name].heads[1].weight, alone.probes[name].heads[0].weight  # pyright: ignore
        torch.testing.assert_close(one, two)
        assert not torch.equal(both.probes[name].heads[0].weight, one)  # pyright: ignore


def test_encoders_stay_as_they_are() -> None:
    learner = probe()
    before = {name: value.clone() for name, value in learner.frozen.state_dict().items()}
    loss = learner(some_batch(), None, 0)
    loss.total.backward()
    assert set(loss.terms) == {"accuracy_encoder_0.1", "accuracy_untrained_0.1"}
    assert all(value.grad is None for value in learner.frozen.parameters())
    assert all(value.grad is not None for value in learner.probes.parameters())
    for name, value in learner.frozen.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(module.training for module in learner.frozen.modules())


def test_the_head_reaches_scikit_learns_accuracy() -> None:
    from sklearn.linear_model import LogisticRegression

    learner = probe((1.0,))
    optimiser = make_lars(learner, SETTINGS)
    train, test = some_batch(500, seed=1), some_batch(500, seed=2)
    for step in range(300):
        learner(train, None, 0).total.backward()
        set_rate(optimiser, 4.0 * (1 - step / 300))
        optimiser.step()
        optimiser.zero_grad()
    with torch.no_grad():
        bank, queries = (
            learner.frozen["encoder"](
                (batch.view.pixels.float() / 255 - torch.tensor(VIEWS.mean)[:, None, None])
                / torch.tensor(VIEWS.std)[:, None, None]
            ).mean
            for batch in (train, test)
        )
    normed = [nn.functional.layer_norm(side, (32,)).numpy() for side in (bank, queries)]
    shift, scale = normed[0].mean(axis=0), normed[0].std(axis=0)
    theirs = LogisticRegression(max_iter=5000).fit((normed[0] - shift) / scale, np.asarray(train.label))
    wanted = theirs.score((normed[1] - shift) / scale, np.asarray(test.label))
    found = (
        (learner.predict("encoder", queries)[1.0].argmax(dim=1) == torch.as_tensor(test.label)).double().mean().item()
    )
    noise = 2 * (wanted * (1 - wanted) / 500) ** 0.5
    assert 0.5 < wanted < 0.999 and found > wanted - noise


def test_one_try_crops_are_cut_to_the_image() -> None:
    image = Picture("it", np.zeros((40, 100, 3), np.uint8))
    rng = Random(0)
    crops = [one_try_crop(image, ViewSettings(), rng) for _ in range(4000)]
    shares = [crop.height * crop.width / 4000 for crop in crops]  # pyright: ignore
    assert all(0 <= c.top <= 40 - c.height and 0 <= c.left <= 100 - c.width for c in crops)  # pyright: ignore
    assert sum(crop.height == 40 for crop in crops) > 1000  # tall ones are cut, where ten tries would have drawn anew
    assert min(shares) < 0.1 and 0.45 < np.mean([crop.flipped for crop in crops]) < 0.55
    wide = [crop for crop in crops if crop.height < 40]  # pyright: ignore
    ratios = np.log([crop.width / crop.height for crop in wide])  # pyright: ignore
    assert abs(np.mean(ratios)) < 0.05 and np.log(3 / 4) - 0.1 < min(ratios) and max(ratios) < np.log(4 / 3) + 0.1


WORDS = (
    "evaluate",
    "linear-probe",
    "--weights",
    "random:siamese_im_cpu_adamw",
    "--train",
    "shapes:200",
    "--test",
    "shapes:80:test",
)


@pytest.mark.slow
def test_the_verb_trains_resumes_and_refuses(tmp_path: Path, result_of: Callable, otherview: Callable) -> None:
    out = tmp_path / "found"
    result = result_of(*WORDS, "--epochs", "6", "--rates", "0.1", "3", "--crop-pct", "1", "--out", out)
    names = [score["name"] for score in (*result["scores"], *result["control"])]
    assert names == [
        f"linear_probe_{name} (rate {rate}) (epochs 6, crop pct 1)"
        for name in ("encoder", "untrained")
        for rate in ("0.1", "3")
    ]
    assert [score["value"] for score in result["scores"]] == [score["value"] for score in result["control"]]
    assert result["batch"] == 20 and json.loads((out / "results.jsonl").read_text())["epochs"] == 6
    again = result_of(*WORDS, "--epochs", "6", "--rates", "0.1", "3", "--crop-pct", "1", "--out", out)
    assert again["scores"] == result["scores"]
    for words, said in (
        (("--epochs", "5", "--rates", "0.1", "3", "--out", out), "holds a fit with steps 60, not 50"),
        (("--epochs", "0", "--out", out), "must be above 0"),
        (("--batch", "-2", "--out", out), "--batch -2 is too small"),
        ((), "is no run folder: give --out DIR"),
        (("--out", out / "x", "--batch", "300"), "the largest batch that fits is 200"),
    ):
        refused = otherview(*WORDS, *words)
        assert refused.returncode == 2 and said in refused.stderr, refused.stderr


@pytest.mark.slow
def test_a_killed_probe_ends_as_if_it_had_not_been(tmp_path: Path, result_of: Callable) -> None:
    words = [*WORDS, "--epochs", "12", "--crop-pct", "1", "--threads", "1", "--device", "cpu", "--out"]
    whole = result_of(*words, tmp_path / "whole")
    command = [sys.executable, "-m", "otherview", *map(str, words), str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "killed/linear_probe/checkpoints/last.pt").exists():
        pass
    process.kill()
    assert process.wait() == -signal.SIGKILL
    killed = result_of(*words, tmp_path / "killed")
    assert killed["scores"] == whole["scores"]
    one, two = (
        torch.load(tmp_path / name / "linear_probe/checkpoints/last.pt", weights_only=True)["learner"]
        for name in ("whole", "killed")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_head_with_its_norms_folded_gives_the_same_scores() -> None:
    learner = probe(rates=(0.1, 0.3))
    own, features = learner.probes["encoder"], 3 + 5 * torch.randn(64, 32)
    for value in own.heads[1].parameters():  # pyright: ignore
        torch.nn.init.normal_(value)
    own(features)  # running statistics
    learner.eval()
    with torch.no_grad():
        torch.testing.assert_close(learner.classifier("encoder", 0.3)(features), own(features)[1], rtol=1e-4, atol=1e-5)
