"""What a party does with a message of Flower; a module, so that Ray's actors can import it.

The net and the data stay in each actor between messages, as a careful user would keep them.
"""

import functools
from typing import Any

import torch
from federated_parties import HELD, Work, make_net, read_parties
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

__all__ = ["make_client"]


@functools.cache
def held(folder: str, threads: int) -> Any:
    """The data, kept by each actor."""
    torch.set_num_threads(threads)
    return read_parties(folder)[:2]


@functools.cache
def net_of(work: Work) -> nn.Module:
    """The net, kept by each actor."""
    return make_net(work)


def make_client(job: dict[str, Any]) -> ClientApp:
    """What every party does with a message."""
    work, folder, threads = Work.from_job(job), job["folder"], job["threads"]
    app = ClientApp()

    @app.train()  # type: ignore[untyped-decorator]
    def train(message: Message, context: Context) -> Message:
        inputs, labels = held(folder, threads)
        net = net_of(work)
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        functional = nn.functional
        loss_of = functional.cross_entropy
        if not work.sizes:
            loss_of = functional.binary_cross_entropy_with_logits
        optimiser = torch.optim.SGD(net.parameters(), lr=work.lr)
        begin = int(context.node_config["partition-id"]) * HELD
        total = torch.zeros(())
        for first in range(begin, begin + HELD, work.batch_size):
            rows = slice(first, first + work.batch_size)
            optimiser.zero_grad()
            loss = loss_of(net(inputs[rows]), labels[rows])
            loss.backward()
            optimiser.step()
            total += loss.detach()
        steps = HELD / work.batch_size
        metrics = MetricRecord({"loss": float(total) / steps, "num-examples": HELD})
        content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
        return Message(content=content, reply_to=message)

    return app
