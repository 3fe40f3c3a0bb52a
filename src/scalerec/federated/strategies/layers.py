"""Which dense parameters of a model are its last layers: those whose outputs are the logits.

What a factorisation machine or the wide part adds to the logits comes from rows of tables, and is
no layer.
"""

from torch import nn

from scalerec.errors import ConfigError
from scalerec.train.cohort.models import PartyModel, RecommenderModel
from scalerec.train.cohort.module_model import ModuleModel

__all__ = ["last_layers"]

# The modules by which each net of the zoo ends. A number stands for a part of a tower, the last
# linear layer being -1; what holds modules of its own counts with its own parameters alone, but for
# a fusion, which is a layer as a whole.
ENDS: dict[str, tuple[str, ...]] = {
    "autoint": ("out", "tower.-1"),
    "dcn-v2": ("out",),
    "deepfm": ("tower.-1",),
    "din": ("tower.-1",),
    "esmm": ("heads",),
    "finalmlp": ("fusion", "fusion.one", "fusion.two"),
    "fm": ("first_order.own", "own"),
    "lr": ("first_order.own",),
    "mmoe": ("heads",),
    "ple": ("heads",),
    "shared-bottom": ("heads",),
    # The users' side is the parties' own; the items' is everybody's.
    "two-tower": ("user.-1",),
    "wide-deep": ("tower.-1",),
}


def last_layers(model: PartyModel) -> list[str]:
    """The names of the dense parameters of a model's last layers, in the model's order.

    All tasks' read-outs are among them. Of a two-tower model it is the last layer of the users'
    side. Of a module without tables it is the module that holds the last parameter.

    Args:
        model: The model.

    Raises:
        ConfigError: If a model has no such layer: a linear model or a factorisation machine with
            one output sums weights of rows, and has nothing above them but a bias.
    """
    names = list(model.dense)
    if isinstance(model, ModuleModel):
        head = names[-1].rpartition(".")[0]
        return [name for name in names if name.rpartition(".")[0] == head]
    kind = model.recommender.spec.model if isinstance(model, RecommenderModel) else ""
    if kind not in ENDS:
        raise ConfigError(
            f"the last layers are known of {', '.join(sorted(ENDS))}; got {kind or type(model)}: "
            "name parameters, such as " + ", ".join(names)
        )
    assert isinstance(model, RecommenderModel), "only such a model has a name"
    net = model.recommender.net
    own = {name for path in ENDS[kind] for name in _own_parameters(net, path)}
    found = [name for name in names if name in own]
    if not found:
        raise ConfigError(
            f"{kind} with one output has no layer above its sums of weights that could be a "
            f"party's own; name other parameters, of {', '.join(names)}"
        )
    return found


def _own_parameters(net: nn.Module, path: str) -> list[str]:
    """The full names of a module's own parameters; none if the net has no such module."""
    head, _, last = path.rpartition(".")
    if last == "-1":
        tower = getattr(net, head)
        if tower is None:
            return []
        layers = [name for name, layer in tower.named_children() if isinstance(layer, nn.Linear)]
        path = f"{head}.{layers[-1]}"
    module = net
    for part in path.split("."):
        found = module._modules.get(part)
        if found is None:
            return []
        module = found
    return [f"net.{path}.{name}" for name, _ in module.named_parameters(recurse=False)]
