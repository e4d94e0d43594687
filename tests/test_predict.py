"""What was fitted, on new images: the accuracy that the evaluation said, COCO's form, pictures; stopped and continued; ranks."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from otherview.data.shapes import Shapes
from otherview.data.spec import open_source
from otherview.dense.detector import Detector
from otherview.dense.fitted import FittedDetector, FittedSegmenter, save_detector, save_segmenter
from otherview.dense.inference import picture_name
from otherview.dense.upernet import UPerNet
from otherview.errors import WrongRequest
from otherview.evaluate import few_shot, finetune, linear_probe
from otherview.evaluation.class_predictions import predict_classes
from otherview.evaluation.parts import NewImages
from otherview.nn.encoder import Encoder
from otherview.recipes.dense import detect_cpu, segment_cpu
from otherview.recipes.registry import find
from otherview.runs.predict import find_fit, predict
from otherview.weights.names import card_of
from otherview.weights.pretrained import kind_of

WEIGHTS, TRAIN, TEST = "random:siamese_im_cpu_adamw", "shapes:80", "shapes:60:test"


def share_right(path: Path) -> float:
    """Of a table of predictions, whose images are those of TEST."""
    source = open_source(TEST)
    assert isinstance(source, Shapes)
    truth = {source.name(index): source.classes[source.label(index)] for index in range(len(source))}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"] for row in rows} == set(truth)
    return float(np.mean([truth[row["path"]] == row["label"] for row in rows]))


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A folder with a fine-tuned, a probed and a few-shot classifier, and what their evaluations said."""
    out = tmp_path_factory.mktemp("fits")
    common: dict[str, Any] = {"train": TRAIN, "test": TEST, "out": out, "device": "cpu", "threads": 1}
    said = {
        "finetune/classifier": finetune(WEIGHTS, epochs=2.0, control=False, **common),
        "linear_probe/classifier-0.1": linear_probe(WEIGHTS, epochs=3.0, rates=(0.1,), **common),
        "few_shot/classifier-3-shots-0": few_shot(WEIGHTS, shares=(), shots=(3,), draws=1, **common),
    }
    return out, {name: scores.scores[0].value for name, scores in said.items()}


