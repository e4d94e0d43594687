"""Checkpoints as other programs write them: the encoder in them computes what the network computed that they were taken from.

Where a name stands before a colon, somebody reported it in public: project#number.
"""

import argparse
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.models import VisionTransformer as TorchvisionViT

from otherview.errors import WrongRequest
from otherview.weights.convert import convert
from otherview.weights.pretrained import read_encoder

SIZE, WIDTH = 48, 192
IMAGES = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
Made = tuple[Any, Tensor]
"""What is saved (a folder's path where it is saved already), and the tokens of IMAGES."""


def vit(seed: int = 0, **changes: Any) -> VisionTransformer:
    torch.manual_seed(seed)
    sizes = {"img_size": SIZE, "patch_size": 16, "embed_dim": WIDTH, "depth": 2, "num_heads": 3, "num_classes": 0}
    model = VisionTransformer(**{**sizes, "global_pool": "", **changes}).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(std=0.1)
    return model


def tokens(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.forward_features(IMAGES)  # pyright: ignore[reportCallIssue]


def renamed(state: Mapping[str, Tensor], *, before: str = "", after: Callable[[str], str] = str) -> dict[str, Tensor]:
    return {before + after(name): value for name, value in state.items()}


def of_vit(wrap: Callable[[dict[str, Tensor]], Any], **changes: Any) -> Callable[[Path], Made]:
    """A case from timm's own state."""

    def make(_: Path) -> Made:
        model = vit(**changes)
        return wrap(dict(model.state_dict())), tokens(model)

    return make


HEAD = {"head.mlp.0.weight": torch.zeros(8, WIDTH), "head.last_layer.weight_g": torch.zeros(8, 1)}
DECODER = {"mask_token": torch.zeros(1, 1, 64), "decoder_embed.weight": torch.zeros(64, WIDTH),
           "decoder_pos_embed": torch.zeros(1, 10, 64)}  # fmt: skip


def two(state: dict[str, Tensor]) -> dict[str, Any]:
    """Student and teacher, as DINO keeps them; the student is another network."""
    other = renamed(vit(seed=9).state_dict(), before="module.backbone.")
    return {
        "student": other,
        "teacher": renamed(state, before="backbone.") | HEAD,
        "epoch": 3,
        "args": argparse.Namespace(out=Path("x")),
    }


def mmpretrain(name: str) -> str:
    for ours, theirs in (("patch_embed.proj.", "patch_embed.projection."), ("blocks.", "layers."), (".norm1.", ".ln1."),
                         (".norm2.", ".ln2."), (".mlp.fc1.", ".ffn.layers.0.0."), (".mlp.fc2.", ".ffn.layers.1.")):  # fmt: skip
        name = name.replace(ours, theirs)
    return name.replace("norm.", "ln1.") if name.startswith("norm.") else name


def without_class_token(folder: Path) -> Made:
    model = vit(class_token=False)
    return {"target_encoder": renamed(model.state_dict(), before="module."), "predictor": {}, "epoch": 3}, tokens(model)


def transformers_folder(name: str, **more: Any) -> Callable[[Path], Made]:
    """A folder that transformers' own save_pretrained writes, and its own tokens."""

    def make(folder: Path) -> Made:
        transformers = pytest.importorskip("transformers")
        torch.manual_seed(0)
        sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": SIZE, "patch_size": 16,
                 "intermediate_size": 4 * WIDTH, "layer_norm_eps": 1e-6}  # fmt: skip
        if "Dino" in name:
            sizes |= {"mlp_ratio": 4}
        model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**sizes, **more)).eval()
        with torch.no_grad():
            for value in model.parameters():
                value.normal_(std=0.1)
            found = model(IMAGES).last_hidden_state
        model.save_pretrained(folder / "saved")
        return folder / "saved", found

    return make


def torchvision_vit(_: Path) -> Made:
    torch.manual_seed(0)
    model = TorchvisionViT(SIZE, 16, 2, 3, WIDTH, 4 * WIDTH).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(std=0.1)
        patches = model._process_input(IMAGES)
        sequence = torch.cat([model.class_token.expand(2, -1, -1), patches], dim=1)
        return model.state_dict(), model.encoder(sequence)


