"""What the benches measure is what they say; how fast it is stands in docs/results.md, not here."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from otherview.bench.loader import Photos
from otherview.bench.operations import compare_operations
from otherview.bench.reference import naive_twin
from otherview.bench.subject import attention_flops, random_batch
from otherview.data.spec import open_source
from otherview.methods.build import build_siamese_im
from otherview.recipes.registry import find


def test_attention_s_flops_are_those_of_the_unfused_twin() -> None:
    """The counter sees nothing of fused attention on a CPU; the twin's is plain products, and it counts those."""
    config = find("siamese_im_pico_32").make()
    learner = build_siamese_im(config.method, encoder=config.encoder, views=config.views, seed=0)
    batch = random_batch(config, 6)
    counts = []
    for module in (learner, naive_twin(learner)):
        with FlopCounterMode(display=False) as counter:
            module(batch, module.prepare([batch], 0.5), 0).total.backward()
        counts.append(counter.get_total_flops())
    tokens, width = 6 * 64, config.method.head_width
    square = 3 * 2 * tokens**2 * width  # the product of all pairs, and its gradient by either side
    linear = 2 * tokens * width**2 - 2 * tokens * width  # the twin's gradient through y·C; our cosine
    assert counts[1] - counts[0] == attention_flops(learner, 6) + square + linear


def agrees(source_spec: str | None, count: int) -> None:
    """No operation shifts level, contrast, saturation or sharpness by more than a small part of their spread."""
    source = open_source(source_spec) if source_spec else Photos()
    found = compare_operations(source, count=count)
    assert len(found) >= 10
    for name, row in found.items():
        if name.endswith("branch"):  # each side with its own draws: sampling error
            assert row["mean_apart"] < 4.5 * row["standard_error"] * 2**0.5, (name, row)
            assert row["spread_ratio"] < 1 + 8 / count**0.5, (name, row)
        else:
            smaller = name.endswith("smaller")  # two filters in a row instead of one
            assert row["mean_apart"] < (0.6 if smaller else 0.25), (name, row)
            assert row["spread_ratio"] < 1.05, (name, row)
            assert row["quantile_apart"] < (1.5 if smaller else 0.5), (name, row)
            assert row["pixel_apart"] < (2.0 if smaller else 0.6), (name, row)


def test_operations_agree_with_the_reference_s() -> None:
    agrees(None, 60)


@pytest.mark.slow
def test_operations_agree_on_real_images(real_data: Path) -> None:
    agrees(str(real_data / "imagenette128/val-*.tar"), 400)


@pytest.mark.slow
@pytest.mark.parametrize("words", [("bench", "loader", "--operations", "40"), ("bench", "step", "--batch", "2")])
def test_benches_print_what_is_promised(result_of: Callable[..., dict], words: tuple[str, ...]) -> None:
    found = result_of(*words, OTHERVIEW_TYPECHECK="0", OTHERVIEW_SHORTEN="1")
    promised = {
        "loader": {"ours_images_per_second_per_core", "reference_images_per_second_per_core", "share_of_decode"},
        "step": {"ours_images_per_second", "reference_images_per_second", "share_of_matmul_peak", "peak_memory_mb"},
    }[words[1]]
    assert promised | {"ratio_to_reference"} <= found.keys()
    assert all(found[name] > 0 for name in promised)


@pytest.mark.slow
def test_memory_grows_as_the_tokens_do_and_the_twin_s_as_their_square() -> None:
    """Loss and attention: four times the tokens in twice the image, one image, so that nothing hides behind the rest."""
    most: dict[str, list[float]] = {"ours": [], "reference": []}
    for who, found in most.items():
        for side in ("24", "48"):
            command = [sys.executable, "-m", "otherview.bench.growth", "1", side, "96", who, "1"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout)["mb"])
    assert most["ours"][1] < 4.6 * most["ours"][0], most
    assert most["reference"][1] > 9 * most["reference"][0], most
