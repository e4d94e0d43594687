"""Fine-tuning: the layers' rates against timm's, draws that repeat, the classifier that travels, and the verb."""

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from otherview.data.picture import picture_of
from otherview.data.spec import open_source
from otherview.errors import WrongRequest
from otherview.evaluation.classifier import FineTune, layer_of, start_linearly
from otherview.evaluation.fit_defaults import finetune_recipe, in_words
from otherview.evaluation.settings import FinetuneRecipe, FinetuneSettings, Regularisation
from otherview.files import json_lines
from otherview.geometry import PatchGrid
from otherview.nn.encoder import Encoder
from otherview.nn.heads import ClassHead
from otherview.nn.settings import EncoderSettings
from otherview.seeding import sample_rng
from otherview.training.fit import unmoved
from otherview.training.optim import rate_at
from otherview.training.settings import TrainingSettings
from otherview.views.settings import PLAIN, MaskSettings, ViewSettings
from otherview.views.transforms import AugmentedViews, LabelledView, LabelledViews, SingleView, drawn_from
from otherview.views.view import View, normalise
from otherview.weights.names import load_encoder
from otherview.weights.pretrained import load_classifier, save_classifier

SMALL = EncoderSettings(image_size=(32, 32), patch_size=8, width=32, depth=4, heads=2)
VIEW = SingleView(ViewSettings(online_colour=PLAIN, mask=MaskSettings(kind="none")), (32, 32), PatchGrid(4, 4))
NOTHING = Regularisation(drop_path=0.0, mixup=0.0, cutmix=0.0, erasing=0.0)


PUBLISHED = Regularisation()


def learner(by: Regularisation = PUBLISHED, classes: int = 7) -> FineTune:
    head = ClassHead(32, classes)
    torch.nn.init.normal_(head[1].weight)  # pyright: ignore
    return FineTune(encoder=Encoder(SMALL, seed=0), head=head, views=LabelledViews(VIEW), seed=0, by=by).train()


def some_batch(n: int = 16) -> LabelledView:
    pixels = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return LabelledView(View(pixels, None, torch.zeros(n, 16, dtype=torch.bool)), torch.arange(n) % 7)  # pyright: ignore


def test_rates_by_layer_are_timms() -> None:
    from timm.models.vision_transformer import VisionTransformer
    from timm.optim import param_groups_layer_decay  # pyright: ignore[reportPrivateImportUsage]

    tuned = learner()
    twin = VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=4,
        num_heads=2,
        num_classes=7,
        global_pool="avg",
        pos_embed="none",
    )
    theirs = param_groups_layer_decay(twin, weight_decay=0.05, layer_decay=0.65)
    known = {id(p): group for group in theirs for p in group["params"]}
    ours = {id(p): group for group in tuned.parameter_groups(0.05) for p in group["params"]}
    assert len(ours) == len(list(tuned.parameters()))
    mine = dict(tuned.encoder.vit.named_parameters()) | {"head.weight": tuned.head[1].weight}  # pyright: ignore
    shared = {name: value for name, value in twin.named_parameters() if name in mine}
    assert len(shared) == len(mine)
    for name, value in shared.items():
        assert ours[id(mine[name])]["lr_scale"] == pytest.approx(known[id(value)]["lr_scale"]), name
        if not name.endswith("_token"):  # ours never decays tokens, as the protocol says
            assert ours[id(mine[name])]["weight_decay"] == known[id(value)]["weight_decay"], name
    assert ours[id(mine["cls_token"])]["weight_decay"] == 0
    assert [layer_of(f"blocks.{k}.norm1.weight", last=5) for k in range(4)] == [1, 2, 3, 4]


def test_positions_stay_fixed() -> None:
    settings = SMALL.model_copy(update={"positions": "learned"})
    head = ClassHead(settings.width, 7)
    tuned = FineTune(encoder=Encoder(settings), head=head, views=LabelledViews(VIEW), seed=0, by=NOTHING)
    fixed = [name for name, value in tuned.named_parameters() if not value.requires_grad]
    assert fixed == ["encoder.vit.pos_embed"]


def test_what_is_drawn_depends_on_seed_and_progress_alone() -> None:
    tuned, losses = learner(), []
    for progress in (0.25, 0.5, 0.25):
        torch.rand(3), random.random(), np.random.rand()
        tuned.prepare([], progress)
        losses.append(tuned(some_batch(), None, 0).total.item())
    assert losses[0] == losses[2] != losses[1]


def test_without_regularisation_it_is_smoothed_cross_entropy() -> None:
    tuned, batch = learner(NOTHING), some_batch()
    tuned.prepare([], 0.0)
    scores = tuned.classify(normalise(batch.view.pixels, VIEW.settings.mean, VIEW.settings.std))
    wanted = F.cross_entropy(scores, torch.as_tensor(batch.label), label_smoothing=0.1)
    found = tuned(batch, None, 0)
    torch.testing.assert_close(found.total, wanted)
    assert found.terms["accuracy"] == (scores.argmax(dim=1) == torch.as_tensor(batch.label)).float().mean()


