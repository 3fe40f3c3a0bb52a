"""Two shards, local steps, mean: one round of local SGD on a line through the origin.

Each shard steps from the same weight on its own rows; the server takes the mean, each shard as
heavy as its number of rows. Run it: `python examples/two_shards.py`. It prints `w = 0.8125`.
"""

import torch

from scalerec.optim import sgd
from scalerec.rounds import Algorithm, Contiguous, Parameters, Party, local_steps, run_round

x = torch.tensor([1.0, 1.0, 2.0])
y = torch.tensor([1.0, 3.0, 4.0])

parties = []
for name, part in zip(("first", "second"), Contiguous(num_parts=2).split(len(x)), strict=True):
    index = torch.from_numpy(part)
    data = {"x": x[index], "y": y[index]}
    parties.append(Party(name=name, rows={}, data=data, weight=len(part)))


def loss(parameters, batch):
    """Half the mean squared error of ``w * x``."""
    return ((parameters.dense["w"] * batch["x"] - batch["y"]) ** 2).mean() / 2


algorithm = Algorithm(local_update=local_steps(loss, sgd(lr=0.125), num_steps=2))
state = algorithm.init(Parameters(dense={"w": torch.tensor(0.0)}, tables={}))
state, report = run_round(state, parties, algorithm, torch.Generator().manual_seed(0))

print(f"w = {float(state.parameters.dense['w'])}")
