"""The wheel, in an empty environment: it installs, and its door opens with nothing heavy there at all."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def copied(dockerfile: Path) -> list[str]:
    """What an image takes from the project."""
    lines = [line.split() for line in dockerfile.read_text().splitlines() if line.startswith("COPY")]
    return [name for line in lines for name in line[1:-1]]


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cpu"])
def test_an_image_takes_what_there_is_and_is_sent(name: str) -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert set(copied(ROOT / name)) == set(sent) and all((ROOT / file).exists() for file in sent)


@pytest.mark.slow
def test_the_wheel_runs_a_verb_in_an_empty_environment(tmp_path: Path) -> None:
    def run(*words: str | Path) -> str:
        clean = {name: value for name, value in os.environ.items() if name not in ("OTHERVIEW_TYPECHECK", "PYTHONPATH")}
        done = subprocess.run([*map(str, words)], capture_output=True, text=True, cwd=tmp_path, env=clean)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    project = tmp_path / "project"  # no more than an image is built from
    project.mkdir()
    for name in copied(ROOT / "Dockerfile"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, project / name)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, project)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"otherview"}
    assert any(name.endswith("LICENSE") for name in names) and any(name.endswith("NOTICE") for name in names)
    run(sys.executable, "-m", "venv", tmp_path / "env")
    binaries = tmp_path / "env" / "bin"
    run(binaries / "pip", "install", "--quiet", "--no-deps", wheel)
    run(binaries / "pip", "install", "--quiet", "pydantic", "tyro", "pyyaml")
    assert "siamese_im_vit_b16" in run(binaries / "otherview", "recipes")
    assert "--method.negative-weight" in run(binaries / "otherview", "pretrain", "--help")