@pytest.mark.parametrize("change", ["drop_path", "mixup", "cutmix", "erasing"])
def test_each_regularisation_changes_the_loss_and_none_the_judgement(change: str) -> None:
    by = Regularisation(**{**vars(NOTHING), change: 0.9})
    plain, tuned = learner(NOTHING), learner(by)
    tuned.load_state_dict(plain.state_dict())
    for one in (plain, tuned):
        one.prepare([], 0.3)
    assert plain(some_batch(), None, 0).total != tuned(some_batch(), None, 0).total
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(plain.eval().classify(images), tuned.eval().classify(images))


def test_augmented_views_are_a_function_of_the_sample() -> None:
    image, make = picture_of(open_source("shapes:1"), 0), AugmentedViews(VIEW)
    one, two, other = (make(image, sample_rng(seed=0, epoch=epoch, index=0)).view.pixels for epoch in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert one.shape == (3, 32, 32) and one.dtype == torch.uint8


def test_every_strength_that_is_drawn_is_one_that_pillow_takes() -> None:
    """timm asks for 0 bits of a posterised image where noise makes it strongest, once in some 300 images."""
    image, make = picture_of(open_source("shapes:1@16"), 0), AugmentedViews(VIEW)
    for index in range(1500):
        make(image, sample_rng(seed=0, epoch=0, index=index))


def test_global_generators_are_lent_and_given_back() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()
    drawn = []
    for _ in range(2):
        with drawn_from(random.Random(7)):
            drawn.append((random.random(), np.random.rand()))
    assert drawn[0] == drawn[1]
    assert before == (random.getstate(), np.random.get_state()[1].tolist())


def test_the_rate_ends_at_the_least() -> None:
    settings = TrainingSettings(lr_per_256=1e-3, min_lr=1e-5, warmup=0.1)
    assert rate_at(settings, 512, 0.0) == 0 and rate_at(settings, 512, 0.1) == pytest.approx(2e-3)
    assert rate_at(settings, 512, 1.0) == pytest.approx(1e-5)
    assert rate_at(settings, 512, 0.55) == pytest.approx(1e-5 + (2e-3 - 1e-5) / 2)


def test_a_classifier_travels_and_holds_an_encoder_but_an_encoder_is_none(tmp_path: Path) -> None:
    tuned, card = learner(classes=3).eval(), load_encoder("random:siamese_im_cpu_adamw").card
    card = card.model_copy(update={"encoder": SMALL})
    save_classifier(tmp_path / "c.safetensors", tuned.encoder, tuned.head, card, ["cat", "dog", "owl"])
    loaded = load_classifier(tmp_path / "c.safetensors")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.head(loaded.encoder(images).mean), tuned.classify(images))
    assert loaded.classes == ["cat", "dog", "owl"] and loaded.card.encoder == SMALL
    bare = load_encoder(str(tmp_path / "c.safetensors"))  # as any verb's --weights: the head is left
    with torch.no_grad():
        assert torch.equal(bare.encoder(images).patches, tuned.encoder(images).patches)
    from otherview.weights.pretrained import save_encoder

    save_encoder(tmp_path / "e.safetensors", tuned.encoder, card)
    with pytest.raises(WrongRequest, match="is no classifier, it has no head"):
        load_classifier(tmp_path / "e.safetensors")


def settings_of(**asked: object) -> FinetuneSettings:
    return FinetuneSettings("runs/first", train="a", test="b", **asked)  # pyright: ignore[reportArgumentType]


def test_what_is_chosen_by_the_number_of_images() -> None:
    few = finetune_recipe(settings_of(), images=90, encoder=SMALL, unit=2)
    assert (few.epochs, few.batch, few.head, few.mixup) == (100, 30, "linear", 0)
    more = finetune_recipe(settings_of(), images=1000, encoder=SMALL, unit=2)
    assert more.batch == 32 and 300 < more.epochs * 1000 / 32 < 2000
    wide = finetune_recipe(settings_of(), images=1000, encoder=SMALL.model_copy(update={"width": 768}), unit=2)
    assert more.rate == pytest.approx(wide.rate * 24, rel=0.02)
    assert wide.rate * 32 / 256 == pytest.approx(1e-3 * (32 / 1024) ** 0.5, rel=0.02)  # by the root of the batch
    many = finetune_recipe(settings_of(), images=1_281_167, encoder=SMALL, unit=2)
    paper = finetune_recipe(settings_of(protocol="paper"), images=1_281_167, encoder=SMALL, unit=2)
    assert many == paper == FinetuneRecipe()
    few = finetune_recipe(settings_of(protocol="paper"), images=300, encoder=SMALL, unit=2)
    assert few == FinetuneRecipe(batch=30)
    asked = finetune_recipe(settings_of(rate=0.5, mixup=0.3, batch=10, crop_pct=0.5), images=300, encoder=SMALL, unit=2)
    assert (asked.rate, asked.mixup, asked.batch, asked.crop_pct, asked.head) == (0.5, 0.3, 10, 0.5, "linear")
    assert "--protocol paper" in in_words(few, images=90, paper=False) and "--protocol" not in in_words(
        few, images=90, paper=True
    )


