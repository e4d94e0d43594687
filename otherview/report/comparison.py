"""Several runs side by side: what each learned, from how many images, for how much compute.

rows = compare_runs([Path("runs/a"), Path("runs/b")])      # runs that differ in their seed alone are one row
markdown(cells_of(rows, gflops)), table(rows, gflops)
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from otherview.config import RunConfig, config_hash, load_config
from otherview.errors import WrongRequest
from otherview.files import json_lines
from otherview.scores import results_of_run


class Finished(NamedTuple):
    """One run that has ended, and what was found of it."""

    name: str
    folder: Path
    config: RunConfig
    data: str
    """What it was trained on."""
    images: int
    """Seen in training."""
    seconds: float
    cpu_seconds: float | None
    """Where it was trained on a CPU and kept."""
    scores: dict[str, float]
    """The last result of every kind and test SPEC: 'knn_encoder_mean on cifar10/test.parquet' …"""
    errors: dict[str, float]
    """The spread that the evaluation gave: over test images, or over draws."""
    n: dict[str, int]
    """Test images of every score."""
    curve: list[dict[str, Any]]
    """The metrics log's lines with an online kNN."""
    watched: str
    """Which images that kNN was judged on."""


class Row(NamedTuple):
    """Runs that differ in their seed alone."""

    name: str
    runs: list[Finished]

    def mean(self, score: str) -> float:
        return statistics.fmean(run.scores[score] for run in self.runs)

    def spread(self, score: str) -> float:
        """The standard deviation over seeds; of a single run, and of pixels, which no seed changes, what the evaluation gave
        (over test images, or over draws)."""
        values = [run.scores[score] for run in self.runs]
        return statistics.stdev(values) if len(set(values)) > 1 else self.runs[0].errors[score]

    def doubt(self, score: str) -> float:
        """The spread, and no less than one evaluation's: few seeds may agree by chance."""
        return max(self.spread(score), *(run.errors[score] for run in self.runs))

    def own(self, score: str) -> str:
        """The name of that score by the method's own feature, where the row has it."""
        own = score.replace("_encoder_mean", f"_encoder_{self.runs[0].config.token}")
        return own if own in self.scores else score

    @property
    def scores(self) -> list[str]:
        """What all runs of the row have."""
        return [name for name in self.runs[0].scores if all(name in run.scores for run in self.runs)]


def compare_runs(folders: Sequence[Path], names: Mapping[Path, str] | None = None) -> list[Row]:
    """Group finished runs by data and everything but the seed, in the order given.

    Raises WrongRequest for what is no finished run and for the same run given twice.
    """
    groups: dict[str, list[Finished]] = {}
    for folder in folders:
        run = read_run(folder, (names or {}).get(folder))
        key = f"{run.name} {run.data} {config_hash(run.config.model_copy(update={'seed': 0}))}"
        for other in groups.setdefault(key, []):
            if other.config.seed == run.config.seed:
                raise WrongRequest(
                    f"{folder} is the same run as {other.folder}, seed {run.config.seed}: give one of them"
                )
        groups[key].append(run)
    return [Row(_unlike(group[0], groups.values()), group) for group in groups.values()]


def _unlike(run: Finished, groups: Iterable[Sequence[Finished]]) -> str:
    """The run's name, with its folder where another row has the same name."""
    twice = sum(group[0].name == run.name for group in groups) > 1
    return f"{run.name} ({run.folder})" if twice else run.name


def read_run(folder: Path, name: str | None = None) -> Finished:
    """A run from its folder; its name is that of its recipe unless another is given."""
    if not (folder / "summary.json").is_file():
        raise WrongRequest(f"{folder} holds no finished run: give folders that `otherview pretrain` has finished")
    config = load_config(folder / "config.yaml")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    found = {
        f"{score['name']} on {line['test']}": score
        for line in results_of_run(folder)
        for score in (*line["scores"], *line["control"])
    }
    return Finished(
        name=name or config.recipe or config.method.name,
        folder=folder,
        config=config,
        data=summary.get("data", ""),
        images=summary["steps"] * config.batch,
        seconds=summary["seconds"],
        cpu_seconds=summary.get("cpu_seconds"),
        scores={column: score["value"] for column, score in found.items()},
        errors={column: score["spread"] for column, score in found.items()},
        n={column: score["n"] for column, score in found.items()},
        curve=[line for line in json_lines(folder / "metrics.jsonl") if line.get("knn_mean") is not None],
        watched=_watched(folder, trained_on=summary.get("data", "")),
    )


def _watched(folder: Path, *, trained_on: str) -> str:
    """Which images an online kNN looked at; where nobody wrote it down, those of runs on other data were others."""
    path = folder / "data.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return (
        f"{known['knn_test']} (bank {known['knn_bank']})"
        if known.get("knn_test")
        else f"images that were not recorded, by a run on {trained_on}"
    )


CONTROLS = {"frozen": "frozen features", "start": "start weights", "untrained": "untrained", "pixels": "raw pixels"}
"""What stands beside a score, by the word in its name, and what its line is called."""


