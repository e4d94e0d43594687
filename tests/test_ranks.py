"""Two gloo processes equal one, for the same global batch; launchers; the real command line under torchrun."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from otherview.files import json_lines
from otherview.launch import first_host, from_slurm
from tests.processes import has_trained
from tests.ranks import computed_once_of_rank, in_ranks, knn_of_rank, probe_norm_of_rank, training_of_rank
from tests.test_training import SMALL


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


@pytest.mark.parametrize(
    ("optimiser", "tolerance", "part", "accumulation"),
    [
        ("sgd", 1e-5, {}, 1),
        ("sgd", 1e-5, {}, 2),
        pytest.param("adamw", 1e-4, {}, 1, marks=pytest.mark.slow),
        pytest.param("muon", 1e-4, {}, 1, marks=pytest.mark.slow),
        pytest.param("sgd", 1e-5, {"overlap_only": True}, 1, marks=pytest.mark.slow),
        pytest.param("sgd", 1e-5, {"loss": "info_nce"}, 1, marks=pytest.mark.slow),
    ],
)
def test_two_ranks_equal_one_process_ranks(
    tmp_path: Path, optimiser: str, tolerance: float, part: dict[str, Any], accumulation: int
) -> None:
    one = training_of_rank(0, 1, optimiser, part, accumulation)
    for mine in in_ranks(2, training_of_rank, tmp_path, 2, optimiser, part, accumulation):
        assert float(mine["loss"]) == pytest.approx(float(one["loss"]), rel=1e-5)
        assert {n: float(v) for n, v in mine["parts"].items()} == pytest.approx(
            {n: float(v) for n, v in one["parts"].items()}, rel=1e-4
        )
        assert apart(mine["c"], one["c"]) < 1e-5
        whole = torch.stack([g.norm() for g in one["gradients"].values()]).norm()
        assert mine["gradients"].keys() == one["gradients"].keys()
        for name, gradient in one["gradients"].items():
            if gradient.norm() > 1e-6 * whole:
                assert apart(mine["gradients"][name], gradient) < 1e-5, name
        for name, weight in one["weights"].items():
            got = mine["weights"][name]
            if name.endswith("qkv.bias"):  # the key third has no true gradient, and AdamW amplifies its rounding
                third = len(weight) // 3
                got, weight = (torch.cat([t[:third], t[2 * third :]]) for t in (got, weight))
            if weight.norm() > 0:
                assert apart(got, weight) < tolerance, name


def test_the_bank_of_knn_is_shared_out_and_the_answers_are_those_of_one(tmp_path: Path) -> None:
    """A rank holds its share of the features alone: at ImageNet's size .5 GB a token of eight ranks, 3.9 GB alone."""
    spec = ("shapes:61", "shapes:40:test")
    one = knn_of_rank(0, 1, spec)
    assert set(one["held"].tolist()) == {61}
    shares = []
    for found in in_ranks(2, knn_of_rank, tmp_path, 2, spec):
        shares.append(found.pop("held").unique().item())
        assert found.keys() == one.keys() - {"held"}
        for name, values in found.items():
            assert torch.equal(values, one[name]), name
    assert sorted(shares) == [30, 31]


def test_what_is_the_same_everywhere_is_computed_once(tmp_path: Path) -> None:
    found = in_ranks(2, computed_once_of_rank, tmp_path)
    assert [one["found"] for one in found] == [7, 7]
    assert [one["calls"] for one in found] == [1, 0]
    assert {one["said"] for one in found} == {"--shots 0 is too few"}


def test_the_probe_s_batch_norm_is_that_of_all_ranks(tmp_path: Path) -> None:
    features = torch.randn(3, 2, 10, 6, generator=torch.Generator().manual_seed(0)) * 3 + 5
    whole = torch.nn.BatchNorm1d(6, eps=1e-6, affine=False)
    expected = torch.stack([whole(part.flatten(0, 1)).unflatten(0, (2, 10)) for part in features])
    for rank, (out, mean, variance) in enumerate(in_ranks(2, probe_norm_of_rank, tmp_path, features)):
        torch.testing.assert_close(out, expected[:, rank])
        torch.testing.assert_close(mean, whole.running_mean)
        torch.testing.assert_close(variance, whole.running_var)


