"""What short runs say about longer ones: the surface through their scores, and the runs themselves."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import otherview
from otherview.config import RunConfig
from otherview.errors import WrongRequest
from otherview.runs.learning_curve import SURE, Point, Range, fitted
from otherview.runs.plan import SHARES, Arm, arms_of

ARMS = arms_of(8000, 800, batch=64)
SHORT = ("shapes:320@32", RunConfig(batch=16, steps=160, recipe=""))


def drawn(slopes: tuple[float, float], *, noise: float, rng: np.random.Generator) -> list[Point]:
    """Scores of runs whose log-odds grow by `slopes` with every doubling of images and steps."""
    return [Point(arm.images, arm.steps, share(arm, slopes) + noise * float(rng.normal()), 0.002) for arm in ARMS]


def share(arm: Arm, slopes: tuple[float, float]) -> float:
    return 1 / (1 + math.exp(1 - slopes[0] * math.log2(arm.images / 8000) - slopes[1] * math.log2(arm.steps / 800)))


def test_the_runs_halve_successively() -> None:
    """Seven runs: four numbers of images, then the two larger ones twice as long, then all images; a third of the work each."""
    assert len(ARMS) == 7 and ARMS[-1] == Arm(8000, 800)
    assert sorted({arm.images for arm in ARMS}) == [8000 * share for share in SHARES]
    by_steps = {steps: [arm.images for arm in ARMS if arm.steps == steps] for steps in (200, 400, 800)}
    assert {steps * len(images) for steps, images in by_steps.items()} == {800}
    assert all(images[-1] == 8000 for images in by_steps.values())
    assert arms_of(100, 800, batch=64) == [Arm(100, 200), Arm(100, 400), Arm(100, 800)]


def test_a_known_surface_is_found_again() -> None:
    curve = fitted(drawn((0.1, 0.3), noise=0.0, rng=np.random.default_rng(0)))
    assert curve is not None and curve.coefficients[1:] == pytest.approx([0.1, 0.3], abs=1e-6)
    within = curve.range_at(images=8000, steps=8000)
    assert within.low < share(Arm(8000, 8000), (0.1, 0.3)) < within.high and within.tells


def test_so_many_new_runs_lie_within_the_range_as_is_said() -> None:
    """Against chance itself: runs of ten times the steps, drawn with the same noise, fall into the range nine times of ten."""
    rng, slopes, inside, tries = np.random.default_rng(1), (0.1, 0.2), 0, 2000
    for _ in range(tries):
        curve = fitted(drawn(slopes, noise=0.012, rng=rng))
        assert curve is not None
        within = curve.range_at(images=8000, steps=8000)
        new = share(Arm(8000, 8000), slopes) + 0.012 * float(rng.normal())
        inside += within.low <= new <= within.high
    assert inside / tries == pytest.approx(SURE, abs=0.03)


def test_scores_that_scatter_tell_nothing() -> None:
    rng = np.random.default_rng(2)
    curve = fitted(drawn((0.1, 0.2), noise=0.15, rng=rng))
    assert curve is not None and not curve.range_at(images=80_000, steps=8000).tells
    assert not Range(0.2, 0.8).tells and Range(0.4, 0.5).tells


def test_the_error_of_the_scores_is_the_least_that_a_range_leaves_open() -> None:
    exact = drawn((0.1, 0.2), noise=0.0, rng=np.random.default_rng(3))
    near, far = (fitted([point._replace(error=error) for point in exact]) for error in (0.001, 0.02))
    assert near is not None and far is not None
    widths = [curve.range_at(images=8000, steps=8000) for curve in (near, far)]
    assert widths[1].high - widths[1].low > 10 * (widths[0].high - widths[0].low)


@pytest.mark.parametrize("points", [ARMS[:3], [ARMS[0]] * 7, [arm for arm in ARMS if arm.images == 8000] * 2])
def test_too_few_different_runs_give_no_surface(points: list[Arm]) -> None:
    assert fitted([Point(*arm, 0.3, 0.01) for arm in points]) is None


@pytest.mark.parametrize(
    ("data", "config", "said"),
    [
        (
            "shapes:320@32",
            {"batch": 16, "steps": 100},
            "would have 25 steps, in which nothing is learned: give 2 times",
        ),
        ("shapes:40@32", {"batch": 32, "steps": 400}, "too few images to leave some out"),
    ],
)
def test_what_cannot_be_planned_is_said_at_once(data: str, config: dict[str, int], said: str, tmp_path: Path) -> None:
    with pytest.raises(WrongRequest, match=said):
        otherview.plan(RunConfig.model_validate(config), data=data, out=tmp_path / "plan", threads=1)
    assert not (tmp_path / "plan").exists()


TINY = {
    "batch": 8, "steps": 8, "encoder": {"width": 32, "depth": 1, "heads": 1, "image_size": (16, 16), "patch_size": 4},
    "training": {"workers": 0},
}  # fmt: skip


@pytest.mark.parametrize("data", ["shapes:80@16", "unlabelled"])
def test_a_plan_is_made_judged_and_taken_up_again(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven runs, labelled or not; the same call makes none of them again and says the same."""
    monkeypatch.setenv("OTHERVIEW_SHORTEN", "1")
    if data == "unlabelled":
        data = str(photographs(tmp_path / "photos", count=80))
    out, config = tmp_path / "plan", RunConfig.model_validate(TINY)
    found = otherview.plan(config, data=data, out=out, threads=1)
    assert found["images"] + found["held_out"] == 80 and found["score"] == (
        "knn_mean" if data.startswith("shapes") else "retrieval"
    )
    runs = [(run["images"], run["steps"]) for run in found["runs"]]
    assert runs == [tuple(arm) for arm in arms_of(found["images"], 8, batch=8)] and len(runs) == 7
    assert json.loads((out / "plan.json").read_text()) == found
    logs = {path: path.stat().st_mtime_ns for path in out.glob("*/metrics.jsonl")}
    assert len(logs) == 7 and not [*out.glob("*/checkpoints")]
    assert otherview.plan(config, data=data, out=out, threads=1) == found
    assert {path: path.stat().st_mtime_ns for path in logs} == logs


def photographs(folder: Path, *, count: int) -> Path:
    """A folder of noise without labels."""
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder
