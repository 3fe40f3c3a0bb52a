"""Training that Spark starts gives the bundle of training that torchrun starts."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from scalerec.bundle import read_bundle
from scalerec.data.dataset import Dataset
from scalerec.distributed.launching import run_processes
from scalerec.errors import ConfigError

pytest.importorskip("pyspark", reason="PySpark is not installed (extra: spark)")
if not shutil.which("java"):
    pytest.skip("Spark needs Java, and there is none", allow_module_level=True)

from scalerec.data.spark.session import is_local, spark_session
from scalerec.distributed.spark_launching import run_on_spark

# TorchDistributor leaves the pipe to torchrun open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[Any]:
    java = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
    words = {
        "PYSPARK_SUBMIT_ARGS": f"--driver-java-options '{java}' pyspark-shell",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
    }
    with patch.dict(os.environ, words), spark_session("local[2]") as found:
        yield found


def test_a_bundle_is_the_same_whoever_starts_the_processes(
    rated: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [str(rated.directory), "--model", "fm", "--epochs", "1", "--threads", "2", "--json"]
    words += ["--set", "model.dim=4", "--out"]
    assert run_processes(2, [*words, str(tmp_path / "torchrun")], print) is None
    assert run_on_spark(2, [*words, str(tmp_path / "spark")]) == 0
    found = [read_bundle(tmp_path / name).digest for name in ("torchrun", "spark")]
    assert found[0] == found[1]
    printed = capfd.readouterr().out
    assert printed.count(f'"bundle": "{found[0]}"') == 2
    # Once more: the processes refuse to write over it, and their exit code comes back.
    assert run_on_spark(2, [*words, str(tmp_path / "spark")]) == 2
    assert "spark exists already; choose another, or --overwrite" in capfd.readouterr().err


def test_there_must_be_processes() -> None:
    with pytest.raises(ConfigError, match="--nproc must be at least 1; got 0"):
        run_on_spark(0, [])


def test_masters_of_one_machine() -> None:
    assert all(map(is_local, ("local", "local[2]", "local[*]")))
    assert not any(map(is_local, ("local-cluster[2,1,1024]", "spark://host:7077", "yarn")))
