"""The door of the package: what it offers and what it costs to open."""

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy
before = set(sys.modules)
import scalerec.metrics
added = {name.split(".")[0] for name in set(sys.modules) - before}
print(",".join(sorted(added - set(sys.stdlib_module_names))))
"""


def test_it_imports_numpy_only() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(SOURCE)], capture_output=True, text=True, check=True
    )
    foreign = {name for name in done.stdout.strip().split(",") if name and name != "scalerec"}
    assert foreign <= {"numpy"}
