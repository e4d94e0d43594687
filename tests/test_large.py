"""Large and odd data: two million lines, a hundred thousand files, and Pillow's own collection of odd and broken files."""

import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import PIL
import pytest

pytestmark = pytest.mark.slow

MEASURED = """
import sys, time
from otherview.bench.contenders import status_mb  # ru_maxrss would begin at what the parent held when it forked
from otherview.data.spec import open_source
began = time.monotonic()
source = open_source(sys.argv[1])
print(len(source), source.name(len(source) - 1), round(status_mb("VmHWM")), time.monotonic() - began)
"""


def opened(spec: Path) -> tuple[int, str, int, float]:
    """Images, last name, peak memory in MB and seconds, in a fresh process."""
    done = subprocess.run([sys.executable, "-c", MEASURED, str(spec)], capture_output=True, text=True, check=True)
    count, name, memory, seconds = done.stdout.split()
    return int(count), name, int(memory), float(seconds)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["txt", "csv"])
def test_a_list_of_two_million_lines(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"all.{kind}"
    with path.open("w") as file:
        file.write("path,label\n" if kind == "csv" else "")
        end = ",n{}\n" if kind == "csv" else "\n"
        file.writelines(f"some/folder/number{i % 1000}/image{i:08}.jpg{end.format(i % 1000)}" for i in range(2_000_000))
    count, name, memory, seconds = opened(path)
    assert (count, name) == (2_000_000, "some/folder/number999/image01999999.jpg")
    assert memory < 1000 and seconds < 60
    again = opened(path)
    assert again[:2] == (count, name)
    assert again[3] < 1 and again[3] < seconds / 3  # the index is used again


@pytest.mark.soak
def test_a_folder_of_a_hundred_thousand_files(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"class{number:03}").mkdir()
        for image in range(1000):
            (tmp_path / f"class{number:03}/{image:04}.jpg").touch()
    count, name, memory, seconds = opened(tmp_path)
    assert (count, name) == (100_000, "class099/0999.jpg")
    assert memory < 1000 and seconds < 60
    assert opened(tmp_path)[3] < 1


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test images of Pillow's source distribution, checked by hash; skips where the package index is out of reach."""
    request = urllib.request.Request(
        "https://pypi.org/simple/pillow/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            found = json.load(answer)["files"]
        entry = next(f for f in found if f["filename"].lower() == f"pillow-{PIL.__version__}.tar.gz")
        with urllib.request.urlopen(entry["url"], timeout=120) as answer:
            content = answer.read()
    except (urllib.error.URLError, OSError, StopIteration) as error:
        pytest.skip(f"needs Pillow's source distribution from the package index: {error}")
    assert hashlib.sha256(content).hexdigest() == entry["hashes"]["sha256"]
    folder = tmp_path_factory.mktemp("pillow")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        wanted = [member for member in archive if "/Tests/images/" in member.name and member.isfile()]
        archive.extractall(folder, wanted, filter="data")
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert len(names) > 800
    (folder / "all.txt").write_text("\n".join(names))
    return folder


def test_pillow_s_odd_and_broken_files(corpus: Path, result_of: Callable[..., dict], otherview: Callable) -> None:
    listed = corpus / "all.txt"
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    found = result_of("doctor", "--data", listed, "--out", corpus.parent / "doctor")
    assert found["images"] == len(listed.read_text().splitlines())
    named = dict(line.split("\t", 1) for line in (corpus.parent / "doctor/broken.txt").read_text().splitlines())
    assert 0 < found["unreadable"] == len(named) < found["images"] / 2
    assert all(name in reason for name, reason in named.items())
    plain = [name for name in listed.read_text().splitlines() if Path(name).name in ("hopper.jpg", "hopper.png")]
    assert len(plain) == 2 and not set(plain) & named.keys()

    run = ("pretrain", "--recipe", "siamese_im_demo", "--out", corpus.parent / "run", "--epochs", 1, "--steps", "None")
    done = otherview(*run, "--data", listed, "--training.max-broken", 1, "--json")
    assert done.returncode == 0, done.stderr
    # Not from a line's start: libtiff in a worker writes its own lines in pieces, ours may come between two of them.
    said = re.findall(r"broken image (.+?): replaced by the next readable one$", done.stderr, re.MULTILINE)
    assert len(said) == len(set(said)) == json.loads(done.stdout)["broken_images"] > 0
    assert set(said) <= named.keys()
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before  # nothing was written beside them

    good = result_of("doctor", "--data", found["good"], "--out", corpus.parent / "again")
    assert (good["images"], good["unreadable"]) == (found["images"] - found["unreadable"], 0)
