"""What the benches measure is what they say; how fast it is stands in docs/results.md, not here."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]

from otherview.bench.contenders import flops_per_image
from otherview.bench.loader import Photos
from otherview.bench.operations import compare_operations
from otherview.bench.step import bench_step
from otherview.bench.timm_mae import TimmMAE
from otherview.bench.trace import costliest
from otherview.config import RunConfig
from otherview.data.spec import open_source
from otherview.methods.settings import MAESettings, MoCoV3Settings, SiameseIMSettings
from otherview.recipes.registry import find


def block(tokens: int, width: int) -> int:
    """Products of a transformer block on one image, forward."""
    return 24 * tokens * width**2 + 4 * tokens**2 * width


def siamese_im(c: RunConfig) -> int:
    m, d, depth, (patches, seen, pixels) = c.method, c.encoder.width, c.encoder.depth, sizes(c)
    assert isinstance(m, SiameseIMSettings)
    p, asked = m.head_width, seen + 1 + patches

    def branch(tokens: int) -> int:
        return depth * block(tokens, d) + 2 * tokens * d * p + m.projector_depth * block(tokens, p)

    predictor = m.predictor_depth * block(asked, p) + 2 * patches * p**2
    position = 2 * patches * 2 * p * p
    loss = 2 * (2 * patches * p**2) + 2 * patches * p  # C, y·C and the cosine
    embedding = 2 * (2 * patches * pixels * d)
    return branch(patches + 1) + 3 * (branch(seen + 1) + predictor) + 2 * position + loss + embedding


def mae(c: RunConfig) -> int:
    m, d, depth, (patches, seen, pixels) = c.method, c.encoder.width, c.encoder.depth, sizes(c)
    assert isinstance(m, MAESettings)
    w = m.decoder_width
    decoder = 2 * (seen + 1) * d * w + m.decoder_depth * block(patches + 1, w) + 2 * (patches + 1) * w * pixels
    return 3 * (depth * block(seen + 1, d) + decoder) + 2 * (2 * patches * pixels * d)


def moco_v3(c: RunConfig) -> int:
    m, d, depth, (patches, _, pixels) = c.method, c.encoder.width, c.encoder.depth, sizes(c)
    assert isinstance(m, MoCoV3Settings)
    h, o = m.hidden_width, m.output_width
    branch = depth * block(patches + 1, d) + 2 * (d * h + h * h + h * o)
    predictor, similarities = 2 * (o * h + h * o), 2 * c.batch * o
    return 2 * (4 * branch + 3 * predictor + 2 * similarities + 2 * (2 * patches * pixels * d))


def supervised(c: RunConfig) -> int:
    d, (patches, _, pixels) = c.encoder.width, sizes(c)
    return 3 * (c.encoder.depth * block(patches + 1, d) + 2 * d * 2) + 2 * (2 * patches * pixels * d)


def sizes(c: RunConfig) -> tuple[int, int, int]:
    """Patches, visible ones, and the values of a patch."""
    patches = c.encoder.grid[0] * c.encoder.grid[1]
    return patches, patches - c.views.mask.masked_of(patches), 3 * c.encoder.patch_size**2


RECIPES = {
    "siamese_im": "siamese_im_cpu_adamw", "mae": "mae_cpu", "moco_v3": "moco_v3_cpu", "supervised": "supervised_cpu",
}  # fmt: skip


@pytest.mark.parametrize(
    ("closed_form", "changed"),
    [
        (siamese_im, {}), (siamese_im, {"head_width": 64}), (mae, {}), (mae, {"decoder_width": 64}),
        (moco_v3, {}), (moco_v3, {"hidden_width": 96, "output_width": 32}), (supervised, {}),
    ],
)  # fmt: skip
def test_the_counted_flops_have_a_closed_form(closed_form: Callable[[RunConfig], int], changed: dict[str, int]) -> None:
    """As docs/comparing.md has it: a backward pass is twice the forward, and nothing goes back into frozen parts."""
    config = find(RECIPES[closed_form.__name__]).make()
    config = config.model_copy(update={"method": config.method.model_copy(update=changed)})
    assert flops_per_image(config) == closed_form(config)


def test_the_flops_of_muon_are_a_step_s() -> None:
    """As docs/comparing.md has them: five rounds of three products for every weight matrix, whatever the batch."""
    config = find("siamese_im_cpu_adamw").make()
    m, d, depth = config.method, config.encoder.width, config.encoder.depth
    assert isinstance(m, SiameseIMSettings)

    def orthogonal(longer: int, shorter: int) -> int:
        return 5 * (4 * longer * shorter**2 + 2 * shorter**3)

    def matrices(width: int) -> int:
        return orthogonal(3 * width, width) + orthogonal(width, width) + 2 * orthogonal(4 * width, width)

    p = m.head_width
    heads = (m.projector_depth + m.predictor_depth) * matrices(p)
    step = depth * matrices(d) + orthogonal(max(d, p), min(d, p)) + heads + orthogonal(p, p) + orthogonal(2 * p, p)
    muon = config.model_copy(update={"training": config.training.model_copy(update={"optimiser": "muon"})})
    assert flops_per_image(muon) == flops_per_image(config) + step / config.batch


def test_dense_info_nce_meets_the_tokens_of_the_whole_batch() -> None:
    """Beyond UniGrad's config: similarities forward, again for the backward pass, and their gradient by the queries."""
    config = find("siamese_im_cpu_adamw").make()
    dense = flops_per_image(config)
    info_nce = config.model_copy(update={"method": config.method.model_copy(update={"loss": "info_nce"})})
    patches, width = 64, 128
    unigrad = 4 * patches * width**2 + 2 * patches * width
    similarities = 3 * 2 * patches * (config.batch * patches) * width
    assert flops_per_image(info_nce) == dense - unigrad + similarities


