"""A folder, a zip, a tar, a list and a parquet file of the same content have the same images and the same classes."""

import os
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from otherview.data.picture import picture_of
from otherview.data.source import Source
from otherview.data.spec import open_source
from otherview.errors import BrokenImage, WrongRequest
from tests.inputs import encoded, put, rows, tar, zipped

LITTER = (
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    "._1.png",
    ".hidden.jpg",
    "__MACOSX/1.png",
    "@eaDir/2.png",
    ".git/3.png",
)
STEMS = st.sampled_from(
    ["1", "2", "a b", "é", "x.y", "21.06.2023", "v1.2", "B", "#c", "d,e", "[f]", "%20g", "-h", "it's"]
)
CLASSES = st.sampled_from(["cat", "dog", "a-b", "a", "Zoo", "über", "1", "10", "2"])
GOOD, EMPTY, CUT = "good", "empty", "cut"
TREES = st.dictionaries(
    st.tuples(CLASSES, st.sampled_from(["", "x/", "y.z/"]), STEMS),
    st.tuples(st.sampled_from([".png", ".jpg", ".JPEG"]), st.sampled_from([GOOD, GOOD, GOOD, EMPTY, CUT])),
    min_size=1,
    max_size=8,
)


def content(seed: int, ending: str, state: str) -> bytes:
    data = encoded(seed, "PNG" if ending == ".png" else "JPEG")
    return {GOOD: data, EMPTY: b"", CUT: data[:20]}[state]


def seen(source: Source) -> Counter[tuple[str, object]]:
    """What an image shows, or that it is broken, and its class: how often each occurs."""
    found: Counter[tuple[str, object]] = Counter()
    for index in range(len(source)):
        label = source.label(index)
        name = "" if label is None else source.classes[label] if source.classes else str(label)
        try:
            found[name, picture_of(source, index).decode().tobytes()] += 1
        except BrokenImage:
            found[name, None] += 1
    return found


def opened(spec: object) -> Counter[tuple[str, object]] | None:
    try:
        return seen(open_source(str(spec)))
    except WrongRequest:
        return None


def escaped(word: str) -> str:
    return '"' + word.replace('"', '""') + '"'


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example({("a-b", "", "1"): (".png", GOOD), ("a", "", "1"): (".png", GOOD)}, [])
@example({("cat", "", "21.06.2023"): (".jpg", GOOD), ("dog", "x/", "x.y"): (".jpg", CUT)}, ["cat/._1.png"])
@given(
    TREES,
    st.lists(st.sampled_from([f"{folder}{name}" for folder in ("", "cat/", "dog/x/") for name in LITTER]), max_size=4),
)
def test_the_same_in_five_containers(tree: dict[tuple[str, str, str], tuple[str, str]], litter: list[str]) -> None:
    members = {
        f"{kind}/{below}{stem}{ending}": content(seed, ending, state)
        for seed, ((kind, below, stem), (ending, state)) in enumerate(tree.items())
    }
    beside = {name: encoded(99) for name in litter} | {f"{next(iter(members)).rpartition('/')[0]}/notes.md": b"text"}
    kinds = {name.partition("/")[0] for name in members}
    below = {name.split("/")[1] if name.count("/") > 1 else "" for name in members}
    assume(len(kinds) > 1 or len(below) == 1 or "" in below)  # one folder around several is no class
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, data in (members | beside).items():
            put(folder / "tree" / name, data)
        words = {name: name.partition("/")[0] for name in members}
        lines = [
            f"{escaped('tree/' + name)},{escaped(words.get(name, 'cat'))}"
            for name in members | dict.fromkeys(litter, b"")
        ]
        put(folder / "list.csv", "\n".join(["path,label", *lines]))
        rows(
            folder / "a.parquet", image=pa.array([*members.values()], pa.binary()),
            label=pa.array([*words.values()], pa.string()),
        )  # fmt: skip
        specs = [
            folder / "tree",
            zipped(folder / "box.zip", members | beside),
            tar(folder / "box.tar", members | beside),
            folder / "list.csv",
            folder / "a.parquet",
        ]
        expected, *others = (opened(spec) for spec in specs)
        assert expected is not None
        for spec, found in zip(specs[1:], others, strict=True):
            assert found == expected, os.fspath(spec)