@pytest.mark.parametrize(
    "name", ["finetune/classifier", "linear_probe/classifier-0.1", "few_shot/classifier-3-shots-0"]
)
def test_a_classifier_is_as_right_as_its_evaluation_said(
    fits: tuple[Path, dict[str, float]], name: str, tmp_path: Path
) -> None:
    folder, said = fits
    found = predict(str(folder / f"{name}.safetensors"), data=TEST, out=tmp_path / "c.csv", device="cpu")
    assert share_right(tmp_path / "c.csv") == pytest.approx(said[name])
    assert found["images"] == sum(found["classes"].values()) == 60 and found["left_out"] == 0
    assert not (tmp_path / "c.csv.parts").exists()
    predict(str(folder / f"{name}.safetensors"), data=TEST, out=tmp_path / "c.parquet", device="cpu")
    table = pq.read_table(tmp_path / "c.parquet")
    chances = np.stack([table[name].to_numpy() for name in table.column_names[3:]], axis=1)
    assert np.allclose(chances.sum(axis=1), 1) and np.allclose(chances.max(axis=1), table["probability"].to_numpy())
    with (tmp_path / "c.csv").open(newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == table["label"].to_pylist()


def test_parts_that_are_there_are_not_predicted_again(
    fits: tuple[Path, dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from otherview.evaluation import class_predictions

    monkeypatch.setattr(class_predictions, "PART", 25)
    model, source = fits[0] / "finetune/classifier.safetensors", open_source(TEST)
    calls, extract = [], class_predictions.extract_all

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(len(options["indices"]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return extract(*args, **options)

    monkeypatch.setattr(class_predictions, "extract_all", counted)
    new = NewImages(source, tmp_path / "c.csv", {}, torch.device("cpu"), workers=0)
    with pytest.raises(KeyboardInterrupt):
        predict_classes(model, new)
    assert calls == [25, 25, 10]
    predict_classes(model, new)
    assert calls == [25, 25, 10, 10] and share_right(tmp_path / "c.csv") == pytest.approx(
        fits[1]["finetune/classifier"]
    )


def dense_models(folder: Path) -> dict[str, Path]:
    """Detector and segmenter that know nothing."""
    config = find("siamese_im_cpu_adamw").make()
    encoder = config.encoder.model_copy(update={"image_size": (64, 64), "patch_size": 8})
    card = card_of(config.model_copy(update={"encoder": encoder}), method="untrained", branch="encoder", steps=0)
    source = open_source("shapes:4@64")
    assert isinstance(source, Shapes)
    boxes = detect_cpu()
    boxes = boxes.model_copy(update={"boxes": boxes.boxes.model_copy(update={"least_score": 0.0})})
    detector = Detector(Encoder(encoder, seed=0), boxes, source.categories, seed=0)
    net = UPerNet(Encoder(encoder, seed=0), segment_cpu(), classes=3, seed=0)
    save_detector(folder / "detector.safetensors", FittedDetector(detector, boxes, card, list(source.categories)))
    save_segmenter(
        folder / "segmenter.safetensors", FittedSegmenter(net, segment_cpu(), card, ["ground", "cat", "dog"])
    )
    return {kind: folder / f"{kind}.safetensors" for kind in ("detector", "segmenter")}


def plain_images(folder: Path) -> Path:
    """A folder without any annotation, with a file that is no image."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(rng.integers(0, 255, (40 + 8 * number, 70, 3), np.uint8)).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_a_detector_says_what_is_where_in_images_without_annotations(tmp_path: Path) -> None:
    model, data = dense_models(tmp_path)["detector"], plain_images(tmp_path / "new")
    found = predict(str(model), data=str(data), out=tmp_path / "boxes", pictures=2, device="cpu")
    assert found["kind"] == "detector" and found["images"] == 5 and found["left_out"] == 1
    coco = json.loads((tmp_path / "boxes/predictions.json").read_text())
    assert {(one["file_name"], one["height"], one["width"]) for one in coco["images"]} == {
        (f"{number}.png", 40 + 8 * number, 70) for number in range(5)
    }
    assert {one["image_id"] for one in coco["annotations"]} <= {one["id"] for one in coco["images"]}
    assert len(coco["annotations"]) == found["detections"] > 0 and len(coco["categories"]) == 8
    assert len([*(tmp_path / "boxes/pictures").glob("*.png")]) == 2
    again = predict(
        str(model), data=f"coco:{tmp_path}/boxes/predictions.json@{data}", out=tmp_path / "b2", device="cpu"
    )
    second = json.loads((tmp_path / "b2/predictions.json").read_text())  # its own output is a data set, with its ids
    assert again["images"] == 5 and second["images"] == coco["images"]


def test_a_segmenter_draws_classes_and_continues(tmp_path: Path) -> None:
    model, data = dense_models(tmp_path)["segmenter"], plain_images(tmp_path / "new")
    found = predict(str(model), data=str(data), out=tmp_path / "pixels", device="cpu")
    pictures = sorted((tmp_path / "pixels/classes").glob("*.png"))
    assert found["images"] == len(pictures) == 5 and (tmp_path / "pixels/pictures.png").exists()
    assert json.loads((tmp_path / "pixels/classes.json").read_text()) == {"0": "ground", "1": "cat", "2": "dog"}
    first = np.asarray(Image.open(pictures[0]))
    assert first.shape == (40, 70) and first.max() <= 2
    about = json.loads((tmp_path / "pixels/about.json").read_text())
    (tmp_path / "pixels/about.json").write_text(
        json.dumps({k: v for k, v in about.items() if k != "finished"}, sort_keys=True)
    )
    pictures[1].unlink()  # as if it had been stopped
    kept = pictures[0].stat().st_mtime_ns
    predict(str(model), data=str(data), out=tmp_path / "pixels", device="cpu")
    assert pictures[1].exists() and pictures[0].stat().st_mtime_ns == kept
    predict(str(model), data=str(data), out=tmp_path / "pixels", device="cpu")  # finished: made anew
    assert pictures[0].stat().st_mtime_ns != kept
    (tmp_path / "new/4.png").unlink()  # another request: nothing of the one before stays
    predict(str(model), data=str(data), out=tmp_path / "pixels", device="cpu")
    assert len([*(tmp_path / "pixels/classes").glob("*.png")]) == 4


def test_pictures_have_names_that_a_file_system_takes() -> None:
    for name in ("", ".", "..", "a/" * 200 + "b.png", "ü" * 300, "../../etc/passwd", "a b\nc.tar.gz"):
        found = picture_name(7, name)
        assert (
            found.startswith("0000007-") and found.endswith(".png") and "/" not in found and len(found.encode()) < 255
        )


def test_what_cannot_be_asked_is_said(fits: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    folder, _ = fits
    with pytest.raises(WrongRequest, match="holds several fits: give one of"):
        predict(str(folder), data=TEST, out=tmp_path / "c.csv")
    assert find_fit(str(folder / "finetune")) == folder / "finetune/classifier.safetensors"
    with pytest.raises(WrongRequest, match="holds no fit: `otherview evaluate finetune`"):
        predict(str(tmp_path), data=TEST, out=tmp_path / "c.csv")
    with pytest.raises(WrongRequest, match="does not exist"):
        predict(str(tmp_path / "nowhere"), data=TEST, out=tmp_path / "c.csv")
    with pytest.raises(WrongRequest, match=r"must end in \.csv or \.parquet"):
        predict(str(folder / "finetune"), data=TEST, out=tmp_path / "folder")
    with pytest.raises(WrongRequest, match="holds no fitted head"):
        predict(str(find_fit_reference()), data=TEST, out=tmp_path / "c.csv")
    models = dense_models(tmp_path)
    assert kind_of(models["detector"]) == "detector" and kind_of(models["segmenter"]) == "segmenter"
    with pytest.raises(WrongRequest, match="must be a folder: a detector writes several files"):
        predict(str(models["detector"]), data=TEST, out=tmp_path / "c.csv")


def find_fit_reference() -> Path:
    from otherview.weights.names import resolved

    return resolved("reference:demo") / "encoder.safetensors"


@pytest.mark.slow
def test_two_processes_predict_as_one_does_ranks(fits: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    models = dense_models(tmp_path) | {"classifier": fits[0] / "finetune/classifier.safetensors"}
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "otherview")
    for kind, model in models.items():
        for name, words in (("one", ("-m", "otherview")), ("two", launcher)):
            out = tmp_path / name / (f"{kind}.csv" if kind == "classifier" else kind)
            out.parent.mkdir(exist_ok=True)
            command = [sys.executable, *words, "predict", "--weights", model, "--data", "shapes:21:test@64", "--out", out,
                       "--device", "cpu", "--threads", "1"]  # fmt: skip
            done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
    one, two = ((tmp_path / name / "classifier.csv").read_text() for name in ("one", "two"))
    assert one == two
    boxes = [json.loads((tmp_path / name / "detector/predictions.json").read_text()) for name in ("one", "two")]
    assert boxes[0]["images"] == boxes[1]["images"] and len(boxes[0]["annotations"]) == len(boxes[1]["annotations"])
    pixels = [sorted((tmp_path / name / "segmenter/classes").glob("*.png")) for name in ("one", "two")]
    assert [a.read_bytes() for a in pixels[0]] == [b.read_bytes() for b in pixels[1]] and len(pixels[0]) == 21
