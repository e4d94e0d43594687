"""Features: exact over ranks and blocks, a cache that answers for nothing else, and other people's modules."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from otherview import backbone as backbone_of
from otherview import evaluate
from otherview.data.image import Preprocessing
from otherview.data.spec import open_source
from otherview.errors import WrongRequest
from otherview.evaluation import cache as caching
from otherview.evaluation.cache import FeatureCache
from otherview.evaluation.features import Features, FeatureSpec, extract_all
from otherview.evaluation.frozen import FeatureMaker, Protocol, judge
from otherview.evaluation.split import Split, fingerprints_of, refuse_shared
from otherview.nn.encoder import Encoder
from otherview.nn.settings import EncoderSettings
from otherview.weights.pretrained import weights_fingerprint
from tests.ranks import features_of_rank, in_ranks

SMALL = EncoderSettings(image_size=(32, 32), patch_size=8, width=32, depth=2, heads=2, final_norm=True)
LOOK = Preprocessing((32, 32), (0.5,) * 3, (0.25,) * 3)


def broken_folder(folder: Path, count: int = 8, broken: tuple[int, ...] = (1, 2, 7)) -> str:
    """Images of which some cannot be read."""
    folder.mkdir()
    source = open_source(f"shapes:{count}")
    for index in range(count):
        data = b"no picture" if index in broken else source.read(index)
        (folder / f"{index}.png").write_bytes(data)
    return str(folder)


@pytest.mark.parametrize(
    ("count", "broken"),
    [(8, (1, 2, 7)), pytest.param(1, (), marks=pytest.mark.slow), pytest.param(2, (1,), marks=pytest.mark.slow)],
    ids=["broken", "fewer images than ranks", "a rank without images"],
)
def test_two_ranks_have_the_features_of_one(tmp_path: Path, count: int, broken: tuple[int, ...]) -> None:
    folder = broken_folder(tmp_path / "images", count, broken)
    one = features_of_rank(0, folder)
    assert one["kept"].tolist() == [index for index in range(count) if index not in broken]
    for found in in_ranks(2, features_of_rank, tmp_path, folder):
        assert found.keys() == one.keys()
        for name, values in one.items():
            torch.testing.assert_close(found[name], values, msg=name)


def test_the_tokens_of_any_block_are_timms() -> None:
    encoder = Encoder(SMALL).eval()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    own = encoder.settings
    twin = VisionTransformer(
        img_size=own.image_size, patch_size=own.patch_size, embed_dim=own.width, depth=own.depth, num_heads=own.heads,
        num_classes=0, global_pool="", norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    ).eval()  # fmt: skip
    table = torch.cat([torch.zeros(1, own.width), encoder.positions(encoder.grid, torch.device("cpu"))])[None]
    missing = twin.load_state_dict({**encoder.vit.state_dict(), "pos_embed": table}, strict=False).missing_keys
    assert set(missing) <= {"norm.weight", "norm.bias"}
    for number in range(1, own.depth + 1):
        (patches, prefix) = twin.forward_intermediates(
            images, [number - 1], return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
        )[0]
        torch.testing.assert_close(encoder(images, block=number).sequence, torch.cat([prefix, patches], dim=1))
    sequence = encoder(images, block=own.depth).sequence
    torch.testing.assert_close(encoder(images).sequence, encoder.vit.norm(sequence))
    assert not torch.allclose(encoder(images).sequence, sequence)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images whose features are computed from now on, one entry a pass."""
    passes: list[int] = []

    def spy(modules: Any, source: Any, preprocessing: Any, **options: Any) -> Any:
        passes.append(len(modules))
        return extract_all(modules, source, preprocessing, **options)

    monkeypatch.setattr(caching, "extract_all", spy)
    return passes


def look_up(
    cache: FeatureCache, modules: Any, data: str, preprocessing: Preprocessing = LOOK, **options: Any
) -> dict[str, Features]:
    source = open_source(data)
    indices = np.arange(len(source))
    fingerprints = fingerprints_of(source, indices, workers=0)
    return cache.features(
        modules, source, preprocessing, indices=indices, fingerprints=fingerprints, workers=0, **options
    )


