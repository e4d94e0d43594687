"""One judgement everywhere: made-up histories with the sentence that each gets, and comparisons against hand-worked numbers."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otherview.evaluation.online import rankme
from otherview.evaluation.pixel_scores import Segmented
from otherview.evaluation.result import concluded
from otherview.judgement import (
    COLLAPSING,
    EARLY,
    FALLING,
    LEARNING,
    NOT_YET,
    SLOW,
    TOO_FEW,
    UNKNOWN,
    WORTH_IT,
    Comparison,
    Judgement,
    apart,
    conclude,
    images_for,
    mcnemar,
)
from otherview.scores import PerImage, Score, accuracy_score, drawn_score
from otherview.training.health import Health

History = Sequence[dict[str, Any]]


def steps(first: int, last: int, **metrics: Any) -> list[dict[str, Any]]:
    return [{"step": step, "loss": 0.8, "skipped": 0, "waited": 0.0, **metrics} for step in range(first, last, 50)]


def looks(*values: float, images: int = 2000, every: int = 500, **first: Any) -> list[dict[str, Any]]:
    """kNN at 0, `every`, …"""
    found = [{"step": every * place, "knn_mean": value} for place, value in enumerate(values)]
    found[0] |= {"knn_images": images, **first}
    return found


def judged(*histories: History, final: bool = False) -> Judgement:
    health = Health()
    for line in sorted((line for history in histories for line in history), key=lambda line: line["step"]):
        health.see(line)
    return health.judge(final=final)


HISTORIES: dict[str, tuple[list[History], str]] = {
    "learning": (
        [steps(50, 1001, effective_rank=9.0), looks(0.30, 0.34, 0.39, knn_pixels=0.33)],
        "learning: kNN 0.300 → 0.390 (2,000 test images), the targets fill 9.0 directions, 6.0 points above raw pixels 0.330 "
        "(4.0 standard errors), still rising 0.9 points per 100 steps.",
    ),
    "slow": (
        [steps(50, 1001, effective_rank=9.0, reachable_loss=0.5), looks(0.30, 0.31, 0.32, knn_pixels=0.33)],
        "slow: kNN 0.300 → 0.320 (2,000 test images), the targets fill 9.0 directions. Train for more steps: learning often "
        "starts late, after thousands of them.",
    ),
    "slow, with nothing left to learn": (
        [steps(50, 1001, effective_rank=5.0, reachable_loss=0.79), looks(0.30, 0.31, 0.32)],
        "slow: kNN 0.300 → 0.320 (2,000 test images), the targets fill 5.0 directions, the loss 0.800 is near the least that "
        "its targets allow (0.790). Train for more steps: learning often starts late, after thousands of them.",
    ),
    "collapsed": (
        [steps(50, 500, effective_rank=9.0), steps(500, 2001, effective_rank=1.2), looks(0.30, 0.31, 0.28, 0.27)],
        "collapsing: kNN 0.300 → 0.270 (2,000 test images), the targets fill 1.2 directions, 4 or fewer since step 500. Keep "
        "method.negative_weight · method.head_width near 15, warm up for 300 steps or more, and train for more steps or, in a "
        "short run, with method.momentum_schedule constant.",
    ),
    "diverged": (
        [steps(50, 400), steps(400, 700, loss=1.4)],
        "diverging: the loss is 1.400 and was 0.800. Lower training.lr_per_256, or use training.precision fp32.",
    ),
    "not finite": (
        [steps(50, 400), steps(400, 500, skipped=2)],
        "diverging: 2 steps were not finite and were skipped. Lower training.lr_per_256, or use training.precision fp32.",
    ),
    "starved": (
        [steps(50, 1001, waited=0.45), looks(0.30, 0.40, 0.50)],
        "learning: kNN 0.300 → 0.500 (2,000 test images), still rising 2.0 points per 100 steps; data-bound: 45% of the time was "
        "spent waiting for data. Raise training.workers or put the images on a faster disk (otherview bench loader shows what "
        "one core can do).",
    ),
    "better than untrained but worse than pixels": (
        [steps(50, 151), looks(0.367, 0.467, 0.567, images=60, every=75, knn_pixels=0.8, knn_cls=0.517),
         [{"step": 150, "knn_cls": 0.2}]],
        "not yet worth it: kNN 0.367 → 0.567 (60 test images), 23.3 points below raw pixels 0.800 (2.8 standard errors), the cls "
        "token fell from 0.517 to 0.200. Train longer: it is still rising 13.3 points per 100 steps.",
    ),
    "too few test images": (
        [steps(50, 1001), looks(0.33, 0.36, 0.43, images=60)],
        "too few test images to say: kNN 0.330 → 0.430 (60 test images): that may be luck on so few images. Give --knn-test "
        "about 785 images to see a difference of 5 points.",
    ),
    "falling back": (
        [steps(50, 2001), looks(0.30, 0.40, 0.50, 0.49, 0.40)],
        "falling back: kNN 0.300 → 0.400 (2,000 test images), kNN was 0.500 at step 1,000. Lower training.lr_per_256, or stop at "
        "an earlier checkpoint.",
    ),
    "started from weights": (
        [steps(50, 1501), looks(0.60, 0.62, 0.66, 0.66, images=5000, knn_pixels=0.3, knn_untrained_mean=0.35)],
        "learning: kNN 0.600 → 0.660 (5,000 test images), 36.0 points above raw pixels 0.300 (38.6 standard errors), 31.0 points "
        "above the untrained encoder 0.350 (32.6 standard errors), 6.0 points above the start weights 0.600 (6.2 standard "
        "errors), still rising 0.4 points per 100 steps.",
    ),
    "twenty steps": (
        [[{"step": 20, "effective_rank": 20.0}]], "too early to say: 20 steps so far, the targets fill 20.0 directions."
    ),
    "nothing yet": ([], "too early to say: 0 steps so far."),
    "without labels": (
        [steps(50, 1001, effective_rank=9.0),
         [{"step": 500 * k, "retrieval": 0.33 + 0.04 * k, "retrieval_error": 0.01, "rankme": 20.0 + k} for k in range(3)]],
        "learning: patches that find their place 0.330 → 0.410, RankMe 20.0 → 22.0, the targets fill 9.0 directions, still "
        "rising 0.8 points per 100 steps.",
    ),
    "without labels, nothing seen": (
        [steps(50, 1001),
         [{"step": 500 * k, "retrieval": 0.33, "retrieval_error": 0.01, "rankme": 20.0} for k in range(3)]],
        "cannot be told without labels: patches that find their place 0.330 → 0.330, RankMe 20.0 → 20.0. Give --knn-bank and "
        "--knn-test, two sets of labelled images.",
    ),
    "without any look": (
        [steps(50, 1001, effective_rank=9.0)],
        "cannot be told without labels: the targets fill 9.0 directions. Give --knn-bank and --knn-test, two sets of labelled "
        "images.",
    ),
    "a learner of labels": (
        [steps(50, 1001, accuracy=0.25)], "fitting: 25.0% of the training images are classified correctly."
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HISTORIES)
def test_what_a_history_is_told(name: str) -> None:
    histories, sentence = HISTORIES[name]
    assert str(judged(*histories)) == sentence


def test_what_is_not_known_is_not_said() -> None:
    """Looks that are far apart, a loss without a least one, a learner of labels whose patches are looked at."""
    assert judged(steps(50, 2001), looks(0.3, every=5000)).state == EARLY
    mae = judged(steps(50, 1001), looks(0.3, 0.3, 0.3))
    assert mae.state == SLOW and "inf" not in mae.evidence
    patches = [{"step": 500 * k, "retrieval": 0.33, "retrieval_error": 0.01} for k in range(3)]
    assert judged(steps(50, 1001, accuracy=0.97), patches).state == "fitting"
    low = steps(50, 1700, effective_rank=2.0)
    assert judged(low, looks(0.3, every=5000)).state == COLLAPSING
    assert (
        judged(low, steps(1700, 1800, effective_rank=9.0), looks(0.3, every=5000)).state == SLOW
    )  # and no longer early


def test_a_run_that_ends_early_is_told_less() -> None:
    low = steps(50, 801, effective_rank=3.0)
    assert judged(low).state == UNKNOWN  # every run starts there
    assert judged(low, final=True).state == COLLAPSING
    assert judged(steps(50, 90, effective_rank=3.0), final=True).state == EARLY
    assert judged(steps(50, 700, effective_rank=9.0), steps(700, 801, effective_rank=3.0), final=True).state == UNKNOWN
    assert judged(steps(50, 501), looks(0.3, 0.31)).state == EARLY
    assert judged(steps(50, 501), looks(0.3, 0.31), final=True).state == SLOW
    assert judged(steps(50, 501), looks(0.3, 0.41)).state == LEARNING


AFTER_EARLY = {LEARNING, SLOW, NOT_YET, TOO_FEW, COLLAPSING, FALLING, UNKNOWN}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(0.05, 0.95), min_size=2, max_size=12), st.integers(20, 4000), st.floats(0.05, 0.95),
    st.lists(st.floats(1, 20), min_size=12, max_size=12), st.sampled_from([60, 400, 900]),
)  # fmt: skip
def test_no_history_gets_two_sentences_that_contradict_each_other(
    values: list[float], images: int, pixels: float, ranks: list[float], every: int
) -> None:
    health, said = Health(), list[tuple[Judgement, float, float]]()
    for place, value in enumerate(values):
        line = {"step": place * every, "knn_mean": value, "effective_rank": ranks[place], "loss": 0.8, "skipped": 0}
        health.see(line | ({"knn_images": images, "knn_pixels": pixels} if not place else {}))
        said.append((health.judge(), value, math.sqrt(value * (1 - value) / images)))
        assert health.judge() == said[-1][0]  # asking changes nothing
    for (one, before, error), (two, after, later) in itertools.pairwise(said):
        chance = math.hypot(error, later)
        assert not (one.state in AFTER_EARLY and two.state == EARLY)
        if abs(after - before) < chance:
            assert {one.state, two.state} not in ({LEARNING, SLOW}, {NOT_YET, SLOW}, {LEARNING, COLLAPSING})
            assert not ("above raw pixels" in one.evidence and "below raw pixels" in two.evidence)
            assert not ("below raw pixels" in one.evidence and "above raw pixels" in two.evidence)
            assert (one.state, two.state) != (FALLING, LEARNING)


def test_mcnemars_test_by_hand() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(7, 1) == pytest.approx(2 * (1 + 8) / 2**8)
    mine, others = np.array([1] * 9 + [0] * 3, bool), np.array([1] * 2 + [0] * 7 + [1] + [0] * 2, bool)
    error, p = PerImage(mine).beside(PerImage(others)) or (0, 0)
    assert p == mcnemar(7, 1)
    difference = mine.astype(float) - others
    assert error == pytest.approx(difference.std(ddof=1) / math.sqrt(12))
    assert PerImage(mine).beside(PerImage(others[:5])) is None


def test_pairs_are_told_apart_sooner_than_strangers() -> None:
    """The same images, of which one encoder gets a few more right: pairing sees it, independent errors do not."""
    rng = np.random.default_rng(0)
    others = rng.random(400) < 0.6
    mine = others.copy()
    mine[np.flatnonzero(~others)[:20]] = True
    one, two = accuracy_score("a", mine), accuracy_score("b", others)
    assert one.beside(two, "b").counts
    assert not apart("b", one.value, one.spread, two.value, two.spread, n=400).counts
    assert one.beside(two._replace(answers=None), "b") == apart(
        "b", one.value, one.spread, two.value, two.spread, n=400
    )


def test_draws_add_their_own_error() -> None:
    rng = np.random.default_rng(0)
    draws = [rng.random(100) < share for share in (0.5, 0.6, 0.7)]
    score = drawn_score("few", draws)
    assert score.value == pytest.approx(np.mean(draws)) and score.spread == pytest.approx(
        np.mean(draws, axis=1).std(ddof=1)
    )
    nothing = drawn_score("none", [np.zeros(100, bool)] * 3)
    found = score.beside(nothing, "nothing")
    over_images = np.mean(draws, axis=0).std(ddof=1) / 10
    assert found.error == pytest.approx(math.hypot(over_images, score.spread / math.sqrt(3))) and found.p is None


def test_pixels_are_drawn_alike_for_both() -> None:
    confusion = torch.randint(1, 50, (30, 3, 3), generator=torch.Generator().manual_seed(0)).double()
    one, two = Segmented(confusion).scores("a"), Segmented(confusion.clone()).scores("b")
    assert [score.beside(other, "b").error for score, other in zip(one, two, strict=True)] == [0, 0]
    assert one[0].spread > 0 and one[0].unit == "mIoU" and one[1].name == "a_accuracy"


def test_how_many_images_would_do() -> None:
    found = apart("pixels", 0.57, 0.05, 0.52, 0.05, n=100)
    assert not found.counts and found.images_needed is not None
    more = apart(
        "pixels",
        0.57,
        0.05 / math.sqrt(found.images_needed / 100),
        0.52,
        0.05 / math.sqrt(found.images_needed / 100),
        n=1,
    )
    assert more.standard_errors == pytest.approx(2, abs=0.01)
    n = images_for(0.5)
    assert 2 * math.sqrt(2 * 0.25 / n) == pytest.approx(0.05, rel=0.01)
    assert apart("pixels", 0.5, 0.1, 0.5, 0.1, n=10).images_needed is None
    exact = Comparison(
        "pixels", 0.93, -0.083, 0.036, 60, p=0.0625
    )  # beyond two standard errors, and not by the exact test
    assert not exact.counts and exact.images_needed is not None and exact.images_needed > 60


@pytest.mark.parametrize(
    ("mine", "errors", "state", "said"),
    [
        (0.9, 0.01, WORTH_IT, "20.0 points above raw pixels 0.700"),
        (0.5, 0.01, NOT_YET, "20.0 points below raw pixels 0.700"),
        (0.705, 0.005, NOT_YET, "no better than raw pixels 0.700"),
        (0.75, 0.05, TOO_FEW, "too close to raw pixels 0.700 to tell"),
    ],
)  # fmt: skip
def test_what_an_evaluation_concludes(mine: float, errors: float, state: str, said: str) -> None:
    found = conclude("kNN", mine, errors, 500, [apart("raw pixels", mine, errors, 0.7, errors, n=500)])
    assert found.state == state and said in found.evidence
    assert found.bad == (state == NOT_YET)
    assert bool(found.action) == (state != WORTH_IT)


def test_few_images_prove_neither_a_lead_nor_that_there_is_none() -> None:
    """Errors of 0 are unknown ones: AP without parts, equal answers of three images."""
    assert conclude("AP", 0.21, 0.0, 8, [Comparison("the untrained encoder", 0.20, 0.01, 0.0, 8)]).state == TOO_FEW
    right, wrong = accuracy_score("a", np.ones(3)), accuracy_score("b", np.ones(3))
    assert conclude("kNN", 1.0, 0.0, 3, [right.beside(wrong, "the untrained encoder")]).state == TOO_FEW
    alike = accuracy_score("a", np.arange(1000) % 2), accuracy_score("b", np.arange(1000) % 2)
    assert conclude("kNN", 0.5, 0.016, 1000, [alike[0].beside(alike[1], "the untrained encoder")]).state == NOT_YET
    eight = accuracy_score("knn_encoder_mean", np.arange(10) < 8)
    assert concluded({"encoder": [eight]}, chance=0.5)[0].state == TOO_FEW
    one_class = concluded({"encoder": [accuracy_score("knn_encoder_mean", np.ones(50))]}, chance=1.0)
    assert "chance" not in one_class[0].evidence


def test_a_conclusion_is_about_the_method_s_token_beside_its_own_controls() -> None:
    def score(name: str, share: float) -> Score:
        return accuracy_score(name, np.arange(1000) < share * 1000)

    found = {
        "encoder": [score("knn_encoder_mean (k 5)", 0.6), score("knn_encoder_cls (k 5)", 0.2)],
        "untrained": [score("knn_untrained_mean (k 5)", 0.3), score("knn_untrained_cls (k 5)", 0.4)],
        "pixels": [score("knn_pixels (k 5)", 0.5)],
    }
    judgement, comparisons = concluded(found)
    assert [(one.reference, one.value) for one in comparisons] == [("the untrained encoder", 0.3), ("raw pixels", 0.5)]
    assert judgement.state == WORTH_IT and judgement.evidence.startswith(
        "knn mean (k 5) 0.600 ± 0.015 (1,000 test images)"
    )
    assert "its cls token (0.200) is 20.0 points below the untrained encoder 0.400" in judgement.evidence
    assert concluded(found, token="cls")[0].state == NOT_YET
    by_chance, comparisons = concluded({"encoder": found["encoder"][:1]}, chance=0.59)
    assert by_chance.state == NOT_YET and comparisons[0].reference == "chance level"
    assert concluded({"encoder": found["encoder"][:1]}, chance=0.7)[0].action.startswith(
        "It has not learned the classes"
    )
    assert concluded({"encoder": found["encoder"][:1]}, chance=0.1)[0].state == "nothing to compare with"


def test_rankme_by_its_definition() -> None:
    features = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.arange(1.0, 9))
    values = np.linalg.svd(features.numpy().astype(np.float64), compute_uv=False)
    shares = [value / sum(values) + 1e-7 for value in values]
    assert float(rankme(features)) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))
    assert float(rankme(torch.ones(20, 8))) == pytest.approx(1, abs=1e-4)
    assert float(rankme(torch.eye(8))) == pytest.approx(8, abs=1e-3)
