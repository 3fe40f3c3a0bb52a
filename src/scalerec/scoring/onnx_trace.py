"""From a module of plain tensors to an ONNX model."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scalerec.data.schema import Task, TaskKind
from scalerec.scoring.onnx_graph import LOGITS, ScoringGraph, TowerGraph, prediction_name
from scalerec.scoring.onnx_inputs import BATCH, GraphInput

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["OPSET", "Graph", "describe_outputs", "trace"]

# Understood by every ONNX Runtime since 1.14, of February 2023.
OPSET = 18
# Sizes of the example that is traced: none equal to another, none 0 or 1.
EXAMPLE_ROWS, EXAMPLE_LIST = 3, 5
DTYPES = {"int64": torch.int64, "float32": torch.float32, "bool": torch.bool}
MEANINGS = {
    TaskKind.BINARY: "the probability",
    TaskKind.MULTICLASS: "the probability of each class",
    TaskKind.REGRESSION: "the number",
    TaskKind.RETRIEVAL: "the score",
}
Graph = ScoringGraph | TowerGraph


def trace(graph: Graph) -> "onnx_ir.Model":
    """A graph as ONNX, without what tracing leaves for debuggers.

    Args:
        graph: Its weights are shared with the model, not copied.
    """
    model = _trace(graph)
    _tidy(model, graph)
    return model


def _trace(graph: Graph) -> "onnx_ir.Model":
    """The graph as ONNX."""
    example = tuple(_example(graph.inputs))
    shapes = tuple(
        {axis: size for axis, size in enumerate(own.shape) if isinstance(size, str)}
        for own in graph.inputs
    )
    with _quietly():
        program = torch.onnx.export(
            graph,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=[own.name for own in graph.inputs],
            output_names=graph.outputs,
            dynamic_shapes=(shapes,),
            verbose=False,
        )
    assert program is not None, "dynamo=True gives a program"
    return program.model


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep what the tracer tells the developers of torch from a person's terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _example(inputs: tuple[GraphInput, ...]) -> Iterator[Tensor]:
    sizes = {BATCH: EXAMPLE_ROWS}
    for own in inputs:
        for size in own.shape:
            if isinstance(size, str):
                sizes.setdefault(size, EXAMPLE_LIST + 2 * len(sizes))
        shape = [sizes[size] if isinstance(size, str) else size for size in own.shape]
        yield torch.zeros(shape, dtype=DTYPES[own.dtype])


def _tidy(model: "onnx_ir.Model", graph: Graph) -> None:
    """Take out traces of the tracer, with paths of this machine, and name what people look at."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    model.metadata_props.clear()
    model.doc_string = None
    meanings = {own.name: own.meaning for own in graph.inputs}
    meanings |= {own["name"]: own["meaning"] for own in describe_outputs(graph)}
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.metadata_props.clear()
        value.doc_string = meanings.get(value.name or "")
    names = graph.parameter_names
    for value in list(model.graph.initializers.values()):
        value.metadata_props.clear()
        value.name = names.get(value.name or "", value.name)
    _name_apart(model)
    model.graph.name = "scalerec"


def _name_apart(model: "onnx_ir.Model") -> None:
    """Give inner values names that no feature has, as one called `embedding` would have."""
    doors = [*model.graph.inputs, *model.graph.outputs]
    taken = {value.name for value in doors}
    inner = [value for node in model.graph.all_nodes() for value in node.outputs]
    for value in (*list(model.graph.initializers.values()), *inner):
        if value in doors:
            continue
        name = value.name or "value"
        while name in taken:
            name = f"_{name}"
        taken.add(name)
        value.name = name


def describe_outputs(graph: Graph) -> list[dict[str, Any]]:
    """Name, shape and meaning of each output, for a person and for JSON."""
    if isinstance(graph, TowerGraph):
        (name,) = graph.outputs
        size = getattr(graph.net, "vector_dim", None)
        meaning = "the vector; both sides' dot product is the first task's logit, uncalibrated"
        return [{"name": name, "shape": [BATCH, size], "meaning": meaning}]
    tasks = graph.layout.tasks
    found = [_output(task) for task in tasks]
    columns = [task.name for task in tasks for _ in range(task.num_outputs)]
    meaning = f"what comes before predictions; columns: {', '.join(columns)}"
    return [*found, {"name": LOGITS, "shape": [BATCH, len(columns)], "meaning": meaning}]


def _output(task: Task) -> dict[str, Any]:
    several = [task.num_classes] if task.kind is TaskKind.MULTICLASS else []
    return {
        "name": prediction_name(task.name),
        "task": task.name,
        "kind": task.kind.value,
        "shape": [BATCH, *several],
        "meaning": MEANINGS[task.kind],
    }
