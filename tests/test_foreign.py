"""Weights by the names that others have for them are weights wherever ours are: of timm, of the hub, files, folders."""

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from otherview.errors import WrongRequest
from otherview.weights import convert as module
from otherview.weights.convert import convert, foreign, is_foreign
from otherview.weights.names import folder_of, load_encoder

SIZES: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 0}
Words = Callable[..., subprocess.CompletedProcess[str]]


def small(**changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(**{**SIZES, **changes}).eval()


def transformers_folder(folder: Path, **more: Any) -> Path:
    """A ViT as transformers writes it, without installing it: names and config alone."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192, image_size=32, patch_size=8
    )
    torch.manual_seed(0)
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "layer_norm_eps": 1e-6, **more}))
    return folder


def test_a_file_and_its_conversion_are_the_same_encoder(tmp_path: Path) -> None:
    model = small(reg_tokens=2, init_values=0.1)
    torch.save({"teacher": {"backbone." + name: value for name, value in model.state_dict().items()}, "args": None},
               tmp_path / "dino.pth")  # fmt: skip
    with pytest.raises(WrongRequest, match="width 48 is unknown: convert the weights with --heads N"):
        load_encoder(tmp_path / "dino.pth")
    wide = small(embed_dim=192, num_heads=3)
    torch.save(wide.state_dict(), tmp_path / "wide.pth")
    convert(str(tmp_path / "wide.pth"), out=tmp_path / "wide.safetensors")
    images = torch.rand(2, 3, 32, 32)
    read, ours = load_encoder(tmp_path / "wide.pth"), load_encoder(tmp_path / "wide.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(read(images).sequence, ours(images).sequence, rtol=0, atol=0)
    assert read.card == ours.card and "unknown" in read.card.licence_of_starting_weights


def test_what_is_foreign(tmp_path: Path) -> None:
    save_file(small().state_dict(), tmp_path / "theirs.safetensors")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/config.json").write_text("{}")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08")
    theirs = ["timm:vit", "hf:a/b", tmp_path / "theirs.safetensors", tmp_path / "folder"]
    assert all(map(is_foreign, theirs))
    ours = ["reference:demo", "random:x", tmp_path / "run", tmp_path / "cut.safetensors", tmp_path / "none.pth", 3]
    assert not any(map(is_foreign, ours))
    assert folder_of(tmp_path / "folder") is None and folder_of(tmp_path / "run") == tmp_path / "run"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of repositories in place of the hub, which is not reached from here."""

    def snapshot(repository: str, *, allow_patterns: list[str]) -> str:
        if not (tmp_path / repository).is_dir():
            raise OSError("404 Client Error\nand more")
        return str(tmp_path / repository)

    monkeypatch.setattr(module, "snapshot_download", snapshot)
    return tmp_path


def test_a_repository_of_the_hub_keeps_its_licence(hub: Path) -> None:
    pytest.importorskip("transformers")
    folder = transformers_folder(hub / "lab/vit")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# A model\n")
    loaded = load_encoder("hf:lab/vit")
    assert loaded.card.licence_of_starting_weights == "cc-by-nc-4.0"
    assert (loaded.card.encoder.width, loaded.card.encoder.heads, loaded.card.encoder.patch_size) == (48, 4, 8)
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: dinov3-license\n---\n")
    assert load_encoder("hf:lab/vit").card.licence_of_starting_weights == "dinov3-license"
    (folder / "README.md").write_text("no front matter")
    assert "unknown" in load_encoder("hf:lab/vit").card.licence_of_starting_weights
    with pytest.raises(WrongRequest, match=r"hf:lab/none cannot be loaded: 404 Client Error$"):
        load_encoder("hf:lab/none")


def test_timm_by_name(monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    model = small()
    model.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "input_size": (3, 32, 32), "license": "mit"}
    asked: list[str] = []

    def create(name: str, **_: Any) -> Any:
        asked.append(name)
        if name == "nothing":
            raise RuntimeError("Unknown model (nothing)")
        return Eva(**SIZES, use_rot_pos_emb=True, swiglu_mlp=True, scale_mlp=True) if "eva" in name else model

    monkeypatch.setattr(timm, "create_model", create)
    card = load_encoder("timm:vit").card
    assert (card.mean, card.licence_of_starting_weights, card.encoder.heads) == ((0.5,) * 3, "mit", 4)
    (hub / "timm/vit").mkdir(parents=True)
    (hub / "timm/vit/config.json").write_text('{"architecture": "vit_tiny"}')
    assert load_encoder("hf:timm/vit").card == card and asked == ["vit", "hf-hub:timm/vit"]
    for name, said in (
        ("nothing", r"timm:nothing cannot be loaded: Unknown model \(nothing\)"),
        ("eva", r"timm:eva is a Eva with rotary positions and a gated MLP \(SwiGLU\), no plain vision transformer"),
    ):
        with pytest.raises(WrongRequest, match=said):
            foreign(f"timm:{name}")


def test_a_folder_of_timm_says_how_images_are_normalised(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=0)
    model.pretrained_cfg = {**model.pretrained_cfg, "mean": (0.5,) * 3, "std": (0.25,) * 3, "input_size": (3, 32, 32)}
    save_for_hf(model, str(tmp_path / "folder"), safe_serialization=True)
    (tmp_path / "folder/README.md").write_text("---\nlicense: mit\n---\n")
    card = load_encoder(tmp_path / "folder").card
    assert (card.mean, card.std, card.licence_of_starting_weights) == ((0.5,) * 3, (0.25,) * 3, "mit")
    assert (card.encoder.width, card.encoder.image_size) == (192, (32, 32))


@pytest.mark.parametrize("changes", [{"act_layer": partial(nn.GELU, approximate="tanh")}, {"act_layer": nn.ReLU}])
def test_another_activation_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    model = small(**changes)
    model.pretrained_cfg = {}
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: model)
    with pytest.raises(WrongRequest, match=r"timm:x has (GELU|ReLU)\(.*\) and LayerNorm: encoders here have GELU"):
        foreign("timm:x")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"rope_theta": 100.0}, "has rotary positions"),
        ({"use_swiglu_ffn": True}, r"has a gated MLP \(SwiGLU\)"),
        ({"hidden_act": "relu"}, "hidden_act relu"),
    ],
)
def test_what_no_plain_transformer_has_is_refused_by_name(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(WrongRequest, match=said):
        load_encoder(transformers_folder(tmp_path / "folder", **more))


def test_strange_tensors_are_refused_by_name(tmp_path: Path) -> None:
    state = small(embed_dim=192, num_heads=3).state_dict()
    for name, said in (
        ("rope_embed.periods", "rotary positions"),
        ("blocks.0.mlp.w12.weight", r"a gated MLP \(SwiGLU\)"),
        ("blocks.0.attn.q_norm.weight", "norms of queries and keys"),
    ):
        torch.save({**state, name: torch.zeros(2)}, tmp_path / "w.pth")
        with pytest.raises(WrongRequest, match=said):
            load_encoder(tmp_path / "w.pth")


@pytest.mark.slow
def test_pretraining_and_evaluation_take_them(otherview: Words, result_of: Callable[..., dict], tmp_path: Path) -> None:
    save_file(small(embed_dim=192, num_heads=3).state_dict(), tmp_path / "theirs.safetensors")
    words = ("pretrain", "--data", "shapes:60@70", "--threads", "1", "--training.workers", "0", "--steps", "2")
    done = otherview(*words, "--out", "run", "--init", "theirs.safetensors")
    assert done.returncode == 0, done.stderr
    assert "licence: unknown" in done.stderr and "the sizes of the weights that it starts from" in done.stderr
    card = load_encoder(tmp_path / "run").card
    assert (card.encoder.width, card.encoder.patch_size, card.encoder.image_size) == (192, 8, (64, 64))
    result_of("evaluate", "knn", "--weights", "theirs.safetensors", "--train", "shapes:40", "--test", "shapes:30:test",
              "--k", "3", "--threads", "1")  # fmt: skip
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "theirs.safetensors").read_bytes()[:100_000])
    for weights, flags, said in (
        ("theirs.safetensors", ("--encoder.patch-size", "4"), "--encoder.patch-size has no effect here"),
        ("theirs.safetensors", ("--encoder.heads", "6"), "--encoder.heads has no effect here"),
        ("half.safetensors", (), "no readable safetensors file"),
        ("nowhere.pth", (), "nowhere.pth holds no encoder"),
    ):
        done = otherview(*words, "--out", "refused", "--init", weights, *flags)
        assert done.returncode == 2 and said in done.stderr, (weights, done.stderr)
        assert len(done.stderr.strip().splitlines()) == 1
