"""The loop: equal weights whether stopped or not, killed or not; schedules, checkpoints, journal, verdict."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._pytree import tree_map

from otherview.bench.contenders import random_batch
from otherview.errors import WrongRequest
from otherview.files import json_lines
from otherview.methods.build import build_siamese_im
from otherview.recipes.registry import find
from otherview.runs.run_folder import prepare_folder
from otherview.training import loop
from otherview.training.metrics_log import MetricsLog
from otherview.training.optim import warmup_cosine
from otherview.training.state import environment, load_checkpoint, save_checkpoint
from otherview.weights.export import export as otherview_export
from otherview.weights.names import load_encoder
from tests.processes import has_trained

SMALL = (
    "pretrain", "--recipe", "siamese_im_cpu_adamw", "--data", "shapes:200", "--batch", "16", "--steps", "14",
    "--encoder.width", "32", "--encoder.depth", "1", "--method.head-width", "32", "--method.negative-weight", "0.5",
    "--training.save-every", "3", "--training.log-every", "2", "--threads", "1", "--device", "cpu",
)  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    both = {}
    for branch in ("encoder", "target"):
        both |= {f"{branch}.{name}": value for name, value in load_file(folder / f"{branch}.safetensors").items()}
    return both


def identical(a: Path, b: Path) -> bool:
    one, other = weights(a), weights(b)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    command = [sys.executable, "-m", "otherview", *SMALL, "--out", out, "--training.keep-every", "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_a_run_leaves_everything_that_is_promised(undisturbed: Path) -> None:
    names = {path.name for path in undisturbed.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "checkpoints", "encoder.safetensors", "target.safetensors"} <= names
    lines = json_lines(undisturbed / "metrics.jsonl")
    judged = [line for line in lines if "verdict" in line]
    assert [line["step"] for line in judged] == [*range(1, 14)]  # a twentieth of the run
    lines = [line for line in lines if "loss" in line]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12, 14]
    assert {"loss", "positive", "negative", "grad_norm", "lr", "effective_rank", "reachable_loss", "waited"} <= lines[
        0
    ].keys()
    kept = {path.name for path in (undisturbed / "checkpoints").glob("*.pt")}
    assert kept == {"last.pt", "before.pt", "step-000007.pt", "step-000014.pt"}  # whatever save_every is
    assert not list(undisturbed.rglob("*.tmp"))


@pytest.mark.slow
def test_a_host_that_reads_every_fourth_step_trains_the_same(
    otherview: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where the host runs ahead."""
    flags = [*SMALL, "--training.log-every", "7"]
    flags[flags.index("--training.save-every") + 1] = "11"
    for name, between in (("each", 1), ("fourth", 4)):
        monkeypatch.setattr(loop, "steps_between_reads", lambda _, between=between: between)
        assert otherview(*flags, "--out", tmp_path / name).returncode == 0
    assert identical(tmp_path / "each", tmp_path / "fourth")
    each, fourth = (
        [(line["step"], line["loss"]) for line in json_lines(tmp_path / name / "metrics.jsonl") if "loss" in line]
        for name in ("each", "fourth")
    )
    assert each == fourth and len(each) == 2
    wild = [*flags, "--training.lr-per-256", "1e30", "--training.max-skipped", "3", "--out", tmp_path / "wild"]
    done = otherview(*wild)
    assert done.returncode == 1 and "3 in a row" in done.stderr.splitlines()[-1]
    skipped = json_lines(tmp_path / "wild/nonfinite.jsonl")
    assert [line["step"] - skipped[0]["step"] for line in skipped] == [0, 1, 2]


@pytest.mark.slow
def test_every_checkpoint_is_an_encoder(undisturbed: Path, tmp_path: Path) -> None:
    """RUN@STEP and RUN@last, from the checkpoint alone; what was kept was exported as well."""
    last = load_encoder(f"{undisturbed}@last")
    assert last.card.model_dump() == load_encoder(undisturbed).card.model_dump()
    for one, other in (
        (last, undisturbed),
        (load_encoder(f"{undisturbed}@7"), undisturbed / "checkpoints/step-000007-encoder.safetensors"),
    ):
        known = load_encoder(other).encoder.state_dict()
        assert all(torch.equal(value, known[name]) for name, value in one.encoder.state_dict().items())
    assert load_encoder(f"{undisturbed}@7").card.steps == 7
    assert (undisturbed / "checkpoints/step-000007-target.safetensors").exists()
    assert not torch.equal(last.encoder.vit.cls_token, load_encoder(f"{undisturbed}@7").encoder.vit.cls_token)
    with pytest.raises(WrongRequest, match=r"@3 does not exist: the run has @7, @14, @last"):
        load_encoder(f"{undisturbed}@3")
    stopped = tmp_path / "stopped"
    shutil.copytree(undisturbed, stopped, ignore=shutil.ignore_patterns("*.safetensors", "summary.json"))
    with pytest.raises(
        WrongRequest,
        match=r"holds no encoder yet: the run is not finished \(the encoder of its newest checkpoint is .*stopped@last\)",
    ):
        load_encoder(stopped)
    out = tmp_path / "t"
    assert (
        otherview_export(f"{stopped}@last", to="safetensors", out=tmp_path / "e.safetensors")["difference"] < 1e-6
        and not out.exists()
    )


