"""report.html of a run: a function of what its folder holds, so it can be written at any time.

    write_run_page(Path("runs/first"))

What was run, is it learning, what it sees, how good it is, what it cost.
"""

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from otherview.config import RunConfig, config_hash, load_config
from otherview.errors import BrokenImage
from otherview.files import json_lines
from otherview.judgement import BAD, CHANCE
from otherview.launch import launched_rank
from otherview.methods.learner import Learner
from otherview.report.page import Bar, Bars, Chart, Part, Picture, Section, Table, write_page
from otherview.scores import results_of_run
from otherview.training.callbacks import Callback
from otherview.training.health import judged

PICTURES = "pictures"
"""Folder of a run with PNG files; a file NAME.txt beside one explains it."""
MOST_POINTS = 400
SHOWN_DIRECTIONS = 1, 2, 4, 8, 16, 32
"""Of the spectrum of C, by rank."""


def write_run_page(folder: Path) -> Path:
    """Read the folder, write report.html into it; returns its path."""
    config = load_config(folder / "config.yaml")
    lines, results = json_lines(folder / "metrics.jsonl"), json_lines(folder / "results.jsonl")
    summary = json.loads((folder / "summary.json").read_text()) if (folder / "summary.json").exists() else None
    path = folder / "report.html"
    write_page(
        path,
        title=f"{config.method.name} · {folder.name}",
        verdict=_verdicts(config, summary, lines, results, folder=folder),
        facts=_facts(config, summary, lines),
        command=_command(folder, config),
        sections=[
            Section("Is it learning?", _learning(lines)),
            Section("What it sees", _pictures(folder / PICTURES)),
            Section("How good is it?", _scores(results)),
            Section("What it cost", _cost(lines)),
        ],
    )
    return path


def _verdicts(
    config: RunConfig,
    summary: Mapping[str, Any] | None,
    lines: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    *,
    folder: Path,
) -> list[str]:
    """What the run and its evaluations are told, bad news first; those of other weights name them."""
    said: list[tuple[bool, str]] = []
    if not lines:
        said.append((False, "the run has just begun"))
    else:
        found = judged(lines, token=config.token, final=summary is not None)
        said.append((found.bad, str(found) if summary else f"so far: {found}"))
    own = results_of_run(folder)
    for line in _latest(results):
        if (concluded := line.get("conclusion")) is not None:
            mine = line in own or Path(str(line.get("weights"))) == folder
            of = "" if mine else f" (weights {line.get('weights')})"
            said.append((concluded["state"] in BAD and not of, concluded["sentence"] + of))
    return [sentence for bad, sentence in sorted(said, key=lambda one: not one[0])]