CASES: dict[str, tuple[Callable[[Path], Made], str]] = {
    "timm: a bare state": (of_vit(dict), "online"),
    "dino#217: student and teacher": (of_vit(two), "target"),
    "ibot: with its masked_embed": (
        of_vit(lambda s: {"teacher": renamed(s | {"masked_embed": torch.zeros(1, WIDTH)}, before="backbone."), "student": {}}),
        "target"),
    "mae: a run with a Path and NumPy's numbers": (
        of_vit(lambda s: {"model": s | DECODER, "epoch": np.int64(3), "best": np.float32(1),
                          "args": argparse.Namespace(output_dir=Path("/data"), device=torch.device("cpu"))}), "online"),
    "mae: several cards and torch.compile": (
        of_vit(lambda s: {"model": renamed(s | DECODER, before="module._orig_mod.")}), "online"),
    "solo-learn: backbone, classifier and projector": (
        of_vit(lambda s: {"state_dict": renamed(s, before="backbone.") | {"classifier.weight": torch.zeros(9, WIDTH),
                          "projector.0.weight": torch.zeros(8, WIDTH)}, "hyper_parameters": {"lr": 1}, "epoch": 9}), "online"),
    "lightly: a Lightning module with student and teacher": (
        of_vit(lambda s: {"state_dict": renamed(vit(seed=9).state_dict(), before="student_backbone.vit.")
                          | renamed(s, before="teacher_backbone.vit.")}), "target of several"),
    "FSDP and checkpointing around every block": (
        of_vit(lambda s: renamed(s, after=lambda name: name.replace("blocks.0.", "_fsdp_wrapped_module.blocks.0."
               "_checkpoint_wrapped_module."))), "online"),
    "pycls: model_ema": (of_vit(lambda s: {"model_ema": s, "epoch": 3}), "target"),
    "timm PR#2003: state_dict_ema beside state_dict": (
        of_vit(lambda s: {"state_dict": vit(seed=9).state_dict(), "state_dict_ema": s}), "target asked for"),
    "DINOv2 with registers": (
        of_vit(lambda s: {("register_tokens" if name == "reg_token" else name): value for name, value in s.items()}
               | {"mask_token": torch.zeros(1, WIDTH)}, reg_tokens=4, init_values=1e-5, no_embed_class=True), "online"),
    "DINOv2: blocks in chunks": (
        of_vit(lambda s: renamed(s, after=lambda name: name.replace("blocks.", "blocks.0.")), init_values=1.0), "online"),
    "I-JEPA: no class token": (without_class_token, "target"),
    "mmsegmentation#1288: MMPretrain's names": (
        of_vit(lambda s: {"state_dict": renamed(s, before="backbone.", after=mmpretrain)
                          | {"head.layers.head.weight": torch.zeros(9, WIDTH)}, "meta": {}}), "online"),
    "torchvision": (torchvision_vit, "online"),
    "transformers: ViT": (transformers_folder("ViT", ), "online"),
    "transformers: DINOv2 with registers": (transformers_folder("Dinov2WithRegisters"), "online"),
    "transformers: I-JEPA": (transformers_folder("IJepa"), "online"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_encoder_in_a_checkpoint(name: str, tmp_path: Path) -> None:
    make, branch = CASES[name]
    content, expected = make(tmp_path)
    source = content if isinstance(content, Path) else tmp_path / "c.pth"
    if not isinstance(content, Path):
        torch.save(content, source)
    asked: Any = branch.split()[0] if " " in branch else None
    found = convert(str(source), out=tmp_path / "e.safetensors", branch=asked)
    assert found["branch"] == branch.split()[0] and found["loaded"] + sum(found["left"].values()) == found["of"]
    with torch.no_grad():
        ours = read_encoder(tmp_path / "e.safetensors").encoder(IMAGES).sequence
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def _module(folder: Path) -> Path:
    torch.save(vit(), folder / "c.pth")
    return folder / "c.pth"


def _saved(content: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        torch.save(content(), folder / "c.pth")
        return folder / "c.pth"

    return make


def _empty_folder(folder: Path) -> Path:
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    return folder


def _of_other_activation(folder: Path) -> Path:
    (folder / "config.json").write_text('{"num_attention_heads": 3, "hidden_act": "relu"}')
    return _saved_as(folder / "model.safetensors")


def _written(content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "c.pth").write_bytes(content)
        return folder / "c.pth"

    return make


def _saved_as(path: Path) -> Path:
    save_file(vit().state_dict(), path)
    return path


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a whole model": (_module, r"whole model \(timm.*save model.state_dict\(\)"),
    "a ResNet": (_saved(lambda: {"conv1.weight": torch.zeros(64, 3, 7, 7)}), "no vision transformer: none of its 1 tensors"),
    "no weights": (_saved(lambda: OrderedDict(epoch=3)), "holds no weights, only epoch"),
    "positions by rotation": (
        _saved(lambda: vit().state_dict() | {"rope_embed.periods": torch.zeros(16)}), r"\(rotary positions\)"),
    "biases of relative positions": (
        _saved(lambda: vit().state_dict() | {"blocks.0.attn.relative_position_bias_table": torch.zeros(9, 3)}),
        "no place in a plain"),
    "two encoders that are alike": (
        _saved(lambda: renamed(vit().state_dict(), before="left.") | renamed(vit().state_dict(), before="right.")),
        "several encoders, left., right."),
    "weights that are not finite": (
        _saved(lambda: {name: value * float("nan") for name, value in vit().state_dict().items()}),
        "not finite, cls_token first"),
    "a pointer of git LFS": (_written(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "a web page": (_written(b"<!DOCTYPE html><html>"), "download the file itself"),
    "another activation": (_of_other_activation, "hidden_act relu"),
    "a folder without a config": (_empty_folder, "no folder of transformers"),
}  # fmt: skip


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_plain_vision_transformer(name: str, partial: bool, tmp_path: Path) -> None:
    make, said = REFUSED[name]
    with pytest.raises(WrongRequest, match=said):
        convert(str(make(tmp_path)), out=tmp_path / "e.safetensors", partial=partial)
