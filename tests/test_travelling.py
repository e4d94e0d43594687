"""Encoders that come and go: official names, timm, transformers, ONNX; hostile files; what is embedded."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from otherview import evaluate
from otherview.config import RunConfig
from otherview.errors import WrongRequest
from otherview.evaluation.embedding import read_embedding
from otherview.files import json_lines
from otherview.nn.encoder import Encoder
from otherview.nn.settings import SIZES_OF_WEIGHTS, EncoderSettings
from otherview.recipes.registry import find
from otherview.runs.assemble import build_learner
from otherview.runs.cost import opened
from otherview.runs.settings import PretrainSettings
from otherview.weights.checkpoints import read_file
from otherview.weights.export import to_onnx
from otherview.weights.formats import to_huggingface, to_timm
from otherview.weights.names import card_of, load_encoder
from otherview.weights.origins import ORIGINS, converted, twin_in_timm
from otherview.weights.pretrained import Card, save_encoder
from tests.official import by_stem, cases, official

KINDS = {"siamese_im": "official-siamese-im", "mae": "mae", "moco_v3": "moco-v3"}
NAMES = json.loads((Path(__file__).parent / "data/official_checkpoint_names.json").read_text())
RANDOM = "random:siamese_im_cpu_adamw"


@by_stem("siamese_im")
def test_parity_official_siamese_im_tokens(path: Path, tmp_path: Path) -> None:
    """Converted from a pickled official file, the encoder gives the golden tokens of the masked view."""
    content, heads, arrays = official(path, "siamese_im")
    torch.save(content, tmp_path / "c.pth")
    found = converted(read_file(tmp_path / "c.pth"), ORIGINS["official-siamese-im"], heads=heads)
    assert found.card.encoder.positions == "sincos" and "non-commercial" in found.card.licence_of_starting_weights
    hidden = torch.from_numpy(arrays["in/mask"]).flatten(1).bool()
    visible = (~hidden).nonzero()[:, 1].view(len(hidden), -1)
    with torch.no_grad():
        tokens = found.encoder(torch.from_numpy(arrays["in/x1"]), visible).sequence
    expected = torch.from_numpy(arrays["out/online_encoder_output"])
    assert float((tokens - expected).norm() / expected.norm()) < 1e-5
    assert len(found.loaded) + len(found.left) == len(content["model"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("branch", ["online", "target"])
def test_round_trip_through_timm(kind: str, branch: str, tmp_path: Path) -> None:
    """Official state → ours → a folder of timm's → timm's forward, against timm with the official tensors: 1e-5."""
    content, heads, _ = official(cases(kind)[0], kind)
    origin = ORIGINS[KINDS[kind]]
    if branch not in origin.prefixes:
        with pytest.raises(WrongRequest, match="hold online only"):
            converted(content, origin, branch="target", heads=heads)
        return
    found = converted(content, origin, branch=branch, heads=heads)  # pyright: ignore[reportArgumentType]
    size = found.card.encoder.image_size
    assert to_timm(found.encoder, found.card, tmp_path / "t") < 1e-5
    loaded = timm.create_model(f"local-dir:{tmp_path / 't'}", pretrained=True).eval()
    twin = twin_in_timm(found)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded.forward_features(images), twin.forward_features(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "note"])
def test_every_tensor_of_the_published_checkpoints_has_a_place(name: str) -> None:
    kind = next(kind for prefix, kind in KINDS.items() if name.startswith(prefix))
    state = {tensor: torch.zeros(shape) for tensor, shape in NAMES[name].items()}
    found = converted({"model": state}, ORIGINS[kind])
    assert found.card.encoder.heads == 12 and len(found.loaded) + len(found.left) == len(state)
    assert len(found.loaded) == 148 + 2 * found.card.encoder.final_norm
    assert not any("no such tensor" in reason for reason in found.left.values())


def sized(**changes: object) -> tuple[Encoder, Card]:
    settings = EncoderSettings(
        **{"image_size": (32, 32), "patch_size": 8, "width": 48, "depth": 2, "heads": 3, **changes}
    )
    encoder = Encoder(settings, seed=1).eval()
    with torch.no_grad():
        for value in encoder.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel())))
    card = Card(
        method="siamese_im", recipe="r", branch="encoder", encoder=settings, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.2),
        seed=1, steps=9, config_hash="h",
    )  # fmt: skip
    return encoder, card


VARIANTS = (
    {}, {"final_norm": True, "layer_scale": 0.3}, {"positions": "learned"}, {"column_first": True},
    {"registers": 2, "positions": "learned"}, {"class_token": False}, {"class_token": False, "positions": "learned"},
)  # fmt: skip


@pytest.mark.parametrize("size", [(32, 32), (160, 224), (224, 224)])
@pytest.mark.parametrize("changes", VARIANTS)
def test_timm_and_transformers_agree_at_the_baked_size(changes: dict, size: tuple[int, int], tmp_path: Path) -> None:
    encoder, card = sized(**changes)
    card = card.model_copy(update={"size": size, "fit": "squash"})
    assert to_timm(encoder, card, tmp_path / "t") < 1e-5
    pytest.importorskip("transformers")
    if encoder.settings.registers or not encoder.settings.class_token:
        with pytest.raises(WrongRequest, match=r"2 registers|without a class token"):
            to_huggingface(encoder, card, tmp_path / "h")
    else:
        assert to_huggingface(encoder, card, tmp_path / "h") < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("changes", VARIANTS)
def test_one_onnx_file_for_several_sizes(changes: dict, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    encoder, card = sized(**changes)
    assert to_onnx(encoder, card, tmp_path / "e.onnx") < 1e-5
    session = runtime.InferenceSession(str(tmp_path / "e.onnx"))
    for count, size in ((1, (32, 32)), (2, (8 * 5, 8 * 3)), (4, (160, 224))):
        images = torch.randn(count, 3, *size)
        with torch.no_grad():
            tokens = encoder(images)
        found = session.run(["cls", "mean", "patches"], {"images": images.numpy()})
        for ours, theirs in zip((tokens.cls, tokens.mean, tokens.patches), found, strict=True):
            torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-4, atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["e.onnx"]  # weights inside


def test_a_learned_table_is_kept_and_resampled(tmp_path: Path) -> None:
    """A timm model with learned positions: the same tokens at its size, bicubic positions at another."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0, depth=2, reg_tokens=1).eval()
    with torch.no_grad():
        torch.nn.init.normal_(model.pos_embed)  # pyright: ignore[reportArgumentType]
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    found = converted(read_file(tmp_path / "m.safetensors"), ORIGINS["timm"], image_size=(64, 64))
    assert found.card.encoder.positions == "learned" and found.card.encoder.heads == 3
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            found.encoder(images).sequence,
            model.forward_features(images),
            rtol=1e-5,
            atol=1e-5,  # pyright: ignore
        )
        assert found.encoder(torch.randn(1, 3, 96, 64)).patches.shape[1] == 24
    save_encoder(tmp_path / "e.safetensors", found.encoder, found.card)
    assert torch.equal(load_encoder(tmp_path / "e.safetensors").encoder.vit.pos_embed, found.encoder.vit.pos_embed)


