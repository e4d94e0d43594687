"""Into a checkpoint and back: everything the loop knows."""

from dataclasses import asdict

import torch

from otherview.distributed import rank
from otherview.errors import WrongRequest
from otherview.training.checkpoint import environment, load_checkpoint, save_checkpoint
from otherview.training.console import RunProgress
from otherview.training.journal import Journal
from otherview.training.run import Run, Tally


def save(run: Run, optimiser: torch.optim.Optimizer, journal: Journal, step: int) -> str | None:
    """Write a checkpoint: `step` optimiser steps are done. Returns what to say where it cannot be written.

    A full disk must not end a run that may find room again: the checkpoint before stays whole.
    """
    state = {
        "step": step,
        "steps": run.steps,
        "learner": run.learner.state_dict(),
        "optimiser": optimiser.state_dict(),
        "journal_length": journal.length,
        "tally": asdict(run.tally),
        "config_hash": run.config_hash,
        "environment": environment(str(run.accelerator.device)),
    }
    try:
        save_checkpoint(run.folder / "checkpoints", state, keep=run.settings.keeps_at(step))
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError where the disk is full
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        return f"no checkpoint at step {step} ({reason}): the one before stays; make room in {run.folder}"
    return None


def restore(run: Run, optimiser: torch.optim.Optimizer) -> tuple[int, Journal]:
    """Load the newest whole checkpoint; returns the step to go on from and the journal cut back to it."""
    state, said = load_checkpoint(run.folder / "checkpoints")
    path = run.folder / "metrics.jsonl" if rank() == 0 else None
    progress = RunProgress(total=run.steps, start=0, speak=rank() == 0)
    for line in said:
        progress.say(line)
    if state is None and said:
        raise WrongRequest(
            f"no checkpoint in {run.folder / 'checkpoints'} can be read: give --fresh to start over, or remove it"
        )
    if state is None:
        return 0, Journal(path)
    run.learner.load_state_dict(state["learner"])
    optimiser.load_state_dict(state["optimiser"])
    run.tally = Tally(**state["tally"])
    before = state["environment"]
    for name, value in environment(str(run.accelerator.device)).items():
        if before.get(name) != value:
            progress.say(f"{name} was {before.get(name)} and is {value}: the run continues, but not bit for bit")
    progress.say(f"continuing at step {state['step']} of {run.steps}")
    return state["step"], Journal(path, length=state["journal_length"])
