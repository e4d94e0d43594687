"""Runs side by side: grouping by everything but the seed, mean and spread; and a study that is killed and continued."""

import csv
import json
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import tyro

from otherview.bench.contenders import flops_per_image
from otherview.commands.compare import narrow
from otherview.config import RunConfig, to_yaml
from otherview.errors import WrongRequest
from otherview.recipes.registry import find
from otherview.recipes.studies import STUDIES, find_study
from otherview.report.comparison import cells_of, compare_runs, markdown, notes, table
from otherview.report.comparison_page import (
    draw_comparison,
    mean_curve,
    verdict_of,
    watched_alike,
    write_comparison_page,
)
from otherview.runs.compare import _command
from otherview.runs.settings import CompareSettings
from otherview.runs.study import MEASURES, Plan, tasks_of


def finished(folder: Path, *, seed: int, knn: float, recipe: str = "siamese_im_cpu_adamw", steps: int = 100) -> Path:
    """A run folder as pre-training and two evaluations leave it."""
    folder.mkdir(parents=True)
    config = find(recipe).make().model_copy(update={"seed": seed, "steps": steps})
    (folder / "config.yaml").write_text(to_yaml(config))
    (folder / "summary.json").write_text(
        json.dumps(
            {
                "steps": steps,
                "config_hash": "c0",
                "seconds": 120.0,
                "cpu_seconds": 180.0,
                "data": "d",
                "verdict": "learning",
            }
        )
    )
    lines = [{"step": step, "knn_mean": knn * step / steps} for step in (0, steps)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    score = {"unit": "accuracy", "n": 400, "spread": 0.01}
    old, new = (
        {
            "scores": [{"name": "knn_encoder_mean", "value": value, **score}],
            "control": [],
            "test": "t",
            "weights": str(folder),
            "config_hash": "c0",
            "steps": steps,
        }
        for value in (0.1, knn)
    )
    (folder / "results.jsonl").write_text(json.dumps(old) + "\n" + json.dumps(new) + "\n")
    return folder


KNN = "knn_encoder_mean on t"
MADE = ("--study", "compare_cpu", "--data", "shapes:8", "--test", "shapes:8:test", "--out", "never-made")


def test_runs_that_differ_in_their_seed_are_one_row(tmp_path: Path) -> None:
    values = [0.50, 0.56, 0.53]
    folders = [finished(tmp_path / f"a{seed}", seed=seed, knn=value) for seed, value in enumerate(values)]
    folders.append(finished(tmp_path / "mae", seed=0, knn=0.4, recipe="mae_cpu"))
    rows = compare_runs(folders)
    assert [(row.name, len(row.runs)) for row in rows] == [("siamese_im_cpu_adamw", 3), ("mae_cpu", 1)]
    assert rows[0].mean(KNN) == pytest.approx(statistics.fmean(values))
    assert rows[0].spread(KNN) == pytest.approx(statistics.stdev(values))
    assert rows[1].spread(KNN) == 0.01  # of one seed: as the evaluation said it
    lines = markdown(cells_of(rows, {"siamese_im_cpu_adamw": 0.5, "mae_cpu": 0.25}))
    assert lines[2] == "| siamese_im_cpu_adamw | 3 | 6,400 | 0.5 | 0.0032 | 2 | 3 | 0.530 ± 0.030 |"
    assert [line["value"] for line in table(rows, {"siamese_im_cpu_adamw": 0.5, "mae_cpu": 0.25})] == [*values, 0.4]


def test_a_score_that_one_seed_lacks_is_named_not_averaged(tmp_path: Path) -> None:
    folders = [finished(tmp_path / f"a{seed}", seed=seed, knn=0.5) for seed in range(3)]
    more = [{"name": "linear_encoder_mean", "value": 0.6, "unit": "accuracy", "n": 400, "spread": 0.01}]
    control = [{**more[0], "name": "linear_untrained_mean"}]
    line = {
        "scores": more,
        "control": control,
        "test": "t",
        "weights": str(folders[1]),
        "config_hash": "c0",
        "steps": 100,
    }
    with (folders[1] / "results.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    rows = compare_runs(folders)
    assert "0.6" not in "".join(markdown(cells_of(rows, {"siamese_im_cpu_adamw": 0.5})))
    assert notes(rows)[1:] == ["siamese_im_cpu_adamw: linear_encoder_mean on t is left out, as seeds 0, 2 lack it"]
    write_comparison_page(tmp_path / "c.html", rows, {"siamese_im_cpu_adamw": 0.5}, command="otherview compare")
    assert notes(rows)[0] == "n = 400 test images: knn mean" and notes(rows)[1] in (tmp_path / "c.html").read_text()


def test_controls_are_lines_of_their_own_and_stand_once(tmp_path: Path) -> None:
    folders = [
        finished(tmp_path / "a", seed=0, knn=0.5),
        finished(tmp_path / "a1", seed=1, knn=0.5),
        finished(tmp_path / "b", seed=0, knn=0.4, recipe="supervised_cpu"),
    ]
    for folder, untrained in zip(folders, (0.25, 0.25, 0.125), strict=True):
        score = {"unit": "accuracy", "n": 400, "spread": 0.01}
        shown = {"knn_untrained_mean": untrained, "knn_pixels": 0.375}
        control = [{"name": name, "value": value, **score} for name, value in shown.items()]
        scores = [{"name": f"knn_encoder_{token}", "value": 0.5, **score} for token in ("mean", "cls")]
        line = {"scores": scores, "control": control, "test": "t", "config_hash": "c0", "steps": 100}
        (folder / "results.jsonl").write_text(json.dumps(line) + "\n")
    lines = markdown(cells_of(compare_runs(folders), {"siamese_im_cpu_adamw": 0.5, "supervised_cpu": 0.25}))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][-2:] == ["knn mean", "knn cls"]
    assert [(line[0], *line[-2:]) for line in cells[2:]] == [
        ("siamese_im_cpu_adamw", "0.500 ± 0.010", "0.500 ± 0.010"),
        ("siamese_im_cpu_adamw: untrained", "0.250 ± 0.010", ""),
        ("siamese_im_cpu_adamw: raw pixels", "0.375 ± 0.010", ""),
        ("supervised_cpu", "0.500 ± 0.010", "0.500 ± 0.010"),
        ("supervised_cpu: untrained", "0.125 ± 0.010", ""),
    ]


def test_other_settings_are_another_row(tmp_path: Path) -> None:
    folders = [finished(tmp_path / str(steps), seed=0, knn=0.5, steps=steps) for steps in (100, 200)]
    names = [f"siamese_im_cpu_adamw ({folder})" for folder in folders]
    assert [row.name for row in compare_runs(folders)] == names


def test_other_data_is_another_row_and_a_seed_counts_once(tmp_path: Path) -> None:
    folders = [finished(tmp_path / name / "seed-0", seed=0, knn=0.5) for name in ("a", "b")]
    with pytest.raises(WrongRequest, match="is the same run as"):
        compare_runs(folders)
    summary = json.loads((folders[1] / "summary.json").read_text())
    (folders[1] / "summary.json").write_text(json.dumps({**summary, "data": "others"}))
    assert len({row.name for row in compare_runs(folders)}) == 2


@pytest.mark.slow
def test_the_verb_writes_table_csv_and_curves(tmp_path: Path, otherview: Callable) -> None:
    folders = [finished(tmp_path / f"a{seed}", seed=seed, knn=0.5 + seed / 10) for seed in range(2)]
    done = otherview("compare", *folders, "--csv", tmp_path / "t.csv", "--curves", tmp_path / "c.png", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert row["seeds"] == [0, 1] and row["scores"][KNN]["mean"] == pytest.approx(0.55)
    with (tmp_path / "t.csv").open(newline="") as file:
        assert [line["value"] for line in csv.DictReader(file)] == ["0.5", "0.6"]
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_of_a_comparison_has_table_curves_and_who_leads(tmp_path: Path) -> None:
    folders = [finished(tmp_path / f"a{seed}", seed=seed, knn=0.5 + seed / 100) for seed in range(2)]
    folders.append(finished(tmp_path / "mae", seed=0, knn=0.4, recipe="mae_cpu"))
    write_comparison_page(
        tmp_path / "c.html",
        compare_runs(folders),
        {"siamese_im_cpu_adamw": 0.5, "mae_cpu": 0.25},
        command="otherview compare",
    )
    text = (tmp_path / "c.html").read_text()
    said = "siamese_im_cpu_adamw leads: knn_encoder_mean on t 0.505, 10.5 points above mae_cpu 0.400 (spread 0.010)."
    assert said in text
    assert "than chance" not in text.split('id="data">')[0]
    assert ">0.505 ± 0.007</td>" in text and text.count("<tr>") == 6
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert [chart["x"] for chart in data] == ["thousand images", "PFLOP", "minutes"]
    assert data[0]["series"][0]["points"][-1] == [6.4, pytest.approx(0.505)]


def test_two_seeds_that_agree_by_chance_make_no_clear_lead(tmp_path: Path) -> None:
    folders = [finished(tmp_path / f"a{seed}", seed=seed, knn=0.5 + seed / 10_000) for seed in range(2)]
    folders += [finished(tmp_path / f"b{seed}", seed=seed, knn=0.499, recipe="mae_cpu") for seed in range(2)]
    assert str(verdict_of(compare_runs(folders))) == (
        "level: siamese_im_cpu_adamw: knn_encoder_mean on t 0.500, 0.1 points above mae_cpu 0.499 (spread 0.010), which "
        "may be luck. Run more seeds."
    )


def test_runs_judged_on_different_images_are_neither_compared_nor_drawn_together(tmp_path: Path) -> None:
    folders = [finished(tmp_path / name, seed=0, knn=0.5, recipe=recipe) for name, recipe in
               (("a", "siamese_im_cpu_adamw"), ("b", "mae_cpu"))]  # fmt: skip
    for folder, test in zip(folders, ("cats", "dogs"), strict=True):
        line = json.loads((folder / "results.jsonl").read_text().splitlines()[-1])
        (folder / "results.jsonl").write_text(json.dumps({**line, "test": test}) + "\n")
        (folder / "data.json").write_text(json.dumps({"data": "d", "images": 9, "knn_bank": "bank", "knn_test": test}))
    rows = compare_runs(folders)
    found = verdict_of(rows)
    assert found.state == "cannot be compared" and "on cats" in found.evidence and "evaluate knn" in found.action
    assert {where: [row.name for row in some] for where, some in watched_alike(rows).items()} == {
        "cats (bank bank)": ["siamese_im_cpu_adamw"], "dogs (bank bank)": ["mae_cpu"],
    }  # fmt: skip
    gflops = {"siamese_im_cpu_adamw": 0.5, "mae_cpu": 0.25}
    assert len(draw_comparison(rows, gflops).axes) == 6
    write_comparison_page(tmp_path / "c.html", rows, gflops, command="otherview compare")
    text = (tmp_path / "c.html").read_text(encoding="utf-8")
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert [[one["name"] for one in chart["series"]] for chart in data] == [["siamese_im_cpu_adamw"]] * 3 + [
        ["mae_cpu"]
    ] * 3
    assert any("watched on different images" in said for said in notes(rows))
    for folder in folders:  # as runs of before have it: not recorded, and on other images
        (folder / "data.json").unlink()
    summary = json.loads((folders[1] / "summary.json").read_text())
    (folders[1] / "summary.json").write_text(json.dumps({**summary, "data": "elsewhere"}))
    assert len(watched_alike(compare_runs(folders))) == 2


def test_tables_fit_a_terminal(tmp_path: Path) -> None:
    """As many columns beside each other as fit; a score that nobody of them has is left out."""
    head = ["", "seeds", "a score with a long name (train images 2,000, test images 500)", "none"]
    rows = [[f"a recipe with quite a long name {number}", "2", "0.530 ± 0.030", ""] for number in range(7)]
    found = narrow([head, *rows])
    assert max(map(len, found)) <= 100 and sum("0.530" in line for line in found) > 1
    assert "".join(found).count("0.530 ± 0.030") == 7 and not any("none" in line for line in found)


def test_moco_v3_is_followed_by_its_cls_token(tmp_path: Path) -> None:
    folder = finished(tmp_path / "a", seed=0, knn=0.4, recipe="moco_v3_cpu")
    lines = [{"step": step, "knn_mean": 0.1, "knn_cls": 0.3} for step in (0, 50)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (row,) = compare_runs([folder])
    assert mean_curve(row, lambda *_: 2.0) == ([0.0, 2.0], [0.3, 0.3])


def test_the_leader_is_found_by_every_method_s_own_token(tmp_path: Path) -> None:
    folders = [finished(tmp_path / name, seed=0, knn=knn, recipe=recipe) for name, recipe, knn in
               (("a", "siamese_im_cpu_adamw", 0.45), ("b", "moco_v3_cpu", 0.42))]  # fmt: skip
    for folder, cls in zip(folders, (0.40, 0.47), strict=True):
        line = json.loads((folder / "results.jsonl").read_text().splitlines()[-1])
        line["scores"].append({**line["scores"][0], "name": "knn_encoder_cls", "value": cls})
        (folder / "results.jsonl").write_text(json.dumps(line))
        (folder / "metrics.jsonl").unlink()
    said = "moco_v3_cpu: knn_encoder_cls on t and knn_encoder_mean on t 0.470, 2.0 points above siamese_im_cpu_adamw"
    assert said in str(verdict_of(compare_runs(folders)))


def test_what_was_found_of_another_encoder_is_not_the_runs(tmp_path: Path) -> None:
    folder = finished(tmp_path / "a", seed=0, knn=0.4)
    line = json.loads((folder / "results.jsonl").read_text().splitlines()[-1])
    line["scores"][0]["value"] = 0.9
    others = {"weights": str(folder / "target.safetensors")}, {"weights": "random:r", "steps": 0}, {"config_hash": "c1"}
    with (folder / "results.jsonl").open("a") as file:
        file.writelines(json.dumps(line | other) + "\n" for other in others)
    assert compare_runs([folder])[0].mean(KNN) == 0.4


def test_the_command_on_the_page_makes_the_same_comparison() -> None:
    asked = CompareSettings(
        study="ablate_cpu_mask", data="c/train-*.tar", test="t", out=Path("runs/a b"), rows=("as it is",), seeds=(3,),
        equal="compute", steps=9, size=64, measures=("knn",), allow_shared=True, report=Path("page.html"),
    )  # fmt: skip
    words = shlex.split(_command(asked))
    assert words[:2] == ["otherview", "compare"] and "page.html" not in words
    again = tyro.cli(CompareSettings, args=words[2:])
    assert again == replace(asked, report=None)
    assert _command(CompareSettings(folders=(Path("a"), Path("b")))) == "otherview compare a b"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nothing to compare"),
        (("x", "--report", "c.txt"), "must end in .html"),
        (("reference:nothing",), "does not ship with otherview"),
        (("nowhere",), "holds no finished run"),
        (("--study", "compare_pic"), "did you mean compare_cpu"),
        (("--study", "compare_cpu"), "--study needs --data SPEC"),
        (("--study", "compare_cpu", "nowhere"), "give either folders or --study"),
        ((*MADE, "--steps", "0"), "--steps 0 is too few"),
        ((*MADE, "--seeds", "1", "2", "1"), "--seeds 1 2 1 has one twice"),
        ((*MADE, "--rows", "mae", "mea"), "compare_cpu has no row 'mea'"),
    ],
)
def test_wrong_comparisons(words: tuple[str, ...], said: str, otherview: Callable) -> None:
    done = otherview("compare", *words)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_every_row_of_every_study_is_a_config_that_fits() -> None:
    for study in STUDIES:
        rows = study.rows()
        assert len(rows) > 1 and find_study(study.name) is study
        for name, config in rows.items():
            config.check()
            steps = {"drawn": 600, "ablate_cpu": 1650, "imagenette": 7397, "cifar10": 19531}
            assert config.steps == next((n for words, n in steps.items() if words in study.name), 3300), name
        assert len({to_yaml(config) for config in rows.values()}) == len(rows), study.name
    masks = find_study("ablate_cpu_masks").rows()
    first = masks["as it is"].views
    assert masks["four masks"].views == first.model_copy(update={"masks_per_image": 4})


def test_equal_compute_and_equal_images_keep_a_variant_s_warm_up(tmp_path: Path) -> None:
    def rows(study: str, **changes: object) -> dict[str, RunConfig]:
        plan = replace(planned(tmp_path / study / str(len(changes))), steps=None, **changes)
        return {task.row: task.config for task in tasks_of(find_study(study), plan)}

    images = rows("ablate_cpu_masks")
    seen = {name: config.batch * (config.steps or 0) for name, config in images.items()}
    assert len(set(seen.values())) == 1 and images["four masks a quarter of the images"].batch == 16
    rates = {config.training.lr_per_256 * config.batch for config in images.values()}
    assert len(rates) == 1  # the same rate for as many questions a step
    compute = rows("ablate_cpu_masks", equal="compute")
    costs = {name: flops_per_image(c) * c.batch * (c.steps or 0) for name, c in compute.items()}
    assert all(cost == pytest.approx(costs["as it is"], rel=2e-3) for cost in costs.values())
    assert len({c.steps for c in compute.values()}) > 4
    for studied in (images, compute, rows("ablate_cpu_mask", equal="compute")):
        for name, c in studied.items():  # no more than half of the steps
            assert c.training.warmup * (c.steps or 0) == pytest.approx(min(330, (c.steps or 0) / 2)), name
    methods = rows("compare_cpu", equal="compute")
    assert {name: c.training.warmup for name, c in methods.items()} == {
        name: c.training.warmup for name, c in find_study("compare_cpu").rows().items()
    }


def planned(out: Path) -> Plan:
    return Plan(
        data="x", test="y", out=out, rows=(), seeds=(1,), equal="images", steps=9, size=None, measures=("knn",),
        allow_shared=False, at_once=1, threads=1, device="auto",
    )  # fmt: skip


def test_studies_share_a_folder_and_its_common_row_but_no_other_settings(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    masks, losses = (tasks_of(find_study(f"ablate_cpu_{name}"), plan) for name in ("mask", "loss"))
    assert masks[0].folder == losses[0].folder and masks[0].config == losses[0].config
    assert len({task.folder for task in masks + losses}) == len(masks) + len(losses) - 1
    masks[0].folder.mkdir()
    (masks[0].folder / "config.yaml").write_text(to_yaml(masks[0].config))
    tasks_of(find_study("ablate_cpu_loss"), plan)
    with pytest.raises(WrongRequest, match=r"as-it-is/seed-1/config\.yaml is of a run with other settings"):
        tasks_of(find_study("tune_cpu_mae"), plan)
    with pytest.raises(WrongRequest, match=r"two-masks/seed-1\.yaml is of a run with other settings"):
        waiting = replace(plan, rows=("two masks",))
        tasks_of(find_study("ablate_cpu_masks"), waiting)
        tasks_of(find_study("ablate_cpu_masks"), replace(waiting, steps=10))
    with pytest.raises(WrongRequest, match="holds runs on"):
        tasks_of(find_study("ablate_cpu_loss"), replace(plan, data="z"))


def test_a_study_asks_what_was_judged_by_another_protocol_only(tmp_path: Path) -> None:
    plan = replace(
        planned(tmp_path), measures=("knn", "linear", "few-shot", "linear-segment"), test="shapes:1000:test@32"
    )
    task = tasks_of(find_study("compare_cpu"), plan)[0]
    task.folder.mkdir()
    (task.folder / "summary.json").write_text("{}")
    own = {"train": plan.data, "test": plan.test}
    drawn = {"train": "shapes:2000@32", "test": "shapes:1000:test@32"}

    def left(*lines: tuple[str, dict[str, str]]) -> list[str]:
        written = [json.dumps({"scores": [{"name": name}], **about}) + "\n" for name, about in lines]
        (task.folder / "results.jsonl").write_text("".join(written))
        return [command[4] for command in task.commands(plan)]

    assert left() == list(plan.measures)
    assert left(("knn_encoder_mean (block 1)", own), ("few_shot_encoder_mean (5 shots)", own)) == list(plan.measures)
    assert left(("knn_encoder_mean", own | {"train": "z"})) == list(plan.measures)
    assert left(("linear_segment_encoder_miou", drawn)) == ["knn", "linear", "few-shot"]
    assert "few-shot" in left(("few_shot_encoder_mean (1 %)", own))  # by the centre crop that photos get
    few = "few_shot_encoder_mean (1 %) (crop pct 1)", own | {"crop_pct": 1.0}
    assert left(("linear_encoder_mean", own), few) == ["knn", "linear-segment"]


def test_a_study_fine_tunes_where_it_is_asked_to_and_by_its_own_protocol(tmp_path: Path) -> None:
    plan = replace(planned(tmp_path), measures=("finetune",))
    task = tasks_of(find_study("compare_cpu"), plan)[0]
    task.folder.mkdir()
    (task.folder / "summary.json").write_text("{}")
    (command,) = task.commands(plan)
    assert command[4:] == [
        "finetune", "--weights", str(task.folder), "--train", plan.data, "--test", plan.test, "--protocol", "paper",
        "--crop-pct", "1", "--epochs", "5", "--batch", "128", "--rate", "0.004", "--augment", "none", "--mixup", "0",
        "--cutmix", "0", "--erasing", "0", "--drop-path", "0", "--no-control", "--threads", "1", "--device", "auto",
    ]  # fmt: skip
    protocol = {
        "train": plan.data, "test": plan.test, "protocol": "paper", "crop_pct": 1.0, "epochs": 5.0, "batch": 128, "rate": 0.004,
        "augment": "none", "mixup": 0.0, "cutmix": 0.0, "erasing": 0.0, "drop_path": 0.0,
    }  # fmt: skip
    for left, about in ((0, protocol), (1, protocol | {"epochs": 6.0})):
        line = {"scores": [{"name": MEASURES["finetune"]}], **about}
        (task.folder / "results.jsonl").write_text(json.dumps(line) + "\n")
        assert len([*task.commands(plan)]) == left


def test_studies_that_start_at_the_same_moment_share_a_folder(tmp_path: Path) -> None:
    plans = [planned(tmp_path / str(number)) for number in range(20) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda plan: tasks_of(find_study("compare_cpu"), plan), plans))
    assert {len(tasks) for tasks in found} == {4} and not list(tmp_path.rglob("*.tmp"))


def test_a_study_at_another_size_keeps_the_patches(tmp_path: Path) -> None:
    plan = replace(planned(tmp_path), size=64)
    tasks = tasks_of(find_study("compare_cpu"), plan)
    assert len(tasks) == 4
    for task in tasks:
        task.config.check()
        assert (task.config.encoder.image_size, task.config.encoder.patch_size) == ((64, 64), 8)
        assert task.config.steps == 9
    with pytest.raises(WrongRequest, match="--size 60 does not divide into 8 patches"):
        tasks_of(find_study("compare_cpu"), replace(plan, size=60))


@pytest.mark.slow
def test_a_study_stopped_in_its_middle_goes_on_and_skips_what_is_done(
    tmp_path: Path, otherview: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHERVIEW_SHORTEN", "1")  # the processes of the study inherit it
    words = ["compare", "--study", "compare_cpu", "--rows", "siamese_im", "supervised", "--data", "shapes:128"]
    words += [
        "--test",
        "shapes:40:test",
        "--steps",
        "4",
        "--seeds",
        "3",
        "--out",
        str(tmp_path / "s"),
        "--at-once",
        "2",
    ]
    runner = subprocess.Popen([sys.executable, "-m", "otherview", *words], stderr=subprocess.PIPE, text=True)
    first = tmp_path / "s/siamese_im/seed-3/results.jsonl"
    deadline = time.monotonic() + 300
    while not first.exists() and runner.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    runner.send_signal(signal.SIGTERM)
    _, said = runner.communicate(timeout=120)
    assert runner.returncode == 75, said
    written = (tmp_path / "s/siamese_im/seed-3/summary.json").stat().st_mtime_ns
    done = otherview(*words, "--json")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "s/siamese_im/seed-3/summary.json").stat().st_mtime_ns == written
    rows = json.loads(done.stdout)["rows"]
    assert [row["name"] for row in rows] == ["siamese_im", "supervised"]
    for row in rows:
        kinds = {name.split(" on ")[0] for name in row["scores"]}
        assert {
            "knn_encoder_mean",
            "linear_encoder_mean",
            "linear_segment_encoder_miou",
            "retrieval_encoder",
            "few_shot_encoder_mean (1 %) (crop pct 1)",
            "knn_pixels",
        } <= kinds
    again = otherview(*words, "--json")
    assert json.loads(again.stdout)["rows"] == rows and "seed 3:" not in again.stderr
    for change, said in ((("--steps", "3"), "steps 4 → 3"), (("--test", "shapes:30:test"), "shapes:40:test")):
        refused = otherview(*words, *change)
        assert refused.returncode == 2 and said in refused.stderr
