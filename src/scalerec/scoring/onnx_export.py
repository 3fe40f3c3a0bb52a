"""Export to ONNX: a file that any ONNX runtime scores with, and one that says how to encode.

The graph is traced once; its tables and weights are those of the bundle. What tracing leaves for
debuggers is taken out, and what a server needs to know is put in.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scalerec._version import __version__
from scalerec.bundle.recommenders import OpenRecommender
from scalerec.config import Config
from scalerec.data.aside import clear_left_over, folder_aside
from scalerec.errors import BundleError, ConfigError, MissingExtraError, RequestError
from scalerec.models.net import TwoTowers
from scalerec.scoring.onnx_agreement import Agreement, measure_agreement
from scalerec.scoring.onnx_encoders import describe_features, describe_vocabularies
from scalerec.scoring.onnx_graph import SIDES, ScoringGraph, TowerGraph
from scalerec.scoring.onnx_trace import OPSET, Graph, describe_outputs, trace

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["FORMATS", "Exported", "export_onnx"]

FORMATS = ("onnx",)
# A file of Protocol Buffers ends at 2 GiB; larger weights lie in a file beside it.
MOST_BYTES = 2**31 - 2**26


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported(Config):
    """What an export wrote.

    Args:
        bundle: The digest of the bundle.
        files: Name to size in bytes, all in one folder; the graph's comes first.
        agreement: How far the graph's logits are from the bundle's.
    """

    bundle: str
    files: dict[str, int]
    agreement: Agreement


def export_onnx(opened: OpenRecommender, out: Path, *, overwrite: bool = False) -> Exported:
    """Write a recommender as an ONNX file, after it was compared with the bundle.

    Beside `NAME.onnx` lies `NAME.onnx.json`, which says how values become inputs. A two-tower model
    also gives `NAME.user.onnx` and `NAME.item.onnx`, one vector each; weights beyond 2 GiB lie in
    `NAME.onnx.data`. Files appear whole or not at all.

    Args:
        opened: The bundle.
        out: The file; its name ends in `.onnx`.
        overwrite: Whether files of these names may be replaced.

    Raises:
        ConfigError: If the name does not end in `.onnx`, or a file of one of the names exists.
        MissingExtraError: If onnx, onnxscript or onnxruntime is not installed.
        RequestError: If two inputs, or an input and an output, would have one name.
        BundleError: If the graph does not agree with the bundle.
    """
    _check_installed()
    graphs = {out.name: ScoringGraph(opened.recommender), **_towers(opened, out)}
    _check_place(out, [*graphs, f"{out.name}.json"], overwrite)
    for graph in graphs.values():
        _check_names(graph)
    clear_left_over(out)
    with folder_aside(out) as folder:
        written = []
        for name, graph in graphs.items():
            written += _write(graph, opened, folder / name)
        agreement = measure_agreement(folder / out.name, opened.recommender)
        if not agreement.holds:
            raise BundleError(
                f"{opened.bundle.path}: the exported graph does not agree with it: its logits "
                f"differ by up to {agreement.largest:.3g}, by {agreement.mean:.3g} in the mean; "
                f"allowed: {agreement.tolerance:.3g} and {agreement.mean_tolerance:.3g}"
            )
        side = folder / f"{out.name}.json"
        side.write_text(_side_file(opened, graphs, written, agreement), "utf-8")
        written.append(side)
        sizes = {path.name: path.stat().st_size for path in written}
        # The graph itself comes last: where it is, all that belongs to it is.
        for path in reversed(written):
            path.replace(out.parent / path.name)
    return Exported(bundle=opened.bundle.digest, files=sizes, agreement=agreement)


def _towers(opened: OpenRecommender, out: Path) -> dict[str, Graph]:
    if not isinstance(opened.recommender.net, TwoTowers):
        return {}
    return {
        out.with_suffix(f".{side}.onnx").name: TowerGraph(opened.recommender, side)
        for side in SIDES
    }


def _check_installed() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError:
            raise MissingExtraError(package, "export") from None


def _check_place(out: Path, names: list[str], overwrite: bool) -> None:
    if out.suffix != ".onnx" or not out.stem:
        raise ConfigError(f"--out must be a file whose name ends in .onnx; got {str(out)!r}")
    for name in names:
        path = out.parent / name
        if path.is_dir():
            raise ConfigError(f"--out {path} is a directory; choose another name")
        if path.exists() and not overwrite:
            raise ConfigError(f"--out {path} exists already; choose another, or --overwrite")


def _check_names(graph: Graph) -> None:
    both = {own.name for own in graph.inputs} & set(graph.outputs)
    if both:
        raise RequestError(
            f"the graph has an output named {min(both)!r}, and so is a feature; give the feature "
            "another name in the schema"
        )


def _write(graph: Graph, opened: OpenRecommender, path: Path) -> list[Path]:
    """Trace a graph and write it; the files, the graph's own first."""
    import onnx_ir

    model = trace(graph)
    model.producer_name, model.producer_version = "scalerec", __version__
    model.metadata_props.update(
        {
            "scalerec.bundle": opened.bundle.digest,
            "scalerec.model": opened.recommender.spec.model,
            "scalerec.inputs": json.dumps([own.to_dict() for own in graph.inputs]),
            "scalerec.outputs": json.dumps(describe_outputs(graph)),
        }
    )
    beside = f"{path.name}.data" if _num_bytes(model) > MOST_BYTES else None
    onnx_ir.save(model, path, external_data=beside)
    return [path, path.with_name(beside)] if beside else [path]


def _num_bytes(model: "onnx_ir.Model") -> int:
    values = model.graph.initializers.values()
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)


def _side_file(
    opened: OpenRecommender, graphs: Mapping[str, Graph], written: list[Path], agreement: Agreement
) -> str:
    layout = opened.recommender.narrow.layout
    told = {
        "format": "scalerec-onnx",
        "version": 1,
        "scalerec": __version__,
        "bundle": opened.bundle.digest,
        "model": opened.recommender.spec.model,
        "opset": OPSET,
        "files": {path.name: _sha256(path) for path in written},
        "agreement": agreement.to_dict(),
        "graphs": {
            name: {
                "inputs": [own.to_dict() for own in graph.inputs],
                "outputs": describe_outputs(graph),
            }
            for name, graph in graphs.items()
        },
        "features": describe_features(opened.encoders, layout),
        "vocabularies": describe_vocabularies(opened.encoders, layout),
    }
    return json.dumps(told, ensure_ascii=False) + "\n"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