class _Bad:
    """A pickle that would run a command."""

    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


@pytest.mark.slow
def test_hostile_and_broken_files_are_answered_in_one_line(otherview: Callable, tmp_path: Path) -> None:
    content, heads, _ = official(cases("siamese_im")[0], "siamese_im")
    state = content["model"]
    (tmp_path / "bad.pth").write_bytes(pickle.dumps({"model": _Bad()}))
    torch.save({"model": state, "extra": _Bad()}, tmp_path / "bad2.pth")
    torch.save({"extra": _Bad()}, tmp_path / "bad3.pth", _use_new_zipfile_serialization=False)
    torch.save(content, tmp_path / "good.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "good.pth").read_bytes()[:4000])
    renamed = {("blocks.0.attn.qkvs.weight" if k == "blocks.0.attn.qkv.weight" else k): v for k, v in state.items()}
    torch.save({"model": renamed}, tmp_path / "renamed.pth")
    misshapen = {**state, "blocks.0.mlp.fc1.bias": torch.zeros(3)}
    torch.save({"model": misshapen}, tmp_path / "misshapen.pth")
    torch.save({"model": {**state, "surprise": torch.zeros(2)}}, tmp_path / "more.pth")
    torch.save({"model": {k: v for k, v in state.items() if k != "cls_token"}}, tmp_path / "less.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("hello")
    command = ("convert", "--from", "official-siamese-im", "--out", "o.safetensors", "--heads", str(heads))
    for name, said in {
        "bad.pth": "no file of torch.save", "bad2.pth": "system", "bad3.pth": "system", "renamed.pth": "qkv",
        "cut.pth": "cannot be read as weights",
        "misshapen.pth": "blocks.0.mlp.fc1.bias is [3]", "more.pth": "surprise first", "less.pth": "no cls_token",
        "list.pth": "holds a list", "text.pth": "cannot be read as weights", "nowhere.pth": "does not exist",
    }.items():  # fmt: skip
        done = otherview(*command, name)
        assert done.returncode == 2 and said in done.stderr, (name, done.stderr)
        assert len(done.stderr.strip().splitlines()) == 1 and done.stdout == "", (name, done.stderr)
        assert not (tmp_path / "executed").exists() and not (tmp_path / "o.safetensors").exists()
    assert otherview(*command, "more.pth", "--partial").returncode == 0


def test_a_file_without_heads_asks_for_them(otherview: Callable, tmp_path: Path) -> None:
    content, _, _ = official(cases("mae")[0], "mae")
    torch.save(content, tmp_path / "m.pth")
    done = otherview("convert", "--from", "mae", "m.pth", "--out", "o.safetensors")
    assert done.returncode == 2 and "convert the weights with --heads N" in done.stderr


@pytest.mark.slow
def test_the_commands_convert_export_and_continue(otherview: Callable, result_of: Callable, tmp_path: Path) -> None:
    content, heads, _ = official(cases("mae")[0], "mae")
    torch.save(content, tmp_path / "m.pth")
    found = result_of("convert", "--from", "mae", "m.pth", "--out", "m.safetensors", "--heads", str(heads))
    assert found["loaded"] + sum(found["left"].values()) == found["of"] and found["difference"] < 1e-5
    assert "non-commercial" in found["licence"]
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert "non-commercial" in file.metadata()["otherview"]
    for to, out in (("timm", "t"), ("huggingface", "h"), ("onnx", "e.onnx"), ("safetensors", "e.safetensors")):
        exported = result_of("export", "--weights", "m.safetensors", "--to", to, "--out", out)
        assert exported["difference"] < 1e-4 and (tmp_path / out).exists()
    assert "license: other" in (tmp_path / "t/README.md").read_text()
    refused = otherview("export", "--weights", "m.safetensors", "--to", "timm", "--out", "t", "--size", "33", "32")
    assert refused.returncode == 2 and "33 32" in refused.stderr


@pytest.mark.slow
def test_embedding_has_a_row_an_image_and_continues(otherview: Callable, result_of: Callable, tmp_path: Path) -> None:
    words = ("embed", "--weights", RANDOM, "--data", "shapes:2300@48")
    known = {}
    for ending in ("parquet", "npy", "safetensors"):
        assert result_of(*words, "--out", f"e.{ending}")["images"] == 2300
        known[ending] = read_embedding(tmp_path / f"e.{ending}")
    names, rows = known["npy"]
    assert names[7] == "shapes:train[7]" and rows.shape == (2300, 128) and not (tmp_path / "e.npy.parts").exists()
    for other_names, other in known.values():
        assert other_names == names and torch.equal(other, rows)
    assert pq.read_table(tmp_path / "e.parquet").column_names == ["name", "mean"]
    encoder = load_random()
    from otherview.data.spec import open_source
    from otherview.evaluation.features import extract

    expected = extract(
        encoder.encoder, open_source("shapes:2300@48"), encoder.card.preprocessing, indices=np.array([5, 2299])
    )
    torch.testing.assert_close(rows[[5, 2299]], expected.tokens["mean"])
    # A part that is there is not computed again: poison it and see it in the file.
    parts = tmp_path / "p.npy.parts"
    done = otherview(*words, "--out", "p.npy", OTHERVIEW_SHORTEN="1")
    assert done.returncode == 0 and not parts.exists()
    patches = result_of(
        *words[:-1], "shapes:20@48", "--out", "q.safetensors", "--tokens", "patches", "--size", "48", "40"
    )
    assert patches["images"] == 20 and load_file(tmp_path / "q.safetensors")["patches"].shape == (20, 120, 128)
    for wrong, said in ((("--out", "e.txt"), "must end in"), (("--out", "e.npy", "--size", "30", "32"), "30 32")):
        refused = otherview(*words, *wrong)
        assert refused.returncode == 2 and said in refused.stderr


def load_random() -> Any:
    from otherview.weights.names import load_encoder as load_any

    return load_any(RANDOM)


def test_parts_that_are_there_are_not_computed_again(tmp_path: Path) -> None:
    from otherview.data.spec import open_source
    from otherview.evaluation.embedding import PART, Embedding, write_features

    loaded, source = load_random(), open_source(f"shapes:{PART + 5}")
    for about, expected in (({"run": 1}, True), ({"run": 2}, False)):  # of another request, parts are dropped
        wanted = Embedding(tmp_path / "e.npy", "mean", about)
        parts = tmp_path / "e.npy.parts"
        parts.mkdir()
        (parts / "about.json").write_text(json.dumps({"run": 1}))
        poison = np.full((PART, 128), 7, np.float32)
        np.savez(parts / f"{0:012d}.npz", features=poison, indices=np.arange(PART))
        assert (
            write_features(loaded.encoder, source, loaded.card.preprocessing, wanted, workers=0, advance=lambda _: None)
            == PART + 5
        )
        rows = read_embedding(tmp_path / "e.npy")[1]
        assert bool((rows[:PART] == 7).all()) is expected and not bool((rows[PART:] == 7).any())


@pytest.mark.slow
def test_a_run_starts_from_weights_of_another_size(otherview: Callable, tmp_path: Path) -> None:
    """Converted weights with learned positions at 32 px, continued at 48 px: resampled, licence kept, resumable."""
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=4, embed_dim=128, depth=4, num_heads=4, num_classes=0
    )
    save_file(model.state_dict(), tmp_path / "t.safetensors")
    done = otherview("convert", "--from", "timm", "t.safetensors", "--out", "w.safetensors", "--heads", "4")
    assert done.returncode == 0, done.stderr
    words = ("pretrain", "--recipe", "siamese_im_cpu_adamw", "--data", "shapes:200@48", "--out", "r", "--threads", "1")
    sizes = ("--encoder.image-size", "48", "48", "--views.mask.count", "80", "--init", "w.safetensors")
    begun = otherview(*words, *sizes, "--training.lr-per-256", "1e-12", OTHERVIEW_SHORTEN="1")
    assert begun.returncode == 0, begun.stderr
    for said in ("starting from w.safetensors", "norm after the last block is left out", "resampled from 8×8 to 12×12"):
        assert said in begun.stderr
    for branch in ("encoder", "target"):  # the rate is nothing: the weights are those it started from
        kept = load_encoder(tmp_path / f"r/{branch}.safetensors")
        assert kept.card.encoder.positions == "learned" and "unknown" in kept.card.licence_of_starting_weights
        expected, found = model.state_dict()["blocks.3.mlp.fc2.weight"], kept.encoder.vit.state_dict()
        torch.testing.assert_close(found["blocks.3.mlp.fc2.weight"], expected, rtol=1e-4, atol=1e-6)
        assert found["pos_embed"].shape == (1, 145, 128)
    first = json_lines(tmp_path / "r/metrics.jsonl")[
        0
    ]  # without labels: patches of the start and of an untrained encoder
    assert {"retrieval", "rankme", "retrieval_untrained", "rankme_untrained"} <= first.keys()
    # at that rate the encoder is the weights that it started from, which are a control of every evaluation
    found = evaluate.knn(tmp_path / "r", train="shapes:60", test="shapes:40:test", k=3)
    assert [score.name for score in found.control] == [
        f"knn_{name} (k 3)" for name in ("start_mean", "start_cls", "untrained_mean", "untrained_cls", "pixels")
    ]
    assert found.control[0].value == found.scores[0].value
    assert found.comparisons[0].reference == "the start weights" and found.comparisons[0].difference == 0
    without = otherview(*words, *sizes[:-2], OTHERVIEW_SHORTEN="1")
    assert without.returncode == 2 and "other settings" in without.stderr
    said = otherview(*words[:-4], "--out", "s", "--encoder.width", "64", "--init", "w.safetensors")
    assert said.returncode == 2 and "--encoder.width has no effect here, because the weights of --init" in said.stderr


def card_for(config: RunConfig, encoder: EncoderSettings) -> Card:
    config = config.model_copy(update={"encoder": encoder})
    return card_of(config, method="siamese_im", branch="encoder", steps=9)


def test_the_encoder_takes_the_sizes_of_the_weights_that_it_starts_from(tmp_path: Path) -> None:
    config = find("siamese_im_cpu_adamw").make()
    sizes = {"width": 64, "depth": 2, "heads": 2, "patch_size": 8, "registers": 1, "layer_scale": 0.1}
    had = config.encoder.model_copy(update=sizes)
    save_encoder(tmp_path / "w.safetensors", Encoder(had, seed=3), card_for(config, had))
    asked = {"data": "shapes:200@64", "out": tmp_path / "r", "init": str(tmp_path / "w.safetensors")}
    whole = config.model_copy(update={"encoder": config.encoder.model_copy(update={"image_size": (64, 64)})})
    found = opened(PretrainSettings(whole, **asked))
    taken = {name: getattr(found.config.encoder, name) for name in SIZES_OF_WEIGHTS}
    assert taken == {**sizes, "class_token": True} and found.config.encoder.image_size == (64, 64)
    assert found.start is not None
    assert "the encoder has the sizes of these weights: 64 wide, 2 blocks, 2 heads, patches of 8 px" in found.start.said
    found.start.into(build_learner(found.config))
    odd = config.encoder.model_copy(update={"patch_size": 12, "image_size": (48, 48)})
    save_encoder(tmp_path / "w.safetensors", Encoder(odd, seed=3), card_for(config, odd))
    with pytest.raises(WrongRequest, match="not divisible by"):  # 32 px by patches of 12
        opened(PretrainSettings(config, **asked))
    gray = config.encoder.model_copy(update={"channels": 1})
    save_encoder(tmp_path / "w.safetensors", Encoder(gray, seed=3), card_for(config, gray))
    with pytest.raises(WrongRequest, match=r"is for images of 1 channels, the run for 3: give --encoder\.channels 1"):
        opened(PretrainSettings(config, **asked))


def test_the_encoder_that_ships_is_small_whole_and_knows_its_outlines(tmp_path: Path) -> None:
    from otherview.evaluation.knn import accuracy, knn_sweep
    from otherview.weights.names import load_encoder as load_any
    from otherview.weights.names import resolved

    folder = resolved("reference:demo")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3 * 2**20
    loaded = load_any("reference:demo")
    assert loaded.card.recipe == "siamese_im_demo" and next(loaded.encoder.parameters()).dtype == torch.float32
    from otherview.data.source import labels_of
    from otherview.data.spec import open_source
    from otherview.evaluation.features import extract

    bank, queries = open_source("shapes:600:val"), open_source("shapes:200:test")
    tokens = [extract(loaded.encoder, side, loaded.card.preprocessing).tokens["mean"] for side in (bank, queries)]
    labels = [torch.from_numpy(labels_of(side, "")) for side in (bank, queries)]
    (found,) = knn_sweep(tokens[0], labels[0], tokens[1], ks=(20,), temperatures=(0.07,)).values()
    assert accuracy(found, labels[1]) > 0.45  # untrained .3
