"""What short runs say about longer ones: the surface through their scores, and the runs themselves."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import otherview
from otherview.config import RunConfig
from otherview.data.spec import open_source
from otherview.errors import WrongRequest
from otherview.recipes.by_images import CHOSEN
from otherview.recipes.registry import find
from otherview.recipes.siamese_im import siamese_im_cpu
from otherview.runs.cost import Opened
from otherview.runs.learning_curve import SURE, Point, Range, fitted
from otherview.runs.plan import SHARES, Arm, _divided, _error, _shortened, arms_of
from otherview.runs.settings import PlanSettings

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
            "would have 25 steps, in which nothing is learned: give --steps 160 or more",
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
    assert found["images"] + found["judged_on"] == 80 and found["score"] == (
        "knn_mean" if data.startswith("shapes") else "retrieval"
    )
    runs = [(run["images"], run["steps"]) for run in found["runs"]]
    assert runs == [tuple(arm) for arm in arms_of(found["images"], 8, batch=8)] and len(runs) == 7
    assert json.loads((out / "plan.json").read_text()) == found
    logs = {path: path.stat().st_mtime_ns for path in out.glob("*/metrics.jsonl")}
    assert len(logs) == 7 and not [*out.glob("*/checkpoints")]
    assert otherview.plan(config, data=data, out=out, threads=1) == found
    assert {path: path.stat().st_mtime_ns for path in logs} == logs


def test_a_folder_answers_one_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another time, other groups or other images of the same number are refused, and --fresh moves the runs aside."""
    monkeypatch.setenv("OTHERVIEW_SHORTEN", "1")
    config = RunConfig.model_validate({name: value for name, value in TINY.items() if name != "steps"})
    photos = str(photographs(tmp_path / "photos", count=80))

    def ask(data: str = photos, **settings: Any) -> dict[str, Any]:
        return otherview.plan(config, data=data, out=tmp_path / "plan", threads=1, **settings)

    ask(time_budget="20m")
    others = photographs(tmp_path / "others", count=80, named="other")
    for settings, flag in (({"time_budget": "30m"}, "--time-budget"), ({"data": str(others)}, "--data")):
        with pytest.raises(WrongRequest, match=f"holds runs of another {flag}: give that one to continue"):
            ask(**{"time_budget": "20m", **settings})
    assert ask(time_budget="30m", fresh=True)["runs"]
    assert len([*tmp_path.glob("plan.before-*/*/metrics.jsonl")]) == 7


def test_shares_and_judges_are_whole_groups(tmp_path: Path) -> None:
    """No patient is on both sides, and an eighth of the images is of about an eighth of the patients."""
    folder = tmp_path / "photos"
    for patient in range(40):
        photographs(folder / "ab"[patient % 2] / f"patient-{patient:02}", count=6)
    settings = PlanSettings(RunConfig(steps=400), data=str(folder), out=tmp_path / "plan", group_by="folder")
    source = open_source(str(folder))
    parts = _divided(Opened(RunConfig(), source, None, []), settings)
    train, held = (
        [side.name(index).split("/")[-2] for index in range(len(side))] for side in (parts.train, parts.held)
    )
    assert not set(train) & set(held) and len(set(held)) == 8
    eighth = [train[place] for place in parts.order[: len(train) // 8]]
    assert len(set(eighth)) == 4 and sorted(parts.order) == list(range(len(train)))


def test_a_class_of_one_image_and_missing_labels_are_no_obstacle(tmp_path: Path) -> None:
    for name, count in (("cat", 30), ("dog", 30), ("fox", 1)):
        photographs(tmp_path / "labelled" / name, count=count)
    settings = PlanSettings(RunConfig(), data=str(tmp_path / "labelled"), out=tmp_path / "plan")
    parts = _divided(Opened(RunConfig(), open_source(settings.data), None, []), settings)
    assert parts.labelled and len(parts.held) == 12
    (tmp_path / "some.csv").write_text(
        "path,label\n" + "".join(f"labelled/cat/{index}.png,{'cat' if index else ''}\n" for index in range(30))
    )
    parts = _divided(Opened(RunConfig(), open_source(str(tmp_path / "some.csv")), None, []), settings)
    assert not parts.labelled


def test_a_warm_up_keeps_its_steps_in_shorter_runs() -> None:
    """Of a recipe in epochs, whose steps are known here alone; and what was asked for stays."""
    recipe = find("siamese_im_tiny").make().model_copy(update={"steps": 4000})
    short = _shortened(recipe, recipe, 1000)
    assert short.training.warmup * 1000 == pytest.approx(recipe.training.warmup * 4000)
    asked = RunConfig.model_validate({"encoder": {"positions": "learned"}, "training": {"warmup": 0.3}})
    chosen = siamese_im_cpu().model_copy(update={"recipe": CHOSEN})
    short = _shortened(chosen, asked, 1000)
    assert short.training.warmup == 0.3 and short.steps == 1000 and short.encoder == chosen.encoder


def test_a_perfect_score_has_an_error() -> None:
    assert 0 < _error({"knn_mean": 1.0}, "knn_mean", 50) < 0.05


def photographs(folder: Path, *, count: int, named: str = "") -> Path:
    """A folder of noise without labels."""
    from PIL import Image

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{named}{index}.png")
    return folder
