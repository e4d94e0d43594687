"""Images per second of one core: decoding alone, the reference input path and ours, in turns, in one process."""

import io
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from otherview.bench.reference import ReferenceViews
from otherview.data.image import RGB, Preprocessing
from otherview.data.loader import SampleMaker, StepPlan, make_loader
from otherview.data.picture import picture_of
from otherview.data.ranges import with_ranges
from otherview.data.source import Selected, Source
from otherview.data.workers import KEPT_UNUSED
from otherview.geometry import PatchGrid
from otherview.launch import keep_pages
from otherview.views.settings import ViewSettings
from otherview.views.transforms import PairViews

SIZE, GRID = (224, 224), PatchGrid(14, 14)
BATCH, BATCHES, ROUNDS = 16, 3, 9
SLOWEST_REFERENCE, SMALL_ENOUGH = 50, 250_000
"""The reference makes at least so many images/s of images up to so many pixels on an idle core; else it is not idle."""


class Photos:
    """Clouds of all sizes with fine grain, 500×375, as JPEG: what a photo costs to decode, without any data."""

    def __len__(self) -> int:
        return 32

    def read(self, index: int) -> bytes:
        from PIL import Image

        rng = np.random.default_rng(index)
        layers = [
            cv2.resize(rng.normal(size=(side, side, 3)).astype(np.float32), (500, 375)) * 60 / side**0.4
            for side in (3, 8, 24, 80, 250)
        ]
        pixels = np.clip(128 + sum(layers) + rng.normal(scale=4, size=(375, 500, 3)), 0, 255).astype(np.uint8)
        written = io.BytesIO()
        Image.fromarray(pixels).save(written, "JPEG", quality=90)
        return written.getvalue()

    classes = None

    def label(self, index: int) -> None:
        return None

    def name(self, index: int) -> str:
        return f"drawn photo {index}"


class Held:
    """Encoded images held in memory, so that the disk is not what is measured."""

    classes = None

    def __init__(self, source: Source, most: int = 256) -> None:
        chosen = np.linspace(0, len(source) - 1, min(most, len(source))).round().astype(np.int64)
        self.content = [source.read(int(index)) for index in chosen]

    def __len__(self) -> int:
        return len(self.content)

    def read(self, index: int) -> bytes:
        return self.content[index]

    def label(self, index: int) -> None:
        return None

    def name(self, index: int) -> str:
        return f"image {index}"


def bench_loader(
    source: Source, views: ViewSettings, *, rounds: int = ROUNDS, advance: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Medians over rounds in which every path makes two views at 224 px of the same images; one core, no workers.

    Raises RuntimeError where the reference is slower than it can be on an idle machine.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    keep_pages(KEPT_UNUSED)  # as every worker does
    held = Held(source)
    preprocessing = with_ranges(held, RGB)
    paths = {"decode": _decode, "reference": _reference, "ours": partial(_ours, views, preprocessing)}
    rates: dict[str, list[float]] = {name: [] for name in paths}
    for turn in range(rounds):
        chosen = Selected(held, np.arange(turn * BATCH * BATCHES, (turn + 1) * BATCH * BATCHES) % len(held))
        for name, path in paths.items():
            rates[name].append(_images_per_second(path(chosen)))
        advance()
    median = {name: statistics.median(values) for name, values in rates.items()}
    pixels = statistics.median(
        picture.height * picture.width for picture in (picture_of(held, index) for index in range(len(held)))
    )
    if rounds >= ROUNDS and median["reference"] < SLOWEST_REFERENCE and pixels <= SMALL_ENOUGH:
        raise RuntimeError(
            f"the reference makes {median['reference']:.0f} images/s, under {SLOWEST_REFERENCE}: this machine is busy or "
            "slow; measure again when it is idle"
        )
    return {
        "ours_images_per_second_per_core": round(median["ours"], 1),
        "reference_images_per_second_per_core": round(median["reference"], 1),
        "decode_images_per_second_per_core": round(median["decode"], 1),
        "ratio_to_reference": round(_ratio(rates["ours"], rates["reference"]), 2),
        "share_of_decode": round(_ratio(rates["ours"], rates["decode"]), 3),
    }


WORKERS_BATCH = 64
STARTING, COUNTED = 6, 12
"""Batches for each worker that are not timed, for all have begun with some, and that are."""


def bench_workers(source: Source, views: ViewSettings, workers: int) -> float:
    """Images per second of the whole machine: our views at 224 px by this many processes, once all of them are at work."""
    held = Held(source)
    total = (STARTING + COUNTED) * workers
    images = Selected(held, np.arange(WORKERS_BATCH * total) % len(held))
    maker = SampleMaker(images, PairViews(views, SIZE, GRID), 0, with_ranges(held, RGB))
    plan = StepPlan(len(images), WORKERS_BATCH, total, seed=0)
    batches = iter(make_loader(maker, plan, start=0, workers=workers, pin=False))
    for _ in range(STARTING * workers):
        next(batches)
    began = time.perf_counter()
    count = sum(1 for _ in batches)
    return round(count * WORKERS_BATCH / (time.perf_counter() - began), 1)


def _ratio(above: list[float], below: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def _images_per_second(batches: Iterable[Any]) -> float:
    began = time.perf_counter()
    for _ in batches:
        pass
    return BATCH * BATCHES / (time.perf_counter() - began)


def _decode(source: Source) -> Iterable[Any]:
    return (picture_of(source, index).decode() for index in range(len(source)))


def _reference(source: Source) -> Iterable[Any]:
    return DataLoader(ReferenceViews(source, ViewSettings(), SIZE, GRID), batch_size=BATCH)


def _ours(views: ViewSettings, preprocessing: Preprocessing, source: Source) -> Iterable[Any]:
    maker = SampleMaker(source, PairViews(views, SIZE, GRID), 0, preprocessing)
    return make_loader(maker, StepPlan(len(source), BATCH, BATCHES, seed=0), start=0, workers=0, pin=False)
