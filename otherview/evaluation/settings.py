"""The settings of every protocol: torch-free. Defaults are the published ones (specification 2), unless a field says so."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from otherview.data.settings import ShownSettings
from otherview.training.settings import ComputeSettings

Weights = Annotated[object, tyro.conf.arg(constructor=str, metavar="WEIGHTS")]
"""The word --weights; in Python also a Backbone (evaluation/backbone.py)."""


@dataclass(kw_only=True)
class JudgeSettings(ComputeSettings):
    """Settings common to all evaluations."""

    weights: Weights = field(kw_only=False)
    """A run folder, RUN@STEP or RUN@last, an encoder file, reference:demo (ships with otherview) or random:RECIPE (untrained)."""
    out: Path | None = None
    """Folder whose results.jsonl gets a line; default: the run folder, where --weights is one."""
    workers: int = 1
    """Processes that read images."""


@dataclass(kw_only=True)
class LearntSettings(JudgeSettings):
    """Settings common to evaluations with labelled training images."""

    train: str
    """Labelled images to learn from (a data SPEC)."""
    train_images: int | None = None
    """Use only so many training images, spread evenly; default: all."""
    test_images: int | None = None
    """Use only so many test images, spread evenly; default: all."""
    allow_shared: bool = False
    """Judge although --train and --test share images."""


@dataclass(kw_only=True)
class LabelledSettings(LearntSettings):
    """Settings common to evaluations of classes."""

    test: str | None = None
    """Labelled images to be judged on (a data SPEC); default: a part of --train, held out."""
    test_share: float = 0.2
    """Without --test: the share of every class that is held out."""
    group_by: str | None = None
    """Keep a group on one side: folder (the last one of a path), file (for tiles and slices), or a column of the *.csv."""

    @property
    def judged_on(self) -> str:
        """The test images, in words."""
        held = f"{self.test_share:.0%} of {self.train}" + (f", by {self.group_by}" if self.group_by else "")
        return self.test or held


@dataclass(kw_only=True)
class FrozenSettings(JudgeSettings):
    """Settings common to evaluations of frozen features."""

    block: int | None = None
    """Judge the tokens after this block, counted from 1; default: the last."""
    cache: bool = True
    """Keep features in the cache folder (OTHERVIEW_CACHE), for the next evaluation of these weights on these images."""


@dataclass(kw_only=True)
class ClassifiedSettings(ShownSettings, LabelledSettings, FrozenSettings):
    """Settings common to evaluations that can print confusions."""

    confusion: Path | None = None
    """Also write a confusion matrix of the first score by the method's token, with the accuracy of each class: *.csv."""


@dataclass(kw_only=True)
class KnnSettings(ClassifiedSettings):
    """Weighted k-nearest neighbours: the k most similar training images vote."""

    k: int | tuple[int, ...] = 20
    """How many neighbours vote; several are tried in one pass."""
    temperature: float | tuple[float, ...] = 0.07
    """A vote weighs exp(cosine similarity / temperature); several are tried in one pass."""


@dataclass(kw_only=True)
class LinearSettings(ClassifiedSettings):
    """Logistic regression on frozen features, the quick linear measure (not the paper's 90-epoch probe)."""

    strength: float = 1e-4
    """Half of this times the squared weights is added to the mean cross-entropy; features are standardised."""


@dataclass(kw_only=True)
class LinearProbeSettings(ShownSettings, LabelledSettings):
    """The paper's linear probe: 90 epochs of LARS on a frozen encoder; the last epoch is reported."""

    protocol: Literal["auto", "paper"] = "auto"
    """auto: the published peak rate whatever the batch; paper: the published rate for 256 images, whatever the batch."""
    epochs: float = 90.0
    """Times through the training images."""
    batch: int | None = None
    """Images a step; default: 16384, or a tenth of the training images where they are fewer."""
    accumulation: int = 1
    """Micro-batches per step; batch norm sees the whole batch only with 1."""
    rates: tuple[float, ...] | None = None
    """Learning rates for a batch of 256; several are trained in one pass, each with its own head; paper: 0.1."""
    crop_pct: float | None = None
    """Share of the shorter side that the centre crop of a test image keeps; paper: 0.875; auto: 1 for sides below 160 px."""
    seed: int = 0
    """Seed of the heads, the order of images and their crops."""


@dataclass(kw_only=True)
class FewShotSettings(ShownSettings, LabelledSettings, FrozenSettings):
    """Logistic regression on the features of a few labelled images (the MSN protocol: no intercept, one fit a draw)."""

    shares: tuple[float, ...] = (0.01,)
    """Shares of every class's images to learn from; at least one image of each."""
    shots: tuple[int, ...] = ()
    """Images of every class to learn from."""
    list: Path | None = None
    """A text file with one image's file name a line (ImageNet's published 1 % list, say): learn from those instead."""
    draws: int = 3
    """Random draws per share or number of shots."""
    seed: int = 0
    """Seed of the draws."""
    crop_pct: float = 0.875
    """Share of the shorter side that the centre crop keeps (224 of 256 in the protocol); 1 for small images."""


