"""The rule from the paper's run to a small one meets both ends."""

import pytest

from otherview.config import RunConfig
from otherview.recipes.registry import find
from otherview.recipes.scaling import rule


def test_the_rule_gives_the_paper_s_settings_and_the_small_recipe_s() -> None:
    paper, small = RunConfig(), find("siamese_im_cpu_adamw").make()
    for config, steps in ((paper, 500_000), (small, small.steps or 0)):
        lr, momentum, weight = rule(batch=config.batch, steps=steps, width=config.method.head_width)
        assert lr == pytest.approx(config.training.lr_per_256)
        assert momentum == pytest.approx(config.method.momentum)
        assert weight == pytest.approx(config.method.negative_weight)
    assert rule(batch=16, steps=100, width=64).lr_per_256 == pytest.approx(0.5e-3 * 16)