@pytest.mark.slow
def test_a_killed_run_continues_bit_for_bit_kill(undisturbed: Path, tmp_path: Path) -> None:
    """SIGKILL as soon as a checkpoint is there, the same command again: identical weights and journal."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "otherview", *SMALL, "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    patience = time.monotonic() + 120
    while not (out / "checkpoints/last.pt").exists() and time.monotonic() < patience:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "encoder.safetensors").exists(), "the run was over before it was killed"
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "continuing at step" in again.stderr
    assert identical(undisturbed, out)
    keep = ("step", "loss", "grad_norm", "effective_rank", "lr")
    journals = [
        [[line.get(name) for name in keep] for line in json_lines(d / "metrics.jsonl")] for d in (undisturbed, out)
    ]
    assert journals[0] == journals[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_leaves_with_75_and_continues(undisturbed: Path, tmp_path: Path, number: int) -> None:
    """The signal goes to the whole job, its workers included, as a terminal and a cluster's scheduler send it."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "otherview", *SMALL, "--out", str(out)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    patience = time.monotonic() + 120
    while not has_trained(out) and time.monotonic() < patience:
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert "the same command" in said.splitlines()[-1]
    assert json.loads((out / "checkpoints/last.json").read_text())["step"] < 14
    assert subprocess.run(command, capture_output=True, timeout=300).returncode == 0
    assert identical(undisturbed, out)
    spent, whole = (json.loads((folder / "summary.json").read_text())["cpu_seconds"] for folder in (out, undisturbed))
    assert 0.3 * whole < spent < 5 * whole  # of both its halves


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_images(tmp_path: Path) -> None:
    config, out = find("siamese_im_cpu_adamw").make(), tmp_path / "run"
    for data, said in (("a", []), ("a", []), ("b", ["this run began on a; --data b has as many images"])):
        _, lines = prepare_folder(out, config, data=data, images=100, fresh=False)
        assert len(lines) == len(said) and all(map(str.startswith, lines, said))
    with pytest.raises(WrongRequest, match="a run on the 100 images of a, and --data a has 101"):
        prepare_folder(out, config, data="a", images=101, fresh=False)
    assert prepare_folder(out, config, data="a", images=101, fresh=True)[0] == "new"


def test_a_finished_run_says_so_and_another_setting_is_refused(undisturbed: Path, otherview: Callable) -> None:
    again = otherview(*SMALL, "--out", undisturbed)
    assert again.returncode == 0 and "finished" in again.stderr
    changed = otherview(*SMALL, "--out", undisturbed, "--training.weight-decay", "0.1")
    assert changed.returncode == 2
    assert "training.weight_decay 0.05 → 0.1" in changed.stderr
    free = otherview(*SMALL, "--out", undisturbed, "--training.workers", "0", "--training.log-every", "7")
    assert free.returncode == 0


def test_accumulation_equals_the_large_batch_where_batch_norm_statistics_do() -> None:
    """Micro-batches of the same images have the statistics of the whole: all else must agree, C and gradients included."""
    config = find("siamese_im_cpu_adamw").make()
    method = config.method.model_copy(update={"head_width": 32, "negative_weight": 0.5})
    encoder = config.encoder.model_copy(update={"width": 32, "depth": 1})
    learner = build_siamese_im(method, encoder=encoder, views=config.views, seed=0)
    micro = random_batch(learner, 4)
    whole = tree_map(lambda part: torch.cat([part, part]), micro)
    found = []
    for batches in ([micro, micro], [whole]):
        learner.zero_grad()
        context = learner.prepare(batches, 1.0)  # the end of the schedule: the target stands still
        losses = [learner(batch, context, index).total / len(batches) for index, batch in enumerate(batches)]
        for loss in losses:
            loss.backward()
        gradients = {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}
        found.append((float(sum(loss.detach() for loss in losses)), context.statistics[0], gradients))
    (loss, c, gradients), (whole_loss, whole_c, whole_gradients) = found
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    assert torch.allclose(c, whole_c, atol=1e-6)
    scale = torch.stack([g.norm() for g in whole_gradients.values()]).norm()
    for name, gradient in whole_gradients.items():
        assert (gradients[name] - gradient).norm() < 1e-5 * max(gradient.norm(), 1e-3 * scale), name