COST = slice(2, 7)
"""The columns of the table that say what a row cost; scores stand behind them."""


def cells_of(rows: Sequence[Row], gflops: Mapping[str, float]) -> list[list[str]]:
    """The table, its head first: mean ± standard deviation over seeds, of one seed the spread of its evaluation.

    Below a row stand its controls, each once: rows that share an encoder share the untrained one, and all share the
    pixels. `gflops` is per image, by row name.
    """
    columns = _columns(rows)
    head = ["", "seeds", "images", "GFLOP an image", "PFLOP", "minutes", "CPU minutes", *_short(columns)]
    lines = [head]
    known: set[tuple[str, ...]] = set()
    for row in rows:
        run = row.runs[0]
        facts = [f"{run.images:,}", f"{gflops[row.name]:.3g}", f"{gflops[row.name] * run.images / 1e6:.3g}"]
        minutes = [_minutes([one.seconds for one in row.runs]), _minutes([one.cpu_seconds for one in row.runs])]
        lines.append([row.name, str(len(row.runs)), *facts, *minutes, *_cells(row, columns)])
        for control, words in CONTROLS.items():
            named = {_judged(score, control, columns): score for score in row.scores if _control_of(score) == control}
            cells = _cells(row, [named.get(column, "") for column in columns])
            values = tuple(cell.split(" ")[0] for cell in cells)  # seeds differ in how often a row has them
            if any(values) and values not in known:
                known.add(values)
                lines.append([f"{row.name}: {words}", str(len(row.runs)), *[""] * 5, *cells])
    return lines


def markdown(cells: Sequence[Sequence[str]]) -> list[str]:
    """A table that can be pasted."""
    head, *rows = cells
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]


def notes(rows: Sequence[Row]) -> list[str]:
    """What stands below the table, a sentence each: how many test images, what is left out because some seeds lack it."""
    columns = _columns(rows)
    counted: dict[int, list[str]] = {}
    for column, short in zip(columns, _short(columns), strict=True):
        for count in dict.fromkeys(run.n[column] for row in rows if column in row.scores for run in row.runs):
            counted.setdefault(count, []).append(short)
    test = [f"n = {count:,} test images: {', '.join(shorts)}" for count, shorts in counted.items()]
    watched = {run.watched: row.name for row in rows for run in row.runs if run.curve}
    if len(watched) > 1:
        words = "; ".join(f"{name}: {where}" for where, name in watched.items())
        test.append(f"the curves of runs that were watched on different images are drawn apart ({words})")
    return test + [
        f"{row.name}: {score} is left out, as {_seeds(lacking)} it"
        for row in rows
        for score in dict.fromkeys(score for run in row.runs for score in run.scores if not _control_of(score))
        if (lacking := [run.config.seed for run in row.runs if score not in run.scores])
    ]


def _columns(rows: Sequence[Row]) -> list[str]:
    """The encoders' scores that some row has, each once."""
    return list(dict.fromkeys(score for row in rows for score in row.scores if not _control_of(score)))


def _minutes(seconds: Sequence[float | None]) -> str:
    known = [value for value in seconds if value is not None]
    return f"{statistics.fmean(known) / 60:.0f}" if len(known) == len(seconds) else ""


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]} lacks" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))} lack"


def _cells(row: Row, scores: Sequence[str]) -> list[str]:
    return [f"{row.mean(score):.3f} ± {row.spread(score):.3f}" if score in row.scores else "" for score in scores]


def _control_of(score: str) -> str | None:
    return next((word for word in CONTROLS if word in score.split(" ")[0].split("_")), None)


def _judged(score: str, control: str, columns: Sequence[str]) -> str:
    """The encoder's score that a control stands beside; pixels have no tokens, so they stand beside the mean token."""
    names = [score.replace(control, subject, 1) for subject in ("encoder", "encoder_mean")]
    return next((name for name in names if name in columns), names[0])


def _short(columns: Sequence[str]) -> list[str]:
    """Column titles, without the test SPEC where it tells nothing apart, and without the word that all have."""
    bare = [column.split(" on ")[0] for column in columns]
    return [
        (name if bare.count(name) == 1 else column).replace("_encoder", "", 1).replace("_", " ")
        for name, column in zip(bare, columns, strict=True)
    ]


def table(rows: Sequence[Row], gflops: Mapping[str, float]) -> list[dict[str, Any]]:
    """One line per run and score, for a spreadsheet."""
    return [
        {
            "row": row.name, "seed": run.config.seed,
            "score": score, "value": value, "spread": run.errors[score], "n": run.n[score],
            "images": run.images, "gflops_per_image": gflops[row.name], "seconds": run.seconds,
            "cpu_seconds": run.cpu_seconds,
            "config_hash": config_hash(run.config), "folder": str(run.folder),
        }
        for row in rows
        for run in row.runs
        for score, value in run.scores.items()
    ]  # fmt: skip