def same(one: dict[str, Features], two: dict[str, Features]) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(found.kept, two[name].kept)
        and list(found.tokens) == list(two[name].tokens)
        and all(torch.equal(values, two[name].tokens[kind]) for kind, values in found.tokens.items())
        for name, found in one.items()
    )


def test_the_cache_answers_with_what_was_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = counted(monkeypatch)
    folder, cache = broken_folder(tmp_path / "images"), FeatureCache(tmp_path / "cache")
    modules = {"encoder": Encoder(SMALL), "untrained": Encoder(SMALL, seed=1), "pixels": None}
    plain = look_up(FeatureCache(None), modules, folder)
    first = look_up(cache, modules, folder)
    again = look_up(cache, modules, folder)
    assert passes == [3, 3] and same(plain, first) and same(first, again)
    assert list(again["encoder"].tokens) == ["mean", "cls"] and len(again["encoder"].kept) == 5
    assert not list((tmp_path / "cache").glob("tmp-*"))
    patches = look_up(cache, modules, folder, spec=FeatureSpec(8))
    assert passes.pop() == 3 and patches["pixels"].tokens["patches"].shape == (5, 16, 192)
    assert same(look_up(cache, modules, folder, spec=FeatureSpec(8)), patches) and len(passes) == 2


def test_the_cache_never_answers_for_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = counted(monkeypatch)
    folder, cache = broken_folder(tmp_path / "images", 4, ()), FeatureCache(tmp_path / "cache")
    encoder = Encoder(SMALL)
    look_up(cache, {"": encoder}, folder)
    trained = Encoder(SMALL)
    with torch.no_grad():
        trained.vit.blocks[1].mlp.fc2.bias[0] += 1e-6  # pyright: ignore
    wider = Encoder(SMALL.model_copy(update={"registers": 1}))
    others: list[tuple[Any, dict[str, Any]]] = [
        (trained, {}),
        (wider, {}),
        (None, {}),
        (encoder, {"spec": FeatureSpec(block=1)}),
        (encoder, {"spec": FeatureSpec(8)}),
        (encoder, {"preprocessing": LOOK._replace(crop_pct=0.875)}),
        (encoder, {"preprocessing": LOOK._replace(mean=(0.4, 0.5, 0.5))}),
    ]
    for module, options in others:
        before = len(passes)
        found = look_up(cache, {"": module}, folder, **options)
        assert len(passes) == before + 1
        assert same(found, look_up(FeatureCache(None), {"": module}, folder, **options))
    before, image = len(passes), Path(folder) / "2.png"
    image.write_bytes(open_source("shapes:9").read(8))  # the same names, another picture
    look_up(cache, {"": encoder}, folder)
    assert len(passes) == before + 1
    foreign = backbone_of(Plain(), **WANTED).modules  # pyright: ignore[reportArgumentType]
    look_up(cache, foreign, folder)
    look_up(cache, foreign, folder)
    assert len(passes) == before + 3  # nobody knows what such a module does


def test_a_classifiers_answers_on_raw_pixels_are_kept_for_that_question_alone(tmp_path: Path) -> None:
    cache, asked = FeatureCache(tmp_path / "cache"), list[int]()

    def classify(bank: Tensor, labels: Tensor, queries: Tensor) -> dict[str, Tensor]:
        asked.append(bank.shape[1])
        return {"": labels[torch.cdist(queries, bank).argmin(dim=1)], " (k 5)": labels[: len(queries)]}

    def found(seed: int = 0, *, k: int = 1, label: int = 0, count: int = 12, shown: float = 1.0) -> dict[str, Tensor]:
        source, other = open_source(f"shapes:{count}"), open_source("shapes:6:test")
        labels = torch.arange(count) % 3
        labels[0] = label
        sides = Split(source, np.arange(count), labels), Split(other, np.arange(6), torch.arange(6) % 3)
        sides = tuple(
            replace(side, fingerprints=fingerprints_of(side.source, side.indices, workers=0)) for side in sides
        )
        seen = FeatureMaker(LOOK._replace(crop_pct=shown), FeatureSpec(), cache, workers=0)
        modules = {"encoder": Encoder(SMALL, seed=seed), "pixels": None}
        asked.clear()
        return judge(modules, sides, seen, Protocol("nearest", {"k": k}, classify))[0]

    first = found()
    assert asked == [32, 32, 3072]
    again = found(seed=1)
    assert asked == [32, 32] and list(first) == list(again)
    assert all(torch.equal(first[name], again[name]) for name in ("pixels", "pixels (k 5)"))
    assert not torch.equal(first["encoder_mean"], again["encoder_mean"])
    others: list[dict[str, Any]] = [{"k": 2}, {"label": 1}, {"count": 11}, {"shown": 0.875}]
    for other in others:
        found(**other)
        assert asked == [32, 32, 3072], other


