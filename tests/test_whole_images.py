"""Whole images at an encoder's size: the same pixels here and in the libraries that an encoder is exported to."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from otherview.commands.evaluate import COMMANDS
from otherview.data.image import Preprocessing
from otherview.data.picture import Picture
from otherview.data.settings import Fit
from otherview.errors import WrongRequest
from otherview.evaluation.embedding import read_embedding
from otherview.evaluation.whole_images import prepared, shown
from otherview.nn.encoder import Encoder
from otherview.nn.settings import EncoderSettings
from otherview.weights.export import export
from otherview.weights.formats import CROP_MODES, preprocessing_of, processor_of
from otherview.weights.pretrained import Card, read_encoder, save_encoder

SIZES = (120, 160), (160, 120), (301, 200), (97, 223), (64, 64), (500, 130), (65, 66)
FITS: tuple[Fit, ...] = ("crop", "squash", "pad")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, (height, width) in enumerate(SIZES):
        rng = np.random.default_rng(number)
        layers = [
            cv2.resize(rng.random((k, k, 3)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
            for k in (3, 9, 20)
        ]
        pixels = np.clip(255 * np.mean(layers, axis=0), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.{'jpg' if number % 2 else 'png'}", quality=95)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = EncoderSettings(image_size=(64, 64), patch_size=8, width=48, depth=2, heads=3, final_norm=True)
    encoder = Encoder(settings, seed=1).eval()
    with torch.no_grad():
        for value in encoder.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel())))
    card = Card(
        method="siamese_im", recipe="r", branch="encoder", encoder=settings, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.2), seed=1,
        steps=9, config_hash="h",
    )  # fmt: skip
    path = tmp_path_factory.mktemp("weights") / "it.safetensors"
    save_encoder(path, encoder, card)
    return path


def files_of(photos: Path) -> list[Path]:
    return sorted(photos.iterdir())


@pytest.fixture(scope="module")
def embedded(photos: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Fit], Tensor]:
    from otherview.evaluation.embedding import embed

    folder = tmp_path_factory.mktemp("embedded")

    def of(fit: Fit) -> Tensor:
        path = folder / f"{fit}.npy"
        done = embed(weights=str(weights), data=str(photos), out=path, fit=fit, workers=0, device="cpu", tokens="mean")
        assert done["fit"] == fit and done["size"] == [64, 64]
        names, features = read_embedding(path)
        assert names == [file.name for file in files_of(photos)]
        return features

    return of


def least_cosine(ours: Tensor, theirs: Tensor) -> float:
    """With what all images have in common taken off, or any two would agree."""
    middle = ours.mean(dim=0)
    return float(torch.nn.functional.cosine_similarity(ours - middle, theirs - middle, dim=1).min())


def in_timm(photos: Path, cfg: dict) -> Tensor:
    transform = timm.data.create_transform(**cfg)
    return torch.stack([transform(Image.open(file)) for file in files_of(photos)])  # pyright: ignore


@pytest.mark.parametrize("fit", FITS)
def test_timm_sees_what_embed_sees(fit: Fit, photos: Path, weights: Path, embedded: Callable, tmp_path: Path) -> None:
    export(str(weights), to="timm", out=tmp_path / "t", fit=fit)
    model = timm.create_model(f"local-dir:{tmp_path / 't'}", pretrained=True).eval()
    images = in_timm(photos, timm.data.resolve_model_data_config(model))
    with torch.no_grad():
        found = model.forward_features(images)[:, 1:].mean(dim=1)
    assert least_cosine(embedded(fit), found) > 0.999
    assert f"{'centre is cut' if fit == 'crop' else 'whole image'}" in (tmp_path / "t/README.md").read_text()


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_transformers_see_what_embed_sees(
    fit: Fit, photos: Path, weights: Path, embedded: Callable, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    export(str(weights), to="huggingface", out=tmp_path / "h", fit=fit)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "h")
    model = transformers.ViTModel.from_pretrained(tmp_path / "h", add_pooling_layer=False).eval()
    images = [Image.open(file) for file in files_of(photos)]
    pixels = torch.cat([processor(image, return_tensors="pt")["pixel_values"] for image in images])
    with torch.no_grad():
        found = model(pixels).last_hidden_state[:, 1:].mean(dim=1)
    assert least_cosine(embedded(fit), found) > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("fit", FITS)
def test_onnxruntime_sees_what_embed_sees(
    fit: Fit, photos: Path, weights: Path, embedded: Callable, tmp_path: Path
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export(str(weights), to="onnx", out=tmp_path / "e.onnx", fit=fit)
    session = runtime.InferenceSession(str(tmp_path / "e.onnx"))
    told = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
    found = session.run(["mean"], {"images": in_timm(photos, told).numpy()})[0]
    assert least_cosine(embedded(fit), torch.from_numpy(found)) > 0.999


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(32, 32), (48, 32), (32, 80)])
def test_pixels_are_timms(fit: Fit, size: tuple[int, int], photos: Path) -> None:
    """Pixel for pixel but for rounding, at sizes that are not square, too."""
    card = Card(
        method="m", recipe="r", branch="b", encoder=EncoderSettings(image_size=size, patch_size=8), mean=(0.5, 0.4, 0.3),
        std=(1, 1, 1), seed=0, steps=0, config_hash="", fit=fit,
    )  # fmt: skip
    theirs = (in_timm(photos, preprocessing_of(card)) + torch.tensor(card.mean)[:, None, None]) * 255
    for file, image in zip(files_of(photos), theirs, strict=True):
        ours = prepared(Picture("it", np.asarray(Image.open(file))), card.preprocessing)
        assert ours.shape == (3, *size)
        apart = np.abs(ours.astype(int) - image.numpy())
        assert apart.mean() < 0.7 and np.quantile(apart, 0.99) < 3, (file.name, apart.max())


def test_what_is_shown_lies_in_the_image() -> None:
    for height, width in SIZES:
        for size in ((64, 64), (32, 96)):
            for fit in FITS:
                where = shown(height, width, Preprocessing(size, fit=fit))
                assert where.crop.top >= 0 and where.crop.top + where.crop.height <= height + 1e-6
                assert where.crop.left >= 0 and where.crop.left + where.crop.width <= width + 1e-6
                for first, part, whole in zip(where.corner, where.size, size, strict=True):
                    assert first >= 0 and first + part <= whole
                if fit != "crop":
                    assert where.crop[:4] == (0, 0, height, width)  # nothing is cut off
                if fit != "squash":  # and nothing is stretched by more than rounding
                    aspect = (where.crop.height / where.size[0]) / (where.crop.width / where.size[1])
                    assert abs(aspect - 1) < 1 / min(where.size) + 1e-9


def test_what_lies_at_an_edge_is_lost_by_a_crop_alone() -> None:
    """Effusions at the edge were cut off, and nobody said so."""
    pixels = np.zeros((120, 160, 3), np.uint8)
    pixels[:, :15] = 255
    seen = {fit: prepared(Picture("it", pixels), Preprocessing((32, 32), (0.0,) * 3, fit=fit)).max() for fit in FITS}
    assert seen["crop"] < 5 and seen["squash"] > 250 and seen["pad"] > 250


def test_what_transformers_cannot_do_is_said() -> None:
    card = Card(
        method="m", recipe="r", branch="b", encoder=EncoderSettings(image_size=(32, 64), patch_size=8), mean=(0.5,) * 3,
        std=(1,) * 3, seed=0, steps=0, config_hash="",
    )  # fmt: skip
    with pytest.raises(WrongRequest, match=r"32×64.*--fit squash"):
        processor_of(card)
    with pytest.raises(WrongRequest, match="--fit crop or squash"):
        processor_of(card.model_copy(update={"fit": "pad"}))
    assert set(CROP_MODES) == set(FITS)


def test_results_say_how_images_were_shown(result_of: Callable[..., dict], otherview: Callable, tmp_path: Path) -> None:
    """Effusions at the lower edge were cut off, and nobody said so."""
    words = (
        "--train",
        "shapes:60",
        "--test",
        "shapes:40:test",
        "--weights",
        "random:siamese_im_cpu_adamw",
        "--threads",
        1,
    )
    found = result_of("evaluate", "knn", *words, "--fit", "squash", "--size", 40, 48, "--k", 5)
    assert (found["fit"], found["size"]) == ("squash", [40, 48])
    assert "fit squash" in found["scores"][0]["name"] and "size 40×48" in found["scores"][0]["name"]
    plain = result_of("evaluate", "knn", *words, "--k", 5)
    assert plain["fit"] == "crop" and "fit" not in plain["scores"][0]["name"]
    done = otherview("evaluate", "knn", *words, "--k", 5)
    assert "centre" in done.stdout and "32×32" in done.stdout
    wrong = otherview("evaluate", "knn", *words, "--size", 30, 30)
    assert wrong.returncode == 2 and "--size 30 30 is not divisible by the patch size 4" in wrong.stderr
    for name in ("linear", "few-shot", "linear-probe", "finetune", "robustness", "linear-segment"):
        assert "--fit" in otherview("evaluate", name, "--help").stdout
    assert len(COMMANDS) > 9


@pytest.mark.slow
def test_a_fit_carries_how_it_was_shown(result_of: Callable[..., dict], tmp_path: Path) -> None:
    result_of(
        "evaluate", "finetune", "--train", "shapes:80", "--test", "shapes:40:test", "--weights", "random:siamese_im_cpu_adamw",
        "--threads", 1, "--fit", "pad", "--size", 40, 48, "--epochs", 1, "--no-control", "--out", tmp_path, "--workers", 0,
    )  # fmt: skip
    card = read_encoder(tmp_path / "finetune/classifier.safetensors").card
    assert (card.fit, card.preprocessing.size, tuple(card.grid)) == ("pad", (40, 48), (10, 12))
    for kind in ("attention", "components"):  # whose patches are those of its images
        drawn = result_of(
            "show", kind, "--weights", tmp_path / "finetune/classifier.safetensors", "--data", "shapes:12", "--out",
            tmp_path / f"{kind}.png",
        )  # fmt: skip
        assert Path(drawn["picture"]).exists()
