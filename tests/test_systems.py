"""Systems that are not like a developer's: other umasks, few open files, little shared memory, homes that are read-only.

Ends of processes are in test_ending.py; Windows is imitated in test_package.py.
"""

import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import otherview
from otherview.data import index_cache, workers
from otherview.data.loader import SampleMaker, StepPlan, make_loader
from otherview.data.source import labels_of
from otherview.data.spec import open_source
from otherview.errors import WrongRequest
from otherview.files import atomically, write_atomically
from otherview.geometry import PatchGrid
from otherview.views.settings import ViewSettings
from otherview.views.transforms import PairViews
from tests.conftest import Run
from tests.inputs import encoded, images, tar
from tests.test_training import SMALL


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_are_as_readable_as_their_neighbours(umask: int, tmp_path: Path) -> None:
    """safetensors writes files for their owner alone, wherever they lie (huggingface/safetensors#395)."""
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "a", b"")
        atomically(tmp_path / "b", lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)))
        (tmp_path / "c").touch()
    finally:
        os.umask(before)
    assert len({stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "abc"}) == 1


FEW_FILES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
from otherview.data.spec import open_source
source = open_source(sys.argv[1])
assert len(source) == 400 and {source.label(i) for i in range(400)} == {0, 1, 2}
assert all(source.read(i) for i in range(400))
"""


def test_more_shards_than_files_may_be_open(tmp_path: Path) -> None:
    """vision#5000s of users of WebDataset: 400 shards, 128 files."""
    for number in range(400):
        tar(tmp_path / f"s-{number:04}.tar", {"a.jpg": b"\xff\xd8\xff", "a.cls": str(number % 3)})
    done = subprocess.run([sys.executable, "-c", FEW_FILES, f"{tmp_path}/*.tar"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_large_tables_are_mapped_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each map keeps its file open: tables that are too large to be loaded share a fixed number of them."""
    from otherview.data import index

    monkeypatch.setattr(index, "SMALL", 0)
    for number in range(40):
        tar(tmp_path / f"s-{number:04}.tar", {"a.jpg": encoded(number), "a.cls": str(number % 3)})
    index._mapped.cache_clear()
    source = open_source(f"{tmp_path}/*.tar")
    assert labels_of(source, "x").tolist() == [number % 3 for number in range(40)]
    assert index._mapped.cache_info().currsize <= index.MOST_MAPPED == index._mapped.cache_info().maxsize


def batches(folder: Path) -> list[Tensor]:
    source = open_source(str(images(folder, [f"{number}.png" for number in range(8)])))
    maker = SampleMaker(source, PairViews(ViewSettings(), (16, 16), PatchGrid(2, 2)), 0)
    loader = make_loader(maker, StepPlan(8, 4, 4, 0), start=0, workers=1, pin=False)
    return [view.pixels for sample in loader for view in sample.views]


def test_little_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pytorch#2244 and many more: /dev/shm of a container has 64 MB. Batches go through pipes, the same ones."""
    expected = batches(tmp_path)
    assert all(tensor.is_shared() for tensor in expected)
    monkeypatch.setattr(workers, "SHARED", str(tmp_path))
    monkeypatch.setattr(workers, "LEAST_SHARED", 2**80)
    found = batches(tmp_path)
    assert not any(tensor.is_shared() for tensor in found)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_home_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cluster's home that is full or read-only: indexes lie in a folder of this user in the temporary folder."""
    monkeypatch.delenv("OTHERVIEW_CACHE")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(index_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = index_cache.cache_folder()
    assert folder.parent == tmp_path and stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "cannot be written" in capsys.readouterr().err
    folder.chmod(0o777)
    with pytest.raises(WrongRequest, match="belongs to somebody else"):
        index_cache.cache_folder()


def test_strings_are_paths_and_paths_are_specs(tmp_path: Path) -> None:
    images(tmp_path / "train", [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(4)])
    found = otherview.evaluate.knn(
        "random:siamese_im_cpu_adamw",
        train=tmp_path / "train",  # pyright: ignore[reportArgumentType]
        test_share=0.25,
        k=3,
        out=str(tmp_path / "out"),  # pyright: ignore[reportArgumentType]
        threads=1,
    )
    assert found.scores and (tmp_path / "out/results.jsonl").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "cp1252"},  # ai-toolkit#689
        {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        {"LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu"},
        {"PYTHONUTF8": "0", "LANG": "C", "COLUMNS": "20", "TERM": "dumb"},
        {"HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"},
    ],
)
def test_a_run_in_another_environment(environment: dict[str, str], process: Run, tmp_path: Path) -> None:
    done = process(*SMALL, "--steps", "4", "--out", tmp_path / "run", **environment)
    assert done.returncode == 0, done.stderr


SPAWNED = """
import multiprocessing, sys
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    import otherview
    found = otherview.evaluate.knn("random:siamese_im_cpu_adamw", train=sys.argv[1], test_share=0.25, k=3, workers=1, cache=False)
    assert found.scores
"""


@pytest.mark.slow
def test_workers_that_are_spawned(tmp_path: Path) -> None:
    """macOS and Windows have no fork."""
    images(tmp_path / "train", [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(4)])
    script = tmp_path / "script.py"
    script.write_text(SPAWNED)
    done = subprocess.run([sys.executable, script, tmp_path / "train"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def test_the_limit_of_files_is_that_of_the_system() -> None:
    """The tests above mean something only where the limit can be set."""
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 128 and np.dtype(np.int64).itemsize == 8
