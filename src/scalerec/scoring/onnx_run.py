"""Exported graphs in ONNX Runtime."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from scalerec.errors import MissingExtraError

__all__ = ["OnnxScorer"]


class OnnxScorer:
    """An exported graph, ready to score.

    Args:
        path: The file.
        threads: Threads of one operator; operators run one after the other.

    Raises:
        MissingExtraError: If onnxruntime is not installed.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("onnxruntime", "export") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3  # errors
        providers = ["CPUExecutionProvider"]
        self.session: Any = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self.inputs = tuple(str(own.name) for own in self.session.get_inputs())
        self.outputs = tuple(str(own.name) for own in self.session.get_outputs())

    def __call__(
        self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Score.

        Args:
            feeds: An array for each of `inputs`.
            outputs: Which outputs are wanted; all of them by default.
        """
        names = list(self.outputs if outputs is None else outputs)
        return dict(zip(names, self.session.run(names, dict(feeds)), strict=True))
