"""pfl-research: federated averaging by its SimulatedBackend; run in its own environment.

With several processes it starts copies of itself, which find each other by pfl's own variables and
share every cohort.
"""

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from child import report, start
from federated_parties import HELD, Work, make_net, read_parties
from torch import Tensor, nn

ADDRESSES, RANK = "PFL_WORKER_ADDRESSES", "PFL_WORKER_RANK"


def several(num: int) -> int:
    """Run copies of this script that work together."""
    with socket.socket() as held:
        held.bind(("localhost", 0))
        port = held.getsockname()[1]
    shared = {**os.environ, ADDRESSES: ",".join(f"localhost:{port + i}" for i in range(num))}
    copies = [
        subprocess.Popen([sys.executable, *sys.argv], env={**shared, RANK: str(rank)})
        for rank in range(num)
    ]
    return max(copy.wait() for copy in copies)


def with_loss(net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """The module with the two methods that pfl asks for; losses are kept while it is told so."""

    class Trained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net
            self.kept: list[Tensor] | None = None

        def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
            value = loss(self.net(inputs), labels)
            if self.kept is not None:
                # In place: pfl divides the loss in place.
                self.kept.append(value.detach().clone())
            return value

        def metrics(self, inputs: Tensor, labels: Tensor) -> dict[str, Any]:
            from pfl.metrics import Weighted

            with torch.no_grad():
                value = loss(self.net(inputs), labels)
            return {"loss": Weighted(float(value) * len(labels), len(labels))}

    return Trained()


def main() -> None:
    job = start()
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.model.pytorch import PyTorchModel

    work = Work.from_job(job)
    inputs, labels, begin = read_parties(job["folder"])
    net = make_net(work)
    net.load_state_dict(begin)
    functional = nn.functional
    module = with_loss(
        net, functional.cross_entropy if work.sizes else functional.binary_cross_entropy_with_logits
    )
    parties = itertools.chain.from_iterable(job["cohorts"])

    def held(party: int) -> Any:
        rows = slice(party * HELD, (party + 1) * HELD)
        return Dataset((inputs[rows], labels[rows]), user_id=str(party))

    ends: list[float] = []

    class Watch(TrainingProcessCallback):  # type: ignore[misc]
        def after_central_iteration(self, *args: Any, **more: Any) -> Any:
            ends.append(time.perf_counter())
            if len(ends) == len(job["cohorts"]) - 1:
                module.kept = []
            return super().after_central_iteration(*args, **more)

    train = FederatedDataset(held, lambda: next(parties))
    backend = SimulatedBackend(
        training_data=train, val_data=train, postprocessors=[WeightByDatapoints()]
    )
    rounds, cohort = len(job["cohorts"]), len(job["cohorts"][0])
    # pfl evaluates in round 0, whatever this is; that round is not timed.
    params = NNAlgorithmParams(
        central_num_iterations=rounds,
        evaluation_frequency=10**9,
        train_cohort_size=cohort,
        val_cohort_size=0,
    )
    local = NNTrainHyperParams(
        local_num_epochs=1, local_learning_rate=work.lr, local_batch_size=work.batch_size
    )
    model = PyTorchModel(
        module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    algorithm = FederatedAveraging()
    algorithm.run(params, backend, model, local, callbacks=[Watch()])
    # The last round notes losses; it is not timed, as the first is not.
    seconds = [last - first for first, last in itertools.pairwise(ends[:-1])]
    if os.environ.get(RANK, "0") == "0":
        loss = float(torch.stack(module.kept).mean())
        report(clients=cohort * len(seconds), seconds=sum(seconds), loss=loss)


if __name__ == "__main__":
    wanted = json.loads(Path(sys.argv[1]).read_text("utf-8")).get("processes", 1)
    if wanted > 1 and RANK not in os.environ:
        sys.exit(several(wanted))
    main()
