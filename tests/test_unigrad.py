"""Hand-worked numbers, oracles, the naive twin, the gradient in closed form, and ranks."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from otherview.bench.reference import unigrad_by_similarities
from otherview.losses.objectives import Dense, Global, GlobalDense
from otherview.losses.unigrad import correlation, spectrum_metrics, unigrad
from tests.ranks import correlation_of_rank, in_ranks


def pairs(tokens: int = 40, width: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y, z = (torch.randn(tokens, width, generator=generator, dtype=torch.float32) for _ in range(2))
    return y, F.layer_norm(z, (width,))


def test_by_hand() -> None:
    """Two tokens of width 2. C = [[1, 0], [0, 4]] / 2; pull: 1 + 1; push: yᵀCy = 0.5 and 2."""
    y = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    z = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    c = correlation([z])
    torch.testing.assert_close(c, torch.tensor([[0.5, 0.0], [0.0, 2.0]]))
    loss = unigrad(y, z, c, weight=0.1)
    # mean ‖y − z‖² = (0 + 1)/2 = 0.5; mean yᵀCy = (0.5 + 2)/2 = 1.25; (0.5 + 0.1 · 1.25)/2
    assert float(loss.total) == pytest.approx(0.3125)
    assert (float(loss.positive), float(loss.negative)) == pytest.approx((0.25, 0.625))


def test_equals_the_naive_twin_in_value_and_gradient() -> None:
    y, z = pairs()
    a, b = y.clone().requires_grad_(), y.clone().requires_grad_()
    ours = unigrad(a, z, correlation([z]), weight=0.7).total
    naive = unigrad_by_similarities(b, z, weight=0.7)
    torch.testing.assert_close(ours, naive)
    ours.backward()
    naive.backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_gradient_is_the_closed_form() -> None:
    y, z = pairs()
    y.requires_grad_()
    c = correlation([z])
    (3 * unigrad(y, z, c, weight=0.02).total).backward()
    torch.testing.assert_close(y.grad, 3 * 2 / y.numel() * (y - z + 0.02 * y @ c).detach())


@pytest.mark.parametrize(("rank", "expected"), [(1, 0.9389), (767, 0.0196)])
def test_the_specification_s_oracles(rank: int, expected: float) -> None:
    """Width 768, weight 0.02: full collapse 0.9389, isotropic targets 0.0196, y = 0 gives 1."""
    width, w = 768, 0.02
    c = torch.diag(torch.cat([torch.full((rank,), width / rank), torch.zeros(width - rank)]))
    figures = spectrum_metrics(c, weight=w)
    assert float(figures["reachable_loss"]) == pytest.approx(expected, abs=1e-4)
    assert float(figures["effective_rank"]) == pytest.approx(rank, rel=1e-4)


def test_nothing_predicted_gives_one_and_the_floor_is_reached() -> None:
    _, z = pairs(tokens=500, width=16)
    c = correlation([z])
    assert float(unigrad(torch.zeros_like(z), z, c, weight=0.5).total) == pytest.approx(1, abs=1e-4)
    best = torch.linalg.solve(torch.eye(16) + 0.5 * c, z.T).T
    floor = spectrum_metrics(c, weight=0.5)["reachable_loss"]
    assert float(unigrad(best, z, c, weight=0.5).total) == pytest.approx(float(floor), rel=1e-4)


def test_the_article_s_form_by_hand() -> None:
    """Global and dense UniGrad on means and remainders, each with its own C, weighted."""
    generator = torch.Generator().manual_seed(1)
    y, z = (torch.randn(3, 5, 8, generator=generator) for _ in range(2))
    objective = GlobalDense(negative_weight=0.3, global_weight=2.0, dense_weight=0.5)
    total = objective(y, z, objective.statistics([z])).total
    yg, zg = y.mean(1), z.mean(1)
    yr, zr = (y - yg[:, None]).reshape(-1, 8), (z - zg[:, None]).reshape(-1, 8)
    expected = 2.0 * unigrad_by_similarities(yg, zg, weight=0.3) + 0.5 * unigrad_by_similarities(yr, zr, weight=0.3)
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("objective", [Dense(0.3), GlobalDense(0.3, 1.0, 1.0), Global(0.3)])
def test_predictions_in_bf16_lose_nothing_more(objective: Dense | GlobalDense | Global) -> None:
    """Means, C and the loss are of fp32, although the step that asks for them runs in bf16."""
    generator = torch.Generator().manual_seed(1)
    y, z = (torch.randn(3, 50, 8, generator=generator) for _ in range(2))
    half, statistics = y.bfloat16(), objective.statistics([z])
    expected = objective(half.float(), z, statistics).total
    with torch.autocast("cpu", torch.bfloat16):
        in_half = objective.statistics([z])
        assert torch.equal(objective(half, z, in_half).total, expected)
    assert all(map(torch.equal, in_half, statistics))


def test_micro_batches_share_one_c() -> None:
    y, z = pairs(tokens=40)
    whole = Dense(0.4)(y[None], z[None], Dense(0.4).statistics([z[None]])).total
    parts = list(zip(y.view(4, 1, 10, -1), z.view(4, 1, 10, -1), strict=True))
    statistics = Dense(0.4).statistics([part for _, part in parts])
    torch.testing.assert_close(torch.stack([Dense(0.4)(a, b, statistics).total for a, b in parts]).mean(), whole)


def test_c_over_ranks_is_that_of_all_tokens(tmp_path: Path) -> None:
    targets = torch.randn(3, 7, 5)
    for c in in_ranks(3, correlation_of_rank, tmp_path, targets):
        torch.testing.assert_close(c, correlation([targets.reshape(1, 21, 5)]))


def test_targets_take_no_gradient() -> None:
    y, z = pairs()
    z.requires_grad_()
    unigrad(y.requires_grad_(), z, correlation([z]), weight=0.1).total.backward()
    assert z.grad is None