def _latest(results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of a repeated evaluation the last."""
    found = {
        (line["scores"][0]["name"], *(str(line.get(side) or "") for side in ("train", "test", "weights"))): line
        for line in results
    }
    return list(found.values())


def _facts(
    config: RunConfig, summary: Mapping[str, Any] | None, lines: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    rows, columns = config.encoder.grid
    height, width = config.encoder.image_size
    last = lines[-1] if lines else {}
    found = [
        ("recipe", config.recipe or "own config"),
        ("config", config_hash(config)),
        ("seed", str(config.seed)),
        ("image size", f"{height}×{width} px, {rows}×{columns} patches"),
        ("encoder", f"{config.encoder.depth} blocks, width {config.encoder.width}, {config.encoder.heads} heads"),
        ("batch", f"{config.batch:,}"),
        ("steps", f"{(summary or last).get('steps', last.get('step', 0)):,}"),
    ]
    if summary:
        found += [
            ("data", str(summary["data"])),
            ("images read", f"{summary['images']:,}" if "images" in summary else "unknown"),
            ("broken images", f"{summary.get('broken_images', 0):,}"),
            ("images/s", f"{summary['images_per_second']:.0f}"),
            ("waited for data", f"{summary['waited_for_data_share']:.1%}"),
            ("minutes", f"{summary['seconds'] / 60:.1f}"),
        ]
    return found


def _command(folder: Path, config: RunConfig) -> str:
    first = (folder / "config.yaml").read_text(encoding="utf-8").splitlines()[0]
    data = first.partition("--data ")[2] or "SPEC"
    return f"otherview pretrain --config {shlex.quote(str(folder / 'config.yaml'))} --data {data} --out NEW --seed {config.seed}"


def _series(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """(step, value) where a line has it, thinned to what a page can show; the last one is kept."""
    points = [(float(line["step"]), float(line[name])) for line in lines if isinstance(line.get(name), int | float)]
    every = -(-len(points) // MOST_POINTS) if points else 1
    return points[::-1][::every][::-1]


def _chart(
    title: str,
    text: str,
    lines: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    *,
    levels: Mapping[str, float] | None = None,
) -> list[Part]:
    series = {shown: points for name, shown in names.items() if (points := _series(lines, name))}
    return [Chart(title, text, "step", series, levels or {})] if series else []


LEVELS = {"knn_pixels": "raw pixels", "knn_chance": "chance level", "knn_untrained_mean": "untrained encoder"}


def _levels(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What the kNN is drawn beside, from the line that has it."""
    first = next((line for line in lines if "knn_images" in line), {})
    return {words: first[name] for name, words in LEVELS.items() if first.get(name) is not None}


def _learning(lines: Sequence[Mapping[str, Any]]) -> list[Part]:
    spread = [{"step": line["step"], **_directions(line["spectrum"])} for line in lines if line.get("spectrum")]
    directions = {f"d{rank}": f"direction {rank}" for rank in SHOWN_DIRECTIONS}
    return [
        *_chart("Online kNN.", "Accuracy on labelled images: the curve to watch.", lines,
                {"knn_mean": "mean token", "knn_cls": "cls token"}, levels=_levels(lines)),
        *_chart("Patch retrieval.", "The share of patches that find their place in another crop; it needs no labels.", lines,
                {"retrieval": "patches that find their place"}),
        *_chart("RankMe.", "How many directions the features of some images use.", lines, {"rankme": "RankMe"}),
        *_chart("Effective rank.", "How many directions the targets use; it falls first and has to rise again.", lines,
                {"effective_rank": "effective rank"}),
        *_chart("Loss.", "It says little; near the least that its targets allow there is nothing left to learn.", lines,
                {"loss": "loss", "reachable_loss": "least reachable"}),
        *_chart("Spectrum of C.", "Share of the targets' variance in the strongest directions.", spread, directions),
        *_chart("Prediction and target.", "Cosine, the mean over tokens.", lines, {"cosine": "cosine"}),
        *_chart("Gradient norm.", "Before clipping.", lines, {"grad_norm": "gradient norm"}),
    ]  # fmt: skip


def _directions(shares: Sequence[float | None]) -> dict[str, float | None]:
    return {f"d{rank}": shares[rank - 1] for rank in SHOWN_DIRECTIONS if rank <= len(shares)}


def _pictures(folder: Path) -> list[Part]:
    found: list[Part] = []
    for path in sorted(folder.glob("*.png")):
        words = path.with_suffix(".txt")
        text = words.read_text(encoding="utf-8").strip() if words.exists() else ""
        title, _, rest = text.partition("\n")
        found.append(Picture(title or path.stem, rest, path.read_bytes()))
    return found


def _scores(results: Sequence[Mapping[str, Any]]) -> list[Part]:
    """Bars for every evaluation that concludes, then one table of all scores and their controls."""
    latest = _latest(results)
    rows: list[list[str]] = []
    for line in latest:
        about = [str(line.get(side) or "") for side in ("train", "test", "weights")]
        for score in [*line["scores"], *line["control"]]:
            value = f"{score['value']:.4f} ± {score['spread']:.4f}"
            rows.append([score["name"], value, score["unit"], f"{score['n']:,}", *about])
    head = ("score", "value", "unit", "test images", "learned from", "judged on", "weights")
    text = "± is the standard error (few shot: the standard deviation over draws). A click on a column's name sorts."
    return [*_bars(latest), *([Table("All scores.", text, head, rows)] if rows else [])]


def _bars(results: Sequence[Mapping[str, Any]]) -> list[Part]:
    found: list[Part] = []
    for line in results:
        if "conclusion" not in line:
            continue
        score = next(one for one in line["scores"] if one["name"] == line["conclusion"]["score"])
        bars = [_bar("this encoder", score["value"], score["spread"], score.get("interval"), mine=True)]
        bars += [_bar(one["reference"], one["value"], one["spread"]) for one in line.get("comparisons", ())]
        if "chance" in line and all(bar.name != CHANCE for bar in bars):
            bars.append(_bar(CHANCE, line["chance"], 0.0))
        name = score["name"].replace("_encoder", "").replace("_", " ")
        found.append(
            Bars(
                f"{name}.",
                f"{line['conclusion']['sentence']} Judged on {line.get('test')}, weights {line.get('weights')}.",
                bars,
            )
        )
    return found


def _bar(name: str, value: float, spread: float, interval: Sequence[float] | None = None, *, mine: bool = False) -> Bar:
    """With the 95 % interval: Wilson's where there is one, else 1.96 standard errors."""
    low, high = interval or (value - 1.96 * spread, value + 1.96 * spread)
    return Bar(name, value, max(0.0, low), high, mine)


def _cost(lines: Sequence[Mapping[str, Any]]) -> list[Part]:
    return [
        *_chart("Speed.", "Images per second since the last start.", lines, {"images_per_second": "images/s"}),
        *_chart("Waiting.", "Share of the time in which the model stood still for data.", lines, {"waited": "waited"}),
    ]


class Page(Callback):
    """Rewrites report.html; a page that cannot be written does not end a run."""

    def __init__(self, folder: Path, *, every: int) -> None:
        self.folder, self.every = folder, every

    def on_step(self, step: int, learner: Learner) -> Mapping[str, float]:
        refresh_page(self.folder)
        return {}


def refresh_page(folder: Path) -> None:
    """Rewrite report.html of a run folder; rank 0 alone. A fault is said, nothing more."""
    if launched_rank() == 0 and (folder / "config.yaml").exists():
        with said_and_passed_over():
            write_run_page(folder)


@contextmanager
def said_and_passed_over() -> Iterator[None]:
    """A full disk or an image that cannot be read costs a picture or a page, never the run: it is said."""
    try:
        yield
    except (OSError, ValueError, BrokenImage) as error:
        print(f"a picture or the page is left out: {error}", file=sys.stderr)


def keep_picture(folder: Path, name: str, figure: Figure, words: str) -> None:
    """A picture for the page, and the words that explain it: its title, and what it shows."""
    (folder / PICTURES).mkdir(exist_ok=True)
    figure.savefig(folder / PICTURES / f"{name}.png", dpi=110)
    (folder / PICTURES / f"{name}.txt").write_text(words, encoding="utf-8")
    plt.close(figure)