@pytest.mark.parametrize(("images", "unit"), [(4, 2), (5, 4), (90, 8), (100, 64)])
def test_a_chosen_batch_can_be_shared_out(images: int, unit: int) -> None:
    batch = finetune_recipe(settings_of(), images=images, encoder=SMALL, unit=unit).batch
    assert batch % unit == 0 and batch >= unit


def test_a_head_starts_where_logistic_regression_ends() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    features = torch.randn(120, 32, generator=rng) + F.one_hot(labels, 32) * 2.0
    head = ClassHead(32, 3)
    start_linearly(head, features, labels)
    normed = F.layer_norm(features, (32,), eps=1e-6)
    scaled = StandardScaler().fit(normed.numpy())
    scaled.scale_ *= (120 / 119) ** 0.5  # ours divides by N - 1
    theirs = LogisticRegression(tol=1e-8, max_iter=1000).fit(scaled.transform(normed.numpy()), labels.numpy())
    found = head(features).softmax(dim=1).detach().numpy()
    assert np.abs(found - theirs.predict_proba(scaled.transform(normed.numpy()))).max() < 2e-3


def test_a_loss_that_has_not_moved_is_said(tmp_path: Path) -> None:
    def log(*losses: float) -> None:
        lines = [f'{{"step": {step}, "loss": {loss}}}' for step, loss in enumerate(losses)]
        (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")

    log(*[1.0986] * 5, *[1.0984] * 5)
    assert (unmoved(tmp_path) or "").startswith("the loss has not moved: 1.0986 → 1.0984")
    log(*[1.0986] * 5, *[1.08] * 5)
    assert unmoved(tmp_path) is None
    log(*[0.9] * 5, *[3.9] * 5)
    assert (unmoved(tmp_path) or "").startswith("the loss has risen: 0.9000 → 3.9000; use a lower rate")
    log(1.0, 1.0)
    assert unmoved(tmp_path) is None


WORDS = (
    "evaluate", "finetune", "--weights", "random:siamese_im_cpu_adamw", "--train", "shapes:200", "--test", "shapes:80:test",
    "--protocol", "paper", "--crop-pct", "1", "--epochs", "5", "--threads", "1", "--device", "cpu",
)  # fmt: skip


@pytest.mark.slow
def test_a_killed_fine_tuning_ends_as_if_it_had_not_been_kill(
    tmp_path: Path, result_of_process: Callable, otherview: Callable
) -> None:
    whole = result_of_process(*WORDS, "--out", tmp_path / "whole")
    names = [score["name"] for score in (*whole["scores"], *whole["control"])]
    assert names == [
        f"finetune_{name}{top} (protocol paper, epochs 5, crop pct 1)"
        for name in ("encoder", "frozen", "untrained")
        for top in ("", "_top5")
    ]
    assert [s["value"] for s in whole["scores"]] == [s["value"] for s in whole["control"][2:]]  # it is its own control
    command = [sys.executable, "-m", "otherview", *WORDS, "--no-control", "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "killed/finetune/checkpoints/last.pt").exists():
        pass
    process.kill()
    assert process.wait() == -signal.SIGKILL
    killed = result_of_process(*WORDS, "--no-control", "--out", tmp_path / "killed")
    assert killed["scores"] == whole["scores"] and killed["control"] == whole["control"][:2]
    one, two = (load_classifier(tmp_path / name / "finetune/classifier.safetensors") for name in ("whole", "killed"))
    assert len(one.classes) == 8
    for a, b in zip(one.encoder.parameters(), two.encoder.parameters(), strict=True):
        assert torch.equal(a, b)
    for words, said in (
        (("--batch", "15", "--out", tmp_path), "--batch 15 must be a multiple of 2"),
        (("--rate", "0.1", "--out", tmp_path / "whole"), "holds a fit with rate 0.00025, not 0.1"),
        ((), "is no run folder: give --out DIR"),
    ):
        refused = otherview(*WORDS, *words)
        assert refused.returncode == 2 and said in refused.stderr, refused.stderr


@pytest.mark.slow
def test_two_processes_fine_tune_as_one_does_ranks(tmp_path: Path) -> None:
    nothing = ("--mixup", "0", "--cutmix", "0", "--erasing", "0", "--drop-path", "0", "--no-control", "--out")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "otherview")
    for name, words in (("one", ("-m", "otherview")), ("two", launcher)):
        command = [sys.executable, *words, *WORDS, *nothing, str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count(" steps of 20 images") == 1  # one rank speaks
        assert len((tmp_path / name / "results.jsonl").read_text().splitlines()) == 1
    journals = [json_lines(tmp_path / name / "finetune/metrics.jsonl") for name in ("one", "two")]
    pairs = [(one, two) for one, two in zip(*journals, strict=True) if "loss" in one]
    assert pairs
    for one, two in pairs:
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
