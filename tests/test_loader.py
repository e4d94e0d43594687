"""The same batches for any number of workers, ranks and restarts; broken images replaced by the stated rule."""

import gc
import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from otherview.data.loader import MOST_BROKEN_IN_A_ROW, Sample, SampleMaker, StepPlan, make_loader
from otherview.data.shapes import Shapes
from otherview.errors import BrokenImage, WrongRequest
from otherview.geometry import PatchGrid
from otherview.views.settings import MaskSettings, ViewSettings
from otherview.views.transforms import PairViews

VIEWS = PairViews(ViewSettings(mask=MaskSettings(count=5, minimum_block=2)), (16, 16), PatchGrid(4, 4))


@dataclass(frozen=True)
class PartlyBroken:
    """Drawn images of which some cannot be read."""

    inner: Shapes
    broken: frozenset[int] = field(default_factory=frozenset)

    def __len__(self) -> int:
        return len(self.inner)

    def read(self, index: int) -> bytes:
        if index in self.broken:
            raise BrokenImage(self.name(index))
        return self.inner.read(index)

    @property
    def classes(self) -> None:
        return None

    def label(self, index: int) -> int:
        return self.inner.label(index)

    def name(self, index: int) -> str:
        return self.inner.name(index)


@pytest.fixture(autouse=True)
def _many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otherview.data.workers.usable_cores", lambda: 8)


def batches(plan: StepPlan, *, start: int = 0, workers: int = 0, broken: frozenset[int] = frozenset()) -> list[Sample]:
    maker = SampleMaker(PartlyBroken(Shapes(plan.images), broken), VIEWS, seed=plan.seed)
    return list(make_loader(maker, plan, start=start, workers=workers, pin=False))


def leaves(part: object) -> Iterator[torch.Tensor]:
    if isinstance(part, (torch.Tensor, float, int)):
        yield torch.as_tensor(part)
    else:
        for inner in part:  # pyright: ignore[reportGeneralTypeIssues]
            yield from leaves(inner)


def same(a: object, b: object) -> bool:
    return all((x == y).all() for x, y in zip(leaves(a), leaves(b), strict=True))


PLAN = StepPlan(images=20, batch=6, steps=8, seed=3)


def test_samples_are_made_alike_where_workers_do_not_fork() -> None:
    """On macOS and Windows what a worker gets goes through pickle."""
    maker = SampleMaker(Shapes(PLAN.images), VIEWS, seed=PLAN.seed)
    assert same(pickle.loads(pickle.dumps(maker))[(0, 7)], maker[(0, 7)])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 8])
def test_any_number_of_workers(workers: int) -> None:
    alone, shared = batches(PLAN), batches(PLAN, workers=workers)
    assert len(alone) == len(shared) == 8
    assert all(same(a, b) for a, b in zip(alone, shared, strict=True))


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="the sender of a signal is not told here")
def test_a_worker_that_its_parent_ends_is_no_failure() -> None:
    """With another status than success, torch reports the worker in place of the error that ended the run."""
    maker = SampleMaker(Shapes(PLAN.images), VIEWS, seed=PLAN.seed)
    waiting = iter(make_loader(maker, PLAN, start=0, workers=1, pin=False))
    next(waiting)
    (worker,) = multiprocessing.active_children()
    worker.terminate()
    worker.join(20)
    assert worker.exitcode == 0


def test_any_restart() -> None:
    whole = batches(PLAN)
    for start in (1, 3, 7):
        assert all(same(a, b) for a, b in zip(whole[start:], batches(PLAN, start=start), strict=True))


def test_ranks_and_accumulation_cut_the_same_batch() -> None:
    """A micro-batch of a step has the same images whatever the number of ranks: batch norm sees them together."""
    whole = list(PLAN.micro_batches(0))
    for ranks, accumulation in ((2, 1), (3, 2), (1, 6)):
        plans = [StepPlan(20, 6, 8, 3, ranks=ranks, rank=rank, accumulation=accumulation) for rank in range(ranks)]
        parts = [list(plan.micro_batches(0)) for plan in plans]
        for step, indices in enumerate(whole):
            for part in range(accumulation):
                joined = [index for rank in parts for index in rank[step * accumulation + part]]
                size = 6 // accumulation
                assert joined == indices[part * size : (part + 1) * size]


