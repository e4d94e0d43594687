"""UPerNet and its sliding window against plain arithmetic; labels of pixels by their rules; the verb end to end."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from otherview.config import to_yaml
from otherview.data.image import Preprocessing
from otherview.data.loader import KINDS
from otherview.data.picture import picture_of
from otherview.data.spec import open_source
from otherview.data.workers import joining
from otherview.dense.fit_models import load_all
from otherview.dense.inference import Prediction, scores_of, starts
from otherview.dense.samples import PixelViews, classes_of, numbered, shown_size
from otherview.dense.segmentation import Segment
from otherview.dense.settings import SegmentConfig, SegmentSettings
from otherview.dense.upernet import RelativePositions, UPerNet
from otherview.errors import BrokenImage
from otherview.evaluation.linear_segment import IGNORED, Segmented, pixel_confusion
from otherview.geometry import PatchGrid
from otherview.nn.encoder import Encoder
from otherview.nn.settings import EncoderSettings
from otherview.recipes.dense import segment_cpu, upernet_b_ade20k
from otherview.recipes.registry import find
from otherview.weights.names import card_of
from otherview.weights.pretrained import PretrainedEncoder, save_encoder, weights_fingerprint

TINY = EncoderSettings(image_size=(32, 32), patch_size=8, width=32, depth=4, heads=2)


def config(**changes: object) -> SegmentConfig:
    small = segment_cpu().model_dump() | {"channels": 16, "auxiliary_channels": 8, "dropout": 0.0}
    return SegmentConfig.model_validate(small | changes)


def learner(settings: SegmentConfig, classes: int = 9) -> Segment:
    net = UPerNet(Encoder(TINY), settings, classes=classes, seed=0)
    return Segment(
        net, PixelViews(settings), Preprocessing((32, 32), (0.5,) * 3, (0.25,) * 3), settings, seed=0
    ).train()


def test_every_weight_learns_and_the_loss_is_the_mean_over_known_pixels() -> None:
    one = learner(config())
    source = open_source("shapes:8@64")
    views = joining(KINDS)([one.views(picture_of(source, index), Random(index)) for index in range(4)])
    views.labels[:, :, :20] = IGNORED
    one.prepare([views], 0.5)
    step = one(views, None, 0)
    step.total.backward()
    assert [name for name, value in one.named_parameters() if value.grad is None] == []
    assert float(step.total.detach()) == pytest.approx(float(step.terms["main"]) + 0.4 * float(step.terms["auxiliary"]))
    one.prepare([views], 0.5)
    images = (views.pixels.float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        scores = F.interpolate(one.net(images)[0], (64, 64), mode="bilinear", align_corners=False)
        expected = F.cross_entropy(scores, views.labels.long(), ignore_index=IGNORED)
    assert float(step.terms["main"]) == pytest.approx(float(expected), rel=1e-4)


def test_a_batch_where_nothing_counts_is_no_nan() -> None:
    one = learner(config())
    views = joining(KINDS)([one.views(picture_of(open_source("shapes:1@64"), 0), Random(0))] * 2)
    one.prepare([views], 0.0)
    assert math.isfinite(
        float(one(views._replace(labels=torch.full_like(views.labels, IGNORED)), None, 0).total.detach())
    )


def test_relative_positions_change_nothing_at_the_start_and_are_shared_by_offset() -> None:
    with_them, without = (
        UPerNet(Encoder(TINY), config(relative_positions=on), classes=3, seed=0).eval() for on in (True, False)
    )
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(with_them(images)[0], without(images)[0], rtol=1e-4, atol=1e-5)
    bias = RelativePositions(PatchGrid(3, 4), heads=2, prefix=1)
    with torch.no_grad():
        bias.table.copy_(torch.arange(bias.table.numel()).view_as(bias.table).float())
    found = bias()[0, 0]
    for one in range(12):
        for two in range(12):
            offset = (one // 4 - two // 4, one % 4 - two % 4)
            same = [
                float(found[1 + a, 1 + b])
                for a in range(12)
                for b in range(12)
                if (a // 4 - b // 4, a % 4 - b % 4) == offset
            ]
            assert set(same) == {float(found[1 + one, 1 + two])}
    assert len(torch.unique(found)) == 5 * 7 + 3


@pytest.mark.parametrize("length", [5, 8, 9, 13, 20, 21])
def test_windows_see_every_pixel_and_no_further(length: int) -> None:
    begin = starts(length, size=8, stride=5)
    assert {place for start in begin for place in range(start, start + 8)} >= set(range(length))
    assert max(begin) + 8 <= max(8, length) and len(begin) == max(0, math.ceil((length - 8) / 5)) + 1


def test_windows_are_averaged() -> None:
    net = UPerNet(Encoder(TINY), config(), classes=3, seed=0).eval()
    image = torch.randn(3, 80, 100, generator=torch.Generator().manual_seed(0))
    total, count = torch.zeros(3, 80, 100), torch.zeros(80, 100)
    with torch.no_grad():
        for top in (0, 16):
            for left in (0, 36):
                window = image[None, :, top : top + 64, left : left + 64]
                total[:, top : top + 64, left : left + 64] += F.interpolate(
                    net(window)[0], (64, 64), mode="bilinear", align_corners=False
                )[0]
                count[top : top + 64, left : left + 64] += 1
    torch.testing.assert_close(scores_of(net, image, size=64, stride=48), total / count)
    assert scores_of(net, image[:, :30, :50], size=64, stride=48).shape == (3, 30, 50)


def test_labels_by_their_rules() -> None:
    levels = np.array([[0, 1], [2, 255]], np.uint8)
    assert numbered(levels, zero_is_ignored=False).tolist() == [[0, 1], [2, 255]]
    assert numbered(levels, zero_is_ignored=True).tolist() == [[255, 0], [1, 255]]
    with pytest.raises(BrokenImage, match="reach 300"):
        numbered(np.array([[300]], np.uint16), zero_is_ignored=False)
    with pytest.raises(BrokenImage, match="reach class 7, where there are 5"):
        pixel_confusion(np.array([[7]], np.uint8), np.array([[1]], np.uint8), classes=5)


def test_labels_of_another_size_are_a_broken_image(tmp_path: Path) -> None:
    for kind, size in (("images", (20, 16)), ("labels", (20, 12))):
        (tmp_path / kind).mkdir()
        Image.new("L", size, 1).save(tmp_path / kind / "a.png")
    source = open_source(f"pixels:{tmp_path / 'images'}@{tmp_path / 'labels'}")
    with pytest.raises(BrokenImage, match="its labels are of 20×12 pixels, itself of 20×16"):
        classes_of(picture_of(source, 0), zero_is_ignored=False)


def test_miou_equals_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 4, (6, 9, 7)).astype(np.uint8), rng.integers(0, 4, (6, 9, 7)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = IGNORED
    truth[truth == 3] = 2  # a class that never occurs is left out of the mean, though it is predicted
    found = Segmented.of([pixel_confusion(t, g, classes=4) for t, g in zip(truth, guess, strict=True)])
    shares = []
    for kind in range(3):
        both = either = 0
        for t, g in zip(truth.ravel().tolist(), guess.ravel().tolist(), strict=True):
            if t != IGNORED:
                both += t == kind and g == kind
                either += t == kind or g == kind
        shares.append(both / either)
    assert found.miou == pytest.approx(sum(shares) / 3, abs=1e-12)


def test_crops_avoid_a_single_class() -> None:
    """Half the image is one class without end: crops that show only that are drawn again."""
    labels = np.zeros((64, 128), np.uint8)
    labels[:, 96:] = np.arange(64)[:, None] % 2 + 1
    views = PixelViews(config(size=32))
    corners = [views._corner(labels, Random(seed)) for seed in range(60)]
    assert np.mean([left > 64 for _, left in corners]) > 0.9


def test_views_move_labels_with_pixels() -> None:
    source = open_source("shapes:20@64")
    views = PixelViews(
        config(jitter=(0.6, 2.0), colour={"jitter_probability": 0, "gray_probability": 0, "blur_probability": 0})
    )
    for index in range(10):
        view = views(picture_of(source, index), Random(index))
        known = view.labels != IGNORED
        bright = view.pixels.float().mean(dim=0) > 150
        assert ((bright == (view.labels > 0)) | ~known).float().mean() > 0.97


def test_sizes_of_images_that_are_judged() -> None:
    ade = upernet_b_ade20k()
    shapes = [np.zeros((side, 1000, 3), np.uint8) for side in (500, 200)]
    from otherview.data.picture import Picture

    assert [shown_size(Picture("x", pixels), ade) for pixels in shapes] == [(512, 1024), (410, 2048)]
    assert ade.training.lr_per_256 * ade.batch / 256 == pytest.approx(1e-4)


def test_names_of_predictions_stay_in_their_folder(tmp_path: Path) -> None:
    blank = np.zeros((2, 2), np.uint8)
    for name in ("../../up.jpg", "/abs/olute.png", "deep/a.jpg", "...", "shapes:test[3]"):
        Prediction(7, name, blank, blank, blank).save(tmp_path / "p")
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        "0000007-....png", "0000007-.._.._up.png", "0000007-_abs_olute.png", "0000007-deep_a.png", "0000007-shapes_test_3_.png",
    ]  # fmt: skip
    assert not list(tmp_path.glob("*.png"))


def test_the_weights_that_a_run_started_from_are_a_control(tmp_path: Path) -> None:
    """As in every other evaluation; a checkpoint's are those of its run."""
    settings = find("siamese_im_cpu_adamw").make()
    for branch, seed in (("encoder", 1), ("start", 2)):
        card = card_of(settings, method="siamese_im", branch=branch, steps=9)
        save_encoder(tmp_path / f"{branch}.safetensors", Encoder(settings.encoder, seed=seed), card)
    (tmp_path / "config.yaml").write_text(to_yaml(settings))
    shapes = open_source("shapes:4@32")

    def loaded(**asked: bool) -> dict[str, PretrainedEncoder]:
        settings = SegmentSettings(weights=str(tmp_path), train="shapes:4@32", test="shapes:4@32", threads=1, **asked)
        return load_all(settings, [shapes, shapes])

    assert list(loaded(control=False)) == ["encoder"] and list(loaded()) == ["encoder", "start", "untrained"]
    digests = {name: weights_fingerprint(one.encoder) for name, one in loaded().items()}
    assert (
        digests["start"] == weights_fingerprint(Encoder(settings.encoder, seed=2)) and len(set(digests.values())) == 3
    )


