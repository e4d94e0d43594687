"""A patient is never on both sides: by folder, by file, by a column of a csv; held out where there is no test set."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from otherview.data.spec import open_source
from otherview.errors import WrongRequest
from otherview.evaluation.grouping import folders_on_both_sides, groups_of, held_out
from otherview.evaluation.settings import KnnSettings
from otherview.evaluation.split import open_splits

KNN = ("evaluate", "knn", "--weights", "random:siamese_im_cpu_adamw", "--k", 3, "--threads", 1)


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)).save(path)


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """Two classes, five patients each, three images of each patient."""
    for kind in ("sick", "well"):
        for patient in range(5):
            for number in range(3):
                picture(tmp_path / f"{kind}/{kind[0]}{patient}/{number}.png", hash((kind, patient, number)) % 2**32)
    lines = [
        f"{path.relative_to(tmp_path)},{path.parts[-3]},{path.parts[-2]}" for path in sorted(tmp_path.rglob("*.png"))
    ]
    (tmp_path / "all.csv").write_text("\n".join(["path,label,patient", *lines, ""]))
    return tmp_path


@given(
    st.integers(2, 5).flatmap(lambda k: st.lists(st.integers(0, k - 1), min_size=40, max_size=120)), st.integers(2, 8),
    st.floats(0.05, 0.6), st.integers(0, 9),
)  # fmt: skip
def test_no_group_is_divided(labels: list[int], patients: int, share: float, seed: int) -> None:
    known = np.array(labels)
    groups = [f"{label}-{number % patients}" for number, label in enumerate(labels)]
    single = any(
        len({group for group, one in zip(groups, labels, strict=True) if one == kind}) < 2 for kind in set(labels)
    )
    if single:
        with pytest.raises(WrongRequest, match="too few groups"):
            held_out(known, groups, share=share, seed=seed)
        return
    judged = held_out(known, groups, share=share, seed=seed)
    sides = [{group for group, there in zip(groups, judged, strict=True) if there == side} for side in (True, False)]
    assert not sides[0] & sides[1]
    assert set(known[judged]) == set(known[~judged]) == set(labels)  # every class is learned and judged
    assert (judged == held_out(known, groups, share=share, seed=seed)).all()


def settings(train: object, **more: object) -> KnnSettings:
    return KnnSettings(weights="reference:demo", train=str(train), **more)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("by", ["folder", "patient"])
def test_patients_are_held_out_whole(clinic: Path, by: str) -> None:
    spec = clinic / "all.csv" if by == "patient" else clinic
    train, test = open_splits(settings(spec, group_by=by))
    patients = [{split.source.name(int(index)).split("/")[1] for index in split.indices} for split in (train, test)]
    assert len(patients[0]) == 8 and len(patients[1]) == 2 and not patients[0] & patients[1]
    assert len(test.indices) == 6 and test.labels.bincount().tolist() == [3, 3]
    plain, held = open_splits(settings(spec))
    assert len(held.indices) == 6 and len(plain.indices) == 24


def test_groups_on_both_sides_are_refused(clinic: Path) -> None:
    picture(clinic / "more/sick/s1/9.png", 1)
    picture(clinic / "more/well/w9/9.png", 2)
    test = clinic / "more"
    train = clinic / "all.csv"
    with pytest.raises(WrongRequest, match=r"share 1 groups by folder \(s1\)"):
        open_splits(settings(train, test=str(test), group_by="folder"))
    for by, said in (("ward", "has the columns path, label, patient"), ("patient", "is none")):
        with pytest.raises(WrongRequest, match=said):
            open_splits(settings(train, test=str(test), group_by=by))
    picture(clinic / "sick/flat.png", 3)
    with pytest.raises(WrongRequest, match=r"flat\.png lies in no folder of a group"):
        groups_of(open_source(f"{clinic}/sick,{clinic}/well"), "", by="folder")


def test_windows_of_a_slide_belong_together(clinic: Path) -> None:
    tiles = open_source(f"tiles:{clinic}@16")
    groups = groups_of(tiles, "", by="file")
    assert len(tiles) == 30 * 4 and len(set(groups)) == 30
    assert len(set(groups_of(tiles, "", by="folder"))) == 10


def test_blank_slices_and_copies_are_learned_from_and_not_judged(
    tmp_path: Path, result_of: Callable[..., dict], capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in "ab":
        for number in range(8):
            picture(tmp_path / f"{kind}/{number}.png", ord(kind) * 100 + number)
        for number in range(8, 12):
            picture(tmp_path / f"{kind}/{number}.png", 7)  # the same in all
    words = (*KNN, "--train", tmp_path)
    found = result_of(*words, "--workers", 0, "--test-share", 0.4)
    assert 0 < found["scores"][0]["n"] < 10


def test_a_column_holds_for_windows(clinic: Path) -> None:
    tiles = open_source(f"tiles:{clinic}/all.csv@16")
    groups = groups_of(tiles, f"tiles:{clinic}/all.csv@16", by="patient")
    assert len(groups) == 120 and len(set(groups)) == 10
    two = f"{clinic}/sick,{clinic}/well"
    assert len(set(groups_of(open_source(two), two, by="file"))) == 30


def test_many_classes_take_little_memory() -> None:
    labels = np.arange(200_000) % 20_000
    judged = held_out(labels, None, share=0.2, seed=0)
    assert judged.sum() == 40_000
    with pytest.raises(WrongRequest, match="class b has too few images"):
        held_out(np.array([0, 0, 1]), None, share=0.2, seed=0, names=["a", "b"])


def test_doctor_names_folders_on_both_sides(tmp_path: Path, otherview: Callable) -> None:
    for side, patients in (("train", (1, 2, 3)), ("test", (3, 4))):
        for kind in ("sick", "well"):
            for patient in patients:
                picture(tmp_path / f"data/{side}/{kind}/p{patient}/0.png", patient)
    assert folders_on_both_sides(open_source(str(tmp_path / "data"))).startswith(
        "train and test share 1 folder names (p3,"
    )
    done = otherview("doctor", "--data", tmp_path / "data", "--out", tmp_path / "found", "--workers", 0, "--threads", 1)
    assert done.returncode == 0 and "train and test share 1 folder names" in done.stdout
    for side in ("train", "test"):  # classes are shared, and that is right
        for kind in ("sick", "well"):
            picture(tmp_path / f"plain/{side}/{kind}/0.png", 0)
    assert folders_on_both_sides(open_source(str(tmp_path / "plain"))) == ""
    assert folders_on_both_sides(open_source("shapes:5")) == ""


def test_an_evaluation_without_a_test_set(clinic: Path, result_of: Callable[..., dict], otherview: Callable) -> None:
    words = (*KNN, "--train", clinic / "all.csv")
    found = result_of(*words, "--group-by", "patient", "--workers", 0)
    assert found["scores"][0]["n"] == 6 and found["test"].endswith("all.csv, by patient") and "20%" in found["test"]
    wrong = otherview(*words, "--test-share", 1)
    assert wrong.returncode == 2 and "--test-share 1" in wrong.stderr