def test_four_ranks_see_what_one_sees() -> None:
    whole = batches(StepPlan(images=20, batch=8, steps=4, seed=3))
    parts = [batches(StepPlan(images=20, batch=8, steps=4, seed=3, ranks=4, rank=rank)) for rank in range(4)]
    for step, batch in enumerate(whole):
        for leaf, *pieces in zip(leaves(batch), *(leaves(part[step]) for part in parts), strict=True):
            assert (leaf == torch.cat(pieces)).all()


def test_an_epoch_visits_every_image_once_and_drops_the_rest() -> None:
    plan = StepPlan(images=20, batch=5, steps=8, seed=0)
    visited = [pair for micro in plan.micro_batches(0) for pair in micro]
    for epoch in (0, 1):
        assert sorted(index for e, index in visited if e == epoch) == list(range(20))
    orders = [[index for e, index in visited if e == epoch] for epoch in (0, 1)]
    assert orders[0] != orders[1]
    assert PLAN.steps_per_epoch == 3


def test_seeds_and_epochs_differ() -> None:
    maker = SampleMaker(Shapes(4), VIEWS, seed=0)
    other = SampleMaker(Shapes(4), VIEWS, seed=1)
    assert same(maker[(0, 1)], maker[(0, 1)])
    assert not same(maker[(0, 1)].views, maker[(1, 1)].views)
    assert not same(maker[(0, 1)].views, other[(0, 1)].views)


def test_a_broken_image_is_replaced_by_the_next_and_nothing_else_changes() -> None:
    broken = frozenset((4, 5, 19))
    replacement = {4: 6, 5: 6, 19: 0}
    for clean, mended in zip(batches(PLAN), batches(PLAN, broken=broken), strict=True):
        for place, index in enumerate(clean.read.tolist()):
            assert int(mended.read[place]) == replacement.get(index, index)
            assert int(mended.broken[place]) == (index if index in broken else -1)
            if index not in broken:
                mine, theirs = ([leaf[place] for leaf in leaves(side.views)] for side in (clean, mended))
                assert same(mine, theirs)


def test_too_many_broken_in_a_row_end_the_run_with_a_name() -> None:
    with pytest.raises(BrokenImage, match=rf"{MOST_BROKEN_IN_A_ROW} images in a row .*\[7\]"):
        SampleMaker(PartlyBroken(Shapes(300), frozenset(range(300))), VIEWS, seed=0)[(0, 7)]


def test_wrong_batches() -> None:
    with pytest.raises(WrongRequest, match="largest batch that fits is 20"):
        StepPlan(images=20, batch=64, steps=1, seed=0)
    with pytest.raises(WrongRequest, match="2 ranks × 2"):
        StepPlan(images=20, batch=6, steps=1, seed=0, ranks=2, accumulation=2)


def test_crops_keep_their_precision_in_a_batch() -> None:
    crop = batches(PLAN)[0].views.online.crop
    assert crop.top.dtype == torch.float64 and crop.flipped.dtype == torch.bool
    assert np.isfinite(crop.width.numpy()).all()


class Session:
    """What another library leaves behind: garbage that only the process that made it may free."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.process, self.itself = folder, os.getpid(), self

    def __del__(self) -> None:
        (self.folder / ("parent" if os.getpid() == self.process else "worker")).touch()


class Collecting(PartlyBroken):
    """A source whose reader collects garbage, as any allocation may."""

    def read(self, index: int) -> bytes:
        gc.collect()
        return self.inner.read(index)


def test_a_worker_leaves_its_parent_s_garbage_alone(tmp_path: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        Session(tmp_path)
        maker = SampleMaker(Collecting(Shapes(4)), VIEWS, seed=0)
        assert len(list(make_loader(maker, StepPlan(4, 2, 2, seed=0), start=0, workers=1, pin=False))) == 2
    finally:
        gc.enable()
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == ["parent"]