@pytest.mark.parametrize("flag", ["--training.encoder-waits", "--training.encoder-lr", "--training.l2-to-start"])
def test_settings_of_pre_training_are_refused(otherview: Callable, flag: str) -> None:
    words = (
        "--weights",
        "random:siamese_im_cpu_adamw",
        "--out",
        "o",
        "--train",
        "shapes:9@64",
        "--test",
        "shapes:9:test@64",
    )
    for verb in ("detect", "segment"):
        done = otherview("evaluate", verb, *words, flag, "0.25")
        assert done.returncode == 2 and "is for pretrain --init only" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["detect", "segment"])
def test_the_commands_fit_judge_and_keep(otherview: Callable, tmp_path: Path, verb: str) -> None:
    words = ["evaluate", verb, "--weights", "random:siamese_im_cpu_adamw", "--out", "o", "--recipe", f"{verb}_cpu"]
    words += ["--train", "shapes:24@64", "--test", "shapes:12:test@64", "--batch", "4", "--pictures", "2", "--json"]
    done = otherview(*words, OTHERVIEW_SHORTEN="1")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    names = {score["name"] for score in result["scores"]}
    assert names >= (
        {"detect_encoder_box_AP", "detect_encoder_mask_AP"} if verb == "detect" else {"segment_encoder_miou"}
    )
    assert {score["name"].split("_")[1] for score in result["control"]} == {"untrained"}
    # The encoder is the untrained one itself: with the same seed both fits are the same, bit for bit.
    mine = {score["name"].replace("encoder", "untrained"): score["value"] for score in result["scores"]}
    assert mine == {score["name"]: score["value"] for score in result["control"]}
    folder = tmp_path / f"o/{verb}"
    assert (folder / "predictions.png").stat().st_size > 10_000
    pictures = len(list((folder / "predictions").glob("*.png")))
    assert pictures == (12 if verb == "segment" else 0)
    again = otherview(*words, OTHERVIEW_SHORTEN="1")
    assert json.loads(again.stdout)["scores"] == result["scores"]  # nothing is fitted twice
    refused = otherview(*words, "--layer-decay", "0.5", OTHERVIEW_SHORTEN="1")
    before = {"detect": "layer_decay 0.7,", "segment": "layer_decay 0.65,"}[verb]
    assert refused.returncode == 2 and before in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("detect", "--recipe", "siamese_im_cpu_adamw"), "is a recipe of `otherview pretrain`"),
        (("detect", "--recipe", "segment_cpu"), "is a recipe of `otherview evaluate segment`"),
        (("detect", "--recipe", "detect_cpu", "--size", "60"), "--size 64"),
        (("detect", "--recipe", "detect_cpu", "--windows.global-blocks", "9"), "9: this encoder has blocks"),
        (("segment", "--recipe", "segment_cpu", "--taps", "1", "2", "3", "9"), "four blocks of this encoder"),
        (("segment", "--recipe", "segment_cpu", "--stride", "99"), "stride 99 leaves gaps"),
    ],
)
def test_wrong_requests(otherview: Callable, words: tuple[str, ...], said: str) -> None:
    rest = (
        "--weights",
        "random:siamese_im_cpu_adamw",
        "--train",
        "shapes:9@64",
        "--test",
        "shapes:9:test@64",
        "--out",
        "o",
    )
    done = otherview("evaluate", *words, *rest)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.slow
