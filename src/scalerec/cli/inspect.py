"""`scalerec inspect`: what a bundle holds, and whether it is whole."""

from pathlib import Path
from typing import Annotated, Any

import typer

from scalerec.cli.options import AsJson, examples
from scalerec.cli.output import print_json, print_pairs, print_table

HELP = examples("scalerec inspect runs/deepfm", "scalerec inspect runs/deepfm --json")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "inspect", short_help="Show what a bundle holds; verify every digest.", epilog=HELP
    )(run)


def run(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle.")],
    as_json: AsJson = False,
) -> None:
    """Show schema, sizes and lineage, after every digest was verified, attachments included."""
    found = inspect_bundle(bundle)
    if as_json:
        print_json(found)
        return
    spec = found["spec"]
    print_pairs(
        {
            "bundle": f"{bundle} ({found['bundle'][:12]}), every digest verified",
            "model": spec.get("model", spec.get("kind")),
            "parameters": found["parameters"],
            "bytes": found["bytes"],
            "tasks": ", ".join(f"{t['name']} ({t['kind']})" for t in found["schema"]["tasks"]),
        }
    )
    features = [
        [f["name"], f["kind"], f["role"], found["table_rows"].get(f["name"], "")]
        for f in found["schema"]["features"]
    ]
    print_table(["feature", "kind", "role", "table rows"], features)
    tensors = [
        [n, t["dtype"], " x ".join(map(str, t["shape"]))] for n, t in found["tensors"].items()
    ]
    print_table(["tensor", "dtype", "shape"], tensors)
    print_table(
        ["file", "bytes", "sha256"],
        [[n, f["size"], f["sha256"][:16]] for n, f in found["files"].items()],
    )
    steps = [
        [s["verb"], s["time"], s["seconds"], s["version"], (s["data"] or "")[:12]]
        for s in found["lineage"]
    ]
    print_table(["verb", "time", "seconds", "version", "data"], steps)


def inspect_bundle(path: Path) -> dict[str, Any]:
    """Read and verify a bundle whole, and describe it."""
    from math import prod

    from scalerec.bundle import read_bundle

    bundle = read_bundle(path, verify=True)
    attachments = bundle.attachments()
    for name in attachments:
        bundle.attachment(name)
    infos = bundle.tensor_infos()
    tensors = {n: {"dtype": info.dtype, "shape": list(info.shape)} for n, info in infos.items()}
    files = {n: {"size": f.size, "sha256": f.sha256} for n, f in bundle.files.items()}
    extra = {
        f"attachments/{n}": {"size": f.size, "sha256": f.sha256} for n, f in attachments.items()
    }
    return {
        "bundle": bundle.digest,
        "path": str(path),
        "schema": bundle.schema,
        "spec": bundle.spec,
        "table_rows": bundle.layout.get("tables", {}),
        "adaptable": list(bundle.adaptable),
        "parameters": sum(prod(info.shape) for info in infos.values()),
        "bytes": bundle.num_bytes,
        "tensors": tensors,
        "files": {**files, **extra},
        "lineage": [step.to_dict() for step in bundle.lineage],
    }