def test_slurm_s_variables_become_torchrun_s() -> None:
    slurm = {
        "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "gpu[03-05,9],x1",
    }  # fmt: skip
    found = from_slurm(slurm)
    assert found == {
        "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu03", "MASTER_PORT": "24711",
    }  # fmt: skip
    assert from_slurm({**slurm, "RANK": "0"}) == {}  # torchrun inside an allocation decides
    assert from_slurm({**slurm, "SLURM_STEP_NUM_TASKS": "1"}) == from_slurm({}) == {}
    in_sbatch = {name: value for name, value in slurm.items() if name != "SLURM_STEP_NUM_TASKS"}
    assert from_slurm({**in_sbatch, "SLURM_PROCID": "0"}) == {}  # a bare command in a batch script is one process
    assert from_slurm({**slurm, "CUDA_VISIBLE_DEVICES": "3"})["LOCAL_RANK"] == "0"  # each task sees a GPU of its own
    assert from_slurm({**slurm, "CUDA_VISIBLE_DEVICES": "0,1"})["LOCAL_RANK"] == "1"
    hosts = ("node7", "a,b", "r1[12]s,z", "n[1,5]")
    assert [first_host(nodes) for nodes in hosts] == ["node7", "a", "r112s", "n1"]


def torchrun(out: Path, *flags: str) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*launcher, "-m", "otherview", *SMALL, *flags, "--out", str(out)]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_torchrun_trains_as_one_process_does_ranks(tmp_path: Path) -> None:
    flags = ("--steps", "4", "--training.workers", "0")
    done = subprocess.run(
        torchrun(tmp_path / "two", *flags), capture_output=True, text=True, timeout=300, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("images in shapes:200") == 1  # one rank speaks
    alone = [sys.executable, "-m", "otherview", *SMALL, *flags, "--out", str(tmp_path / "one")]
    assert subprocess.run(alone, capture_output=True, timeout=300).returncode == 0
    journals = [
        [line for line in json_lines(tmp_path / name / "metrics.jsonl") if "loss" in line] for name in ("one", "two")
    ]
    for one, two in zip(*journals, strict=True):
        for name in ("loss", "positive", "grad_norm", "effective_rank"):
            assert two[name] == pytest.approx(one[name], rel=1e-4), name
    one, two = (load_file(tmp_path / name / "encoder.safetensors") for name in ("one", "two"))
    for name, weight in one.items():
        if not name.endswith("qkv.bias") and weight.norm() > 0:
            assert apart(two[name], weight) < 1e-4, name


def rank_processes(out: Path) -> list[int]:
    """The processes that the launcher started for this run; their workers are children of these."""
    found: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            if str(out).encode() in words:
                found[int(folder.name)] = parent
    launchers = [pid for pid, parent in found.items() if parent not in found]
    return [pid for pid, parent in found.items() if parent in launchers]


@pytest.mark.slow
def test_a_dry_run_computes_with_its_ranks(tmp_path: Path) -> None:
    """Each process takes its share of the batch; one result is printed."""
    command = torchrun(tmp_path / "none", "--dry-run", "--json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ranks"] == 2 and found["steps"] == 14 and found["seconds_per_step"] > 0
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_all_ranks_stop_at_the_same_step_and_continue_ranks(tmp_path: Path) -> None:
    """The scheduler's signal reaches the job's processes at different moments; they agree on a step all the same."""
    out = tmp_path / "run"
    command = torchrun(out, "--steps", "120", "--training.save-every", "110")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, start_new_session=True)
    patience = time.monotonic() + 120
    while not has_trained(out) and time.monotonic() < patience:
        time.sleep(0.01)
    for pid in rank_processes(out):
        os.kill(pid, signal.SIGUSR1)
        time.sleep(0.05)
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "the same command" in said, said
    again = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert again.returncode == 0, again.stderr
    assert "continuing at step" in again.stderr
    undisturbed = subprocess.run(
        torchrun(tmp_path / "whole", "--steps", "120", "--training.save-every", "110"),
        capture_output=True,
        timeout=300,
        env=ENVIRONMENT,
    )
    assert undisturbed.returncode == 0
    one, two = (load_file(folder / "encoder.safetensors") for folder in (out, tmp_path / "whole"))
    assert all(torch.equal(one[name], two[name]) for name in one)