def agrees(source_spec: str | None, count: int) -> None:
    """No operation shifts level, contrast, saturation or sharpness by more than a small part of their spread."""
    source = open_source(source_spec) if source_spec else Photos()
    found = compare_operations(source, count=count)
    assert len(found) >= 18 and sum("on the device" in name for name in found) == 9
    for name, row in found.items():
        if "branch" in name:  # each side with its own draws: sampling error
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
def test_benches_print_what_is_promised(
    result_of: Callable[..., dict], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("otherview.bench.step.ROUNDS", 1)  # of one pair, the ratio is that of the two numbers
    found = result_of(*words, OTHERVIEW_SHORTEN="1")
    promised = {
        "loader": {"ours_images_per_second_per_core", "reference_images_per_second_per_core", "share_of_decode"},
        "step": {"ours_images_per_second", "reference_images_per_second", "share_of_matmul_peak", "peak_memory_mb"},
    }[words[1]]
    assert promised | {"ratio_to_reference"} <= found.keys()
    assert all(found[name] > 0 for name in promised)
    ours, reference = (
        next(v for n, v in found.items() if n.startswith(f"{who}_images")) for who in ("ours", "reference")
    )
    assert found["ratio_to_reference"] == pytest.approx(ours / reference, rel=0.02)


@pytest.mark.slow
def test_a_gpu_s_step_stands_beside_timm_s_and_is_traced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What `bench step --device cuda` measures, on the CPU: another method, another contender, the costliest operations.

    In float32: without instructions for bf16, a CPU takes minutes for a step of the other's decoder.
    """
    monkeypatch.setattr("otherview.bench.step.ROUNDS", 1)
    monkeypatch.setattr("otherview.bench.step.contenders", lambda device: ("ours", "timm_mae"))
    config = find("moco_v3_cpu").make()
    found = bench_step(config, batch=20, device=torch.device("cpu"), trace=tmp_path / "step.json.gz")
    assert (
        found["precision"] == "fp32"
        and found["share_of_matmul_peak"] > 0
        and found["timm_mae_share_of_matmul_peak"] > 0
    )
    rows = found["costliest"]
    assert len(rows) == 10 and rows == sorted(rows, key=lambda row: -row["milliseconds"])
    events = json.loads(gzip.decompress((tmp_path / "step.json.gz").read_bytes()))["traceEvents"]
    assert rows[0]["operation"] in {event["name"] for event in events}


def test_a_kernel_is_counted_once() -> None:
    """Its operation's row holds the kernel's time again, and an annotation's that of all."""

    def row(key: str, kind: DeviceType, time: float, *, note: bool = False) -> SimpleNamespace:
        return SimpleNamespace(
            key=key,
            device_type=kind,
            self_device_time_total=time,
            self_cpu_time_total=1.0,
            count=4,
            is_user_annotation=note,
        )

    rows = [
        row("aten::mm", DeviceType.CPU, 6000.0), row("gemm", DeviceType.CUDA, 6000.0), row("fmha", DeviceType.CUDA, 2000.0),
        row("Optimizer.step", DeviceType.CUDA, 8000.0, note=True),
    ]  # fmt: skip
    assert costliest(rows, on_device=True) == [
        {"operation": "gemm", "milliseconds": 3.0, "share": 0.75, "calls": 2},
        {"operation": "fmha", "milliseconds": 1.0, "share": 0.25, "calls": 2},
    ]


def test_timm_s_flops_have_a_closed_form() -> None:
    config = find("mae_cpu").make()
    d, depth, (patches, _, pixels) = config.encoder.width, config.encoder.depth, sizes(config)
    seen = patches // 4 + 1
    decoder = 8 * block(patches + 1, 512) + 2 * (patches + 1) * 512 * pixels - 2 * 512 * pixels  # cls paints nothing
    forward = depth * block(seen, d) + 2 * seen * d * 512 + decoder
    assert flops_per_image(config, make=TimmMAE) == 3 * forward + 2 * (2 * patches * pixels * d)


@pytest.mark.soak
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


@pytest.mark.slow
def test_kinds_of_laboratories_are_measured_beside_plain_decoders(result_of: Callable) -> None:
    found = result_of("bench", "loader", "--kinds", OTHERVIEW_SHORTEN="1")["kinds"]
    assert set(found) == {"PNG 8 bits", "PNG 16 bits", "TIFF 8 bits", "TIFF 16 bits", "DICOM", "tiles of JPEG"}
    assert (
        all(row["ours"] > 0 and row["decode"] > 0 for row in found.values()) and "to_eight_bits" in found["PNG 16 bits"]
    )
