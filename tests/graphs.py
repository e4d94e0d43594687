"""How torch.compile sees a learner's forward pass, in a process without the checks of shapes, which it cannot trace.

python -m tests.graphs siamese_im_cpu_adamw      # one line of JSON
"""

import json
import sys

import torch
from torch._dynamo.testing import CompileCounter

from tests.test_methods import learner_and_batch

STEPS = 10


def described(recipe: str) -> dict[str, object]:
    """Graphs and breaks of one forward pass, and how often it was compiled over steps with other crops and another momentum."""
    learner, batch = learner_and_batch(recipe, count=4)
    learner.train()
    told = torch._dynamo.explain(learner.forward)(batch, learner.prepare([batch], 0.5), 0)
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(learner.forward, backend=counter)
    after = []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        order = torch.randperm(4, generator=generator)
        views = _shuffled(batch, order)
        compiled(views, learner.prepare([views], step / STEPS), 0).total.backward()
        after.append(counter.frame_count)
    return {"graphs": told.graph_count, "breaks": told.graph_break_count, "compiled": after}


def _shuffled(batch, order):  # pyright: ignore
    """The same images in another order: other crops, other masks."""
    if isinstance(batch, torch.Tensor):
        return batch[order]
    return type(batch)(*(_shuffled(part, order) for part in batch))


if __name__ == "__main__":
    print(json.dumps(described(sys.argv[1])))
