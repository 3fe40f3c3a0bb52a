"""`scalerec train --continue`: a bundle and new rows become the next bundle."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scalerec.cli.options import merge
from scalerec.cli.output import note
from scalerec.cli.prepare import open_source

__all__ = ["new_rows", "settings_from", "spec_from"]


def settings_from(
    bundle: Path, model: str | None, net: dict[str, Any], values: dict[str, Any]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The model of a bundle, its settings, and those of training: the bundle's, with new ones.

    Args:
        bundle: The bundle.
        model: The model that was asked for, if one was.
        net: Its settings, as far as they were given.
        values: Settings of training, as far as they were given.

    Raises:
        ConfigError: If another model is asked for than the bundle's.
    """
    from scalerec.bundle import read_bundle
    from scalerec.train.lineage import settings_of

    spec = spec_from(bundle, model, net, values)
    merged = merge(settings_of(read_bundle(bundle, verify=False)), values)
    return str(spec["model"]), spec["settings"], {**merged, "init_std": spec["init_std"]}


def spec_from(
    bundle: Path, model: str | None, net: dict[str, Any], values: dict[str, Any]
) -> dict[str, Any]:
    """The model of a bundle and its settings, as `ModelSpec.to_dict` gives them.

    Args:
        bundle: The bundle.
        model: The model that was asked for, if one was.
        net: Its settings, as far as they were given.
        values: Settings of training, as far as they were given.

    Raises:
        ConfigError: If another model is asked for than the bundle's.
    """
    from scalerec.bundle import read_bundle
    from scalerec.bundle.adaptation import model_settings
    from scalerec.errors import ConfigError

    spec = model_settings(read_bundle(bundle, verify=False).spec)
    if model not in (None, spec.get("model")):
        raise ConfigError(
            f"{bundle} is a {spec.get('model')}; --model {model} would have to start anew, without "
            "--continue"
        )
    if changed := sorted(name for name in net if net[name] != spec["settings"].get(name)):
        raise ConfigError(
            f"{bundle} has its model's settings, which cannot change: model.{changed[0]}"
        )
    if "init_std" in values:
        raise ConfigError("init_std is for a model that starts anew; leave it out with --continue")
    return spec


@contextmanager
def new_rows(bundle: Path, data: Path, out: Path, grow: list[str]) -> Iterator[Path]:
    """A data set that continues the bundle: the given one, or one made of raw files for a while.

    Raises:
        ConfigError: If a ready data set is given together with settings of how it is to be made.
    """
    from scalerec.data.manifest import MANIFEST
    from scalerec.data.prepare import PrepareConfig, prepare
    from scalerec.errors import ConfigError

    if (data / MANIFEST).is_file():
        if grow:
            raise ConfigError(
                f"{data} is a data set already; --grow goes with the `prepare` that makes it"
            )
        yield data
        return
    raw, base = open_source(str(data), None, None, bundle, grow)
    by = "auto" if raw.schema.timestamp else "random"
    config = PrepareConfig.from_dict({"split": {"by": by, "valid": 0.1, "test": 0.0}})
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
        dataset = prepare(raw, Path(folder) / "data", config, base=base)
        rows = ", ".join(f"{name} {count:,}" for name, count in dataset.manifest["rows"].items())
        note(f"prepared {data}: {rows}")
        yield dataset.directory