def test_old_entries_make_room_and_large_ones_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(tmp_path / "cache")
    encoders = [Encoder(SMALL, seed=seed) for seed in range(3)]
    for encoder in encoders:
        look_up(cache, {"": encoder}, "shapes:40")
        time.sleep(0.02)
    look_up(cache, {"": encoders[0]}, "shapes:40")  # asked for again
    size = sum(file.stat().st_size for file in (tmp_path / "cache").glob("*/*"))
    monkeypatch.setattr(caching, "LARGEST", size * 3 // 4)
    passes = counted(monkeypatch)
    look_up(cache, {"": encoders[0]}, "shapes:40")
    assert len(list((tmp_path / "cache").iterdir())) == 2 and not passes
    look_up(cache, {"": encoders[2]}, "shapes:40")
    assert not passes
    monkeypatch.setattr(caching, "LARGEST", 1000)
    large = look_up(cache, {"": encoders[1]}, "shapes:40")
    assert passes == [1] and large[""].tokens["mean"].shape == (40, 32)


def test_what_another_process_fills_stays_and_what_a_killed_one_left_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tmp-filled", "tmp-left"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mean.npy").write_bytes(b"x" * 1000)
    os.utime(tmp_path / "tmp-left", (0, 0))
    monkeypatch.setattr(caching, "LARGEST", 10)
    look_up(FeatureCache(tmp_path), {"": Encoder(SMALL)}, "shapes:2")
    assert [entry.name for entry in tmp_path.iterdir()] == ["tmp-filled"]


def test_digests_tell_images_apart(tmp_path: Path) -> None:
    folder = broken_folder(tmp_path / "images", 6, (3,))
    source = open_source(folder)
    words = fingerprints_of(source, np.arange(6), workers=0)
    assert len(set(words)) == 6  # what cannot be decoded has bytes as well
    (tmp_path / "images/0.png").unlink()
    refuse_shared(words[1:4], ["x", "", words[5]], name_of=source.name)
    with pytest.raises(WrongRequest, match=r"1\.png is in both"):
        refuse_shared(words[1:], ["", words[1]], name_of=source.name)
    assert (
        weights_fingerprint(Encoder(SMALL))
        == weights_fingerprint(Encoder(SMALL))
        != weights_fingerprint(Encoder(SMALL, seed=1))
    )


class Plain(nn.Module):
    """Somebody's module: images in, tokens out; the brightness of every quarter, and of the whole as cls."""

    def forward(self, images: Tensor) -> Tensor:
        quarters = nn.functional.avg_pool2d(images, 16).flatten(2).transpose(1, 2)
        return torch.cat([quarters.mean(dim=1, keepdim=True), quarters], dim=1)