MEASURED = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
print(status, used.ru_maxrss)
"""


@pytest.mark.slow
def test_accumulation_needs_the_memory_of_one_micro_batch(tmp_path: Path) -> None:
    most = {}
    for name, batch, accumulation in (("micro", 32, 1), ("accumulated", 256, 8), ("whole", 256, 1)):
        command = [
            sys.executable, "-m", "otherview", "pretrain", "--recipe", "siamese_im_cpu_adamw", "--data", "shapes:300",
            "--steps", "2", "--batch", str(batch), "--training.accumulation", str(accumulation), "--threads", "2",
            "--training.workers", "0", "--device", "cpu", "--out", str(tmp_path / name),
        ]  # fmt: skip
        # started by a small process: the most that a process held begins with what its parent holds
        done = subprocess.run([sys.executable, "-c", MEASURED, *command], capture_output=True, text=True)
        status, kilobytes = done.stdout.split()
        assert status == "0", done.stderr
        most[name] = int(kilobytes) / 1024
    assert most["accumulated"] < most["micro"] + 0.15 * (most["whole"] - most["micro"]), most


@pytest.mark.slow
def test_accumulation_is_exact_with_layer_norm_heads(otherview: Callable, tmp_path: Path) -> None:
    """One micro-batch of 16 or four of 4: the same C, so the same weights up to rounding."""
    heads = ("--method.projector-norm", "layer", "--method.predictor-norm", "layer", "--steps", "3")
    for name, accumulation in (("one", 1), ("four", 4)):
        done = otherview(*SMALL, *heads, "--out", tmp_path / name, "--training.accumulation", accumulation)
        assert done.returncode == 0, done.stderr
    losses = [
        [line["loss"] for line in json_lines(tmp_path / name / "metrics.jsonl") if "loss" in line]
        for name in ("one", "four")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_everything_in_a_checkpoint_loads_safely(tmp_path: Path) -> None:
    """torch's own version string, for one, is a class that a safe load refuses."""
    save_checkpoint(tmp_path, {"step": 1, "environment": environment("cpu")}, keep=False)
    state, said = load_checkpoint(tmp_path)
    assert not said and state is not None and state["environment"] == environment("cpu")


@pytest.mark.slow
def test_a_run_whose_checkpoints_are_all_broken_does_not_start_over_silently(
    otherview: Callable, tmp_path: Path
) -> None:
    assert otherview(*SMALL, "--out", tmp_path / "run").returncode == 0
    (tmp_path / "run/summary.json").unlink()
    for path in (tmp_path / "run/checkpoints").glob("*.pt"):
        path.write_bytes(b"junk")
    done = otherview(*SMALL, "--out", tmp_path / "run")
    assert done.returncode == 2 and "--fresh" in done.stderr.splitlines()[-1]


def test_schedule() -> None:
    rates = [warmup_cosine(p, warmup=0.1) for p in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert warmup_cosine(0.0, warmup=0.0) == 1


def test_a_broken_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, {"step": step, "weight": torch.ones(3) * step}, keep=step == 2)
    state, said = load_checkpoint(tmp_path)
    assert state is not None and state["step"] == 2 and not said
    assert (tmp_path / "step-000002.pt").exists()
    whole = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(whole[: len(whole) // 2])
    state, said = load_checkpoint(tmp_path)
    assert state is not None and state["step"] == 1
    assert len(said) == 1 and "last.pt" in said[0]


def test_nothing_from_a_checkpoint_is_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {tmp_path}/executed",)

    torch.save({"step": 1, "bomb": Bomb()}, tmp_path / "last.pt")
    state, said = load_checkpoint(tmp_path)
    assert state is None and len(said) == 1
    assert not (tmp_path / "executed").exists()


def test_the_journal_is_cut_back_to_what_the_checkpoint_knows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = MetricsLog(path)
    journal.write({"step": 1, "loss": float("nan")})
    known = journal.length
    journal.write({"step": 2, "loss": 0.5})
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    MetricsLog(path, length=known).write({"step": 2, "loss": 0.25})
    assert json_lines(path) == [{"step": 1, "loss": None}, {"step": 2, "loss": 0.25}]


def test_a_step_does_not_ask_the_system_for_the_memory_it_just_gave_back() -> None:
    """In a process of its own: the choice lasts as long as the process."""
    script = """
import resource
from otherview.launch import keep_pages
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        b"x" * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), faults() if keep_pages() and faults() else -1)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    without, kept = map(int, done.stdout.split())
    if kept < 0:
        pytest.skip("no glibc here")
    assert kept < without / 10
