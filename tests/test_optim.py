"""What the optimisers do with the parameters that a learner hands them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from otherview.methods.learner import Learner
from otherview.training import optim
from otherview.training.optim import Muon, make_optimiser, set_rate
from otherview.training.settings import TrainingSettings
from otherview.training.state import load_checkpoint, save_checkpoint
from tests.test_methods import learner_and_batch

MUON = TrainingSettings(optimiser="muon", weight_decay=0.0)
RATE = 1e-2
RECIPES = "siamese_im_cpu_adamw", "mae_cpu", "moco_v3_cpu", "supervised_cpu"


def with_gradients(recipe: str, seed: int) -> tuple[Learner, dict[str, nn.Parameter]]:
    """A learner whose trained parameters have noise for gradients, and these parameters."""
    learner, _ = learner_and_batch(recipe)
    trained = {name: value for name, value in learner.named_parameters() if value.requires_grad}
    give_gradients(trained, seed)
    return learner, trained


def give_gradients(trained: dict[str, nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for value in trained.values():
        value.grad = torch.randn(value.shape, generator=generator)


@pytest.mark.parametrize("recipe", RECIPES)
def test_muon_steps_are_orthogonal_for_matrices_and_adam_s_for_the_rest(recipe: str) -> None:
    """A matrix moves along singular values that are all alike, as far as an AdamW step of the same rate would take it."""
    learner, trained = with_gradients(recipe, seed=0)
    before = {name: value.detach().clone() for name, value in trained.items()}
    gradients = {name: value.grad for name, value in trained.items()}
    optimiser = make_optimiser(learner, MUON)
    set_rate(optimiser, RATE)
    optimiser.step()
    for name, value in trained.items():
        moved, gradient = ((before[name] - value.detach()) / RATE).squeeze(), gradients[name]
        assert gradient is not None
        if moved.ndim < 2:  # norms, biases, tokens
            assert torch.allclose(moved, gradient.squeeze().sign(), atol=1e-3), name  # Adam's first step
            continue
        matrix = moved.flatten(1)
        singular = torch.linalg.svdvals(matrix) / (0.2 * max(matrix.shape) ** 0.5)
        weakest = float(singular[len(singular) * 9 // 10])  # square noise has some that five rounds do not lift
        assert weakest > 0.7 and float(singular.max()) < 1.3, name
        assert float(matrix.square().mean().sqrt()) == pytest.approx(0.2, rel=0.2), name


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("finite", [True, False])
def test_a_step_decided_on_the_device_is_the_host_s_or_none(name: str, finite: bool) -> None:
    """What a GPU does without asking the host, done here on the CPU, whose fused AdamW takes `found_inf` too."""

    def after(second: str) -> list[Tensor]:
        learner, trained = with_gradients("siamese_im_cpu_adamw", seed=0)
        optimiser = make_optimiser(learner, TrainingSettings(optimiser=name))  # pyright: ignore[reportArgumentType]
        set_rate(optimiser, RATE)
        optimiser.step()
        give_gradients(trained, seed=1)
        if not finite:
            for value in trained.values():
                value.grad = torch.full_like(value, float("nan"))
        if second == "device":
            optim._step_on_device(optimiser, torch.tensor(finite))
        elif second == "host":
            optim.step_where_finite(optimiser, torch.tensor(finite))
        optimiser.zero_grad()
        give_gradients(trained, seed=2)
        if second == "device":
            optim._step_on_device(optimiser, torch.tensor(True))
        else:
            optimiser.step()
        return [value.detach() for value in trained.values()]

    assert all(torch.equal(one, other) for one, other in zip(after("host"), after("device"), strict=True))


def test_muon_goes_on_from_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    def ended(stopped: bool) -> list[Tensor]:
        learner, trained = with_gradients("siamese_im_cpu_adamw", seed=0)
        optimiser = make_optimiser(learner, MUON)
        for step in range(4):
            if stopped and step == 2:
                save_checkpoint(tmp_path, {"step": step, "optimiser": optimiser.state_dict()}, keep=False)
                optimiser = make_optimiser(learner, MUON)
                state, _ = load_checkpoint(tmp_path)
                assert state is not None
                optimiser.load_state_dict(state["optimiser"])
            set_rate(optimiser, RATE)
            give_gradients(trained, seed=step)
            optimiser.step()
        return [value.detach() for value in trained.values()]

    assert all(torch.equal(one, other) for one, other in zip(ended(False), ended(True), strict=True))


def test_muon_against_its_definition() -> None:
    """Decay, momentum, Nesterov and the orthogonal step, with a singular value decomposition in doubles for the rounds."""
    generator = torch.Generator().manual_seed(0)
    start, *gradients = torch.randn(4, 32, 16, generator=generator)
    weight = nn.Parameter(start.clone())
    optimiser = Muon([{"params": [weight], "weight_decay": 0.05}], lr=RATE)
    twin, momentum = start.double(), torch.zeros(32, 16, dtype=torch.float64)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimiser.step()
        momentum = 0.95 * momentum + 0.05 * gradient.double()
        left, _, right = torch.linalg.svd(0.05 * gradient.double() + 0.95 * momentum, full_matrices=False)
        twin = twin * (1 - RATE * 0.05) - RATE * 0.2 * 32**0.5 * left @ right
    walked = (twin - start).norm()
    assert float((weight.detach() - twin).norm() / walked) < 0.018