class Pooled(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


WANTED = {"size": (32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3}


def test_a_timm_model_is_judged_by_the_same_code(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, untrained = (
        timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3, num_classes=0) for _ in range(2)
    )
    judged = backbone_of(model, size=(32, 32), untrained=untrained)
    assert judged.depth == 3 and judged.grid == (4, 4)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(judged.encoder(images).sequence, model.eval().forward_features(images))
        last = judged.encoder(images, block=3).sequence
        torch.testing.assert_close(model.norm(last), model.forward_features(images))
    scores = evaluate.knn(judged, train="shapes:80", test="shapes:40:test", out=tmp_path)
    assert [score.name for score in scores.scores] == ["knn_encoder_mean", "knn_encoder_cls"]
    assert [score.name for score in scores.control] == ["knn_untrained_mean", "knn_untrained_cls", "knn_pixels"]
    line = json.loads((tmp_path / "results.jsonl").read_text())
    assert line["weights"] == "VisionTransformer" and "config_hash" not in line
    block = evaluate.linear(judged, train="shapes:80", test="shapes:40:test", block=1)
    assert block.about["block"] == 1 and block.scores[0].value != scores.scores[0].value
    for run in (
        evaluate.few_shot(judged, train="shapes:80", test="shapes:40:test", shots=(2,), shares=(), draws=1),
        evaluate.linear_segment(judged, train="shapes:40", test="shapes:20:test"),
        evaluate.retrieval(judged, test="shapes:20"),
        evaluate.linear_probe(judged, train="shapes:80", test="shapes:40:test", epochs=1.0, out=tmp_path),
    ):
        assert run.scores and run.control
    with pytest.raises(WrongRequest, match="--block 4 is none of VisionTransformer's blocks: there are 1 to 3"):
        evaluate.knn(judged, train="shapes:80", test="shapes:40:test", block=4)


def test_a_timm_model_without_cls_has_blocks_too() -> None:
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "depth": 2, "num_classes": 0, "class_token": False, "global_pool": "avg"}
    judged = backbone_of(timm.create_model("vit_tiny_patch16_224", **sizes), size=(32, 32))
    with torch.no_grad():
        for images in (torch.randn(1, 3, 32, 32), torch.randn(2, 3, 32, 32)):
            assert judged.encoder(images, block=2).sequence.shape == (len(images), 16, 192)


def test_any_module_with_tokens_is_judged(tmp_path: Path) -> None:
    tokens = backbone_of(Plain(), patch_size=16, name="plain", **WANTED)  # pyright: ignore[reportArgumentType]
    pooled = backbone_of(Pooled(), **WANTED)  # pyright: ignore[reportArgumentType]
    found = {
        str(one): evaluate.linear(one, train="shapes:200", test="shapes:80:test", cache=False)
        for one in (tokens, pooled)
    }
    assert [score.name for score in found["plain"].scores] == ["linear_encoder_mean", "linear_encoder_cls"]
    assert [score.name for score in found["Pooled"].scores] == ["linear_encoder_mean"]
    values = {score.value for one in found.values() for score in one.scores}
    probed = evaluate.linear_probe(pooled, train="shapes:80", test="shapes:40:test", epochs=1.0, out=tmp_path)
    assert len(probed.scores) == 1
    assert len(values) == 1  # the same mean colour, by three ways
    assert [score.name for score in found["plain"].control] == ["linear_pixels"]
    assert evaluate.linear_segment(tokens, train="shapes:40", test="shapes:20:test").scores
    for refused, said in (
        (
            lambda: evaluate.linear_segment(pooled, train="shapes:40", test="shapes:20:test"),
            "Pooled has no patch tokens",
        ),
        (lambda: evaluate.knn(tokens, train="shapes:40", test="shapes:20:test", block=1), "there are none that can"),
        (lambda: backbone_of(Plain(), patch_size=8, **WANTED), "gives 4 patch tokens .* not the 16 of patch size 8"),
        (lambda: backbone_of(Plain()), "give the size, mean and std"),
    ):
        with pytest.raises(WrongRequest, match=said):
            refused()


@pytest.mark.slow
def test_a_second_evaluation_reads_what_the_first_computed(tmp_path: Path, result_of: Callable) -> None:
    where = {"OTHERVIEW_CACHE": str(tmp_path / "cache")}
    words = ["--weights", "random:siamese_im_cpu_adamw", "--train", "shapes:160", "--test", "shapes:80:test"]
    first = result_of("evaluate", "knn", *words, **where)
    entries = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache/features/*/kept.npy")}
    assert len(entries) == 6 - 2  # the untrained encoder is the encoder here, so it shares both entries
    assert result_of("evaluate", "knn", *words, **where)["scores"] == first["scores"]
    result_of("evaluate", "linear", *words, **where)
    assert entries == {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache/features/*/kept.npy")}
    assert result_of("evaluate", "knn", *words, "--no-cache", **where)["scores"] == first["scores"]