def test_images_that_say_nothing_of_places_are_refused(otherview: Callable, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    for verb, said in (("detect", "does not say what is where"), ("segment", "has no pixel labels")):
        words = (
            "--weights",
            "random:siamese_im_cpu_adamw",
            "--train",
            tmp_path,
            "--test",
            "shapes:9:test@64",
            "--out",
            "o",
        )
        done = otherview("evaluate", verb, "--recipe", f"{verb}_cpu", *words)
        assert done.returncode == 2 and said in done.stderr


def test_every_weight_learns_whatever_the_encoder_has_at_its_end() -> None:
    """A final norm that nobody uses, blocks that nobody looks at: frozen, or processes wait for their gradients."""
    settings = TINY.model_copy(update={"final_norm": True})
    net = UPerNet(Encoder(settings), config(taps=(1, 2, 2, 3)), classes=3, seed=0).train()
    main, side = net(torch.randn(2, 3, 64, 64))
    assert side is not None
    (main.sum() + side.sum()).backward()
    assert [name for name, value in net.named_parameters() if value.requires_grad and value.grad is None] == []
    assert len(net.relative) == 3 and not any(value.requires_grad for value in net.backbone.vit.blocks[3].parameters())


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["detect", "segment"])
def test_two_processes_fit_and_one_of_them_writes_ranks(verb: str, tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "otherview")
    words = (
        "evaluate",
        verb,
        "--recipe",
        f"{verb}_cpu",
        "--weights",
        "random:mae_cpu",
        "--batch",
        "4",
        "--no-control",
    )
    data = (
        "--train",
        "shapes:24@64",
        "--test",
        "shapes:13:test@64",
        "--out",
        str(tmp_path),
        "--json",
        "--threads",
        "1",
    )
    environment = {**os.environ, "OTHERVIEW_SHORTEN": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, *words, *data]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scores"][0]["n"] == 13  # every test image once, whichever process saw it
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 1
    if verb == "segment":
        assert len(list((tmp_path / "segment/predictions").glob("*.png"))) == 13
        again = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
        assert json.loads(again.stdout)["scores"] == json.loads(done.stdout)["scores"]  # from the checkpoint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"), [(("--classes", "300"), "--classes 300"), (("--classes", "5"), "give --classes 9")]
)
def test_labels_and_classes_have_to_fit(otherview: Callable, words: tuple[str, ...], said: str) -> None:
    rest = (
        "--weights",
        "random:siamese_im_cpu_adamw",
        "--train",
        "shapes:90@64",
        "--test",
        "shapes:9:test@64",
        "--out",
        "o",
    )
    done = otherview("evaluate", "segment", "--recipe", "segment_cpu", *rest, *words)
    assert done.returncode == 2 and said in done.stderr, done.stderr
