"""Ten central lines, each changed in a copy of the package: a test must fail. `make soak` runs it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MUTATIONS = {
    "the gradient of the loss": ("losses/unigrad.py", "2 / direction.numel()", "1 / direction.numel()", "test_unigrad.py"),
    "the sign of the negative term": (
        "losses/unigrad.py", "pull.add_(push, alpha=weight)", "pull.add_(push, alpha=-weight)", "test_unigrad.py",
    ),
    "mirrored views": (
        "geometry.py",
        "share = (pixels - start[..., None]) / extent[..., None]\n    share = torch.where(mirrored[..., None], 1 - share, share)",
        "share = (pixels - start[..., None]) / extent[..., None]", "test_geometry.py",
    ),
    "the scale in the relative code": ("nn/positions.py", "SCALE_FACTOR = 10.0", "SCALE_FACTOR = 1.0", "test_parity.py"),
    "images of a micro-batch": (
        "data/loader.py", "place * self.batch + part * micro + self.rank * size", "place * self.batch + self.rank * size",
        "test_loader.py",
    ),
    "resume of the optimiser": (
        "training/state.py", "    optimiser.load_state_dict(state[\"optimiser\"])\n", "", "test_training.py -k kill",
    ),
    "the moving average": ("methods/target.py", "mine, theirs, 1 - momentum", "mine, theirs, momentum", "test_nn.py"),
    "how many patches are masked": (
        "views/masks.py", "mask.flat[rng.sample(free, count - masked)] = True", "pass", "test_masks.py",
    ),
    "which patches are visible": (
        "views/view.py", "masked.to(torch.uint8).argsort", "(~masked).to(torch.uint8).argsort", "test_views.py",
    ),
    "batch norm in the heads": ("nn/heads.py", "eps: float = 1e-5", "eps: float = 1e-2", "test_parity.py"),
}  # fmt: skip


@pytest.mark.soak
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_changed_line_makes_a_test_fail(name: str, tmp_path: Path) -> None:
    file, line, changed, tests = MUTATIONS[name]
    for folder in ("otherview", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "otherview" / file
    source = path.read_text()
    assert source.count(line) == 1, f"the line that is changed is no longer in {file}"
    path.write_text(source.replace(line, changed))
    words = tests.split()
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{words[0]}", *words[1:]]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 1, done.stdout[-2000:]
    assert " failed" in done.stdout.splitlines()[-1]