@dataclass(kw_only=True)
class Regularisation:
    """What keeps the encoder from memorising labelled images; the published recipe (specification 2)."""

    layer_decay: float = 0.65
    """The rate falls by this factor from each block to the one below."""
    drop_path: float = 0.1
    """Drop-path probability of the last block; it rises linearly from 0 over the depth."""
    mixup: float = 0.8
    cutmix: float = 1.0
    smoothing: float = 0.1
    erasing: float = 0.25
    """Probability of replacing part of an image by noise."""


@dataclass(kw_only=True)
class FinetuneRecipe(Regularisation):
    """How a classifier is fine-tuned; the values are the published ones."""

    epochs: float = 100.0
    batch: int = 1024
    rate: float = 2.5e-4
    head: Literal["random", "linear"] = "random"
    weight_decay: float = 0.05
    augment: str = "rand-m9-mstd0.5-inc1"
    crop_share: tuple[float, float] = (0.08, 1.0)
    crop_pct: float = 0.875


@dataclass(kw_only=True)
class FinetuneSettings(ShownSettings, LabelledSettings):
    """Fine-tune the whole encoder on labelled images; the last epoch is reported. Resumes like any run.

    What is not given is chosen by the number of training images, and said. --protocol paper takes the published values.
    """

    protocol: Literal["auto", "paper"] = "auto"
    """auto: by the number of training images; paper: the published settings, made for 1.28 million images."""
    epochs: float | None = None
    """Times through the training images; paper: 100."""
    batch: int | None = None
    """Images a step, an even number; paper: 1024, or a tenth of the training images where they are fewer."""
    accumulation: int = 1
    """Micro-batches a step."""
    rate: float | None = None
    """Learning rate for a batch of 256; paper: 2.5e-4."""
    head: Literal["random", "linear"] | None = None
    """random (paper), or linear: the head starts as a logistic regression on the frozen features."""
    weight_decay: float | None = None
    """Paper: 0.05."""
    augment: str | None = None
    """RandAugment in timm's words (paper: rand-m9-mstd0.5-inc1), or none: crops and mirroring alone."""
    crop_share: tuple[float, float] | None = None
    """Range of the share of a training image's area that a random crop shows; paper: 0.08 1."""
    layer_decay: float | None = None
    """The rate falls by this factor from each block to the one below; paper: 0.65."""
    drop_path: float | None = None
    """Drop-path probability of the last block; it rises linearly from 0 over the depth; paper: 0.1."""
    mixup: float | None = None
    """Paper: 0.8."""
    cutmix: float | None = None
    """Paper: 1."""
    smoothing: float | None = None
    """Label smoothing; paper: 0.1."""
    erasing: float | None = None
    """Probability of replacing part of an image by noise; paper: 0.25."""
    crop_pct: float | None = None
    """Share of the shorter side that the centre crop of a test image keeps; paper: 0.875; auto: 1 for sides below 160 px."""
    control: bool = True
    """Also fine-tune the untrained encoder and, where the run started from weights, those; each takes as long again."""
    seed: int = 0
    """Seed of the head, the order of images and all random draws."""


@dataclass(kw_only=True)
class RobustnessSettings(ShownSettings, JudgeSettings):
    """Accuracy of a fine-tuned classifier on clean, corrupted or foreign images; it is not trained further.

    --weights: a run folder with a finetune/ in it, or the classifier.safetensors of a fine-tuning or a linear probe.
    """

    test: str
    """Labelled images (a data SPEC); their classes are found by name."""
    corruptions: tuple[str, ...] = ("all",)
    """all (fifteen), none, or some by name."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    published: Path | None = None
    """A folder of corrupted files instead of --test's own under corruptions: CORRUPTION/SEVERITY/CLASS/*.jpg, as ImageNet-C."""
    subset: str | None = None
    """imagenet-a or imagenet-r: choose among those 200 classes only."""
    baseline: str | None = None
    """mCE relative to alexnet (published with ImageNet-C), or to another classifier on the same images."""
    crop_pct: float | None = None
    """Share of the shorter side that the centre crop keeps; default: as the classifier was judged. Published files stay whole."""
    test_images: int | None = None
    """Use only so many test images, spread evenly; default: all."""
    seed: int = 0
    """Seed of the corruptions."""


@dataclass(kw_only=True)
class RetrievalSettings(JudgeSettings):
    """Do patches of one view find their place in another view of the image? Needs no labels."""

    test: str
    """Images (a data SPEC)."""
    test_images: int = 1000
    """How many of them, spread evenly; the tokens of all stay in memory."""
    block: int | None = None
    """Judge the tokens after this block, counted from 1; default: the last."""
    seed: int = 0
    """Seed of the crops."""


@dataclass(kw_only=True)
class LinearSegmentSettings(ShownSettings, LearntSettings, FrozenSettings):
    """A linear head on frozen patch tokens names the class of every pixel: mIoU and accuracy."""

    test: str
    """Labelled images to be judged on (a data SPEC)."""
    strength: float = 1e-4
    """Half of this times the squared weights is added to the mean cross-entropy; features are standardised."""
