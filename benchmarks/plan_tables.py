"""The tables of docs/scaling.md: each row is one command of `scalerec plan`.

A table stands between two comments that name it. Run this again when the model or the stored
constants change.

Usage: python benchmarks/plan_tables.py [--check]
"""

import argparse
import contextlib
import io
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scalerec.cli import main as scalerec
from scalerec.distributed.planning.units import show_bytes, show_count, show_time

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
ALWAYS = "--set tables.optimiser=rowwise_adagrad --set patience=-1 --examples 1e10"
LARGE = "--rows 1e12 --dim 32 --nodes 256 --cores 64 --memory 512GiB --link 100Gbit"
HALF = "--set tables.weights=fp16 --set distributed.lookups=bf16"
ROUNDS = "--set distributed.aggregate=local --set distributed.local_steps=16"
SIZES = (
    "--rows 1e8 --dim 16 --nproc 2",
    "--rows 1e9 --dim 32 --nodes 4 --cores 8 --memory 64GiB --link 10Gbit",
    "--rows 1e10 --dim 32 --nodes 16 --cores 16 --memory 256GiB --link 25Gbit --batch-size 262144",
    "--rows 1e11 --dim 32 --nodes 64 --cores 32 --memory 512GiB --link 100Gbit "
    "--batch-size 1048576",
    f"{LARGE} {HALF} --batch-size 4194304",
)
WAYS = {
    "as in the table above": f"{LARGE} {HALF} --batch-size 4194304",
    "8 processes a node": f"{LARGE} {HALF} --batch-size 4194304 --nproc 8",
    "four times the batch": f"{LARGE} {HALF} --batch-size 16777216",
    "16 local steps": f"{LARGE} {HALF} --batch-size 4194304 {ROUNDS}",
    "rows in fp32, sent in fp32": f"{LARGE} --batch-size 4194304",
    "rows sent in int8": f"{LARGE} --batch-size 4194304 --set tables.weights=fp16 "
    "--set distributed.lookups=int8",
    "lazy Adam": f"{LARGE} {HALF} --batch-size 4194304 --set tables.optimiser=lazy_adam",
}
LINKS = ("100Mbit", "1Gbit", "10Gbit", "25Gbit", "100Gbit")
MIDDLE = "--rows 1e10 --dim 32 --nodes 16 --cores 16 --memory 256GiB --batch-size 262144"
SPREADS = (0.0, 0.8, 1.05, 1.2, 1.5)
Plan = dict[str, Any]


def plan(words: str) -> Plan:
    """What a command tells."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = scalerec(["plan", *shlex.split(f"{ALWAYS} {words}"), "--json"])
    if code:
        raise RuntimeError(f"scalerec plan {words}: exit code {code}")
    return dict(json.loads(out.getvalue()))


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def sizes() -> str:
    """From one machine to 10^12 rows."""
    columns = ["rows", "machines", "memory of one", "the fewest that hold it", "sent by a process"]
    columns += ["step", "examples/s", "efficiency", "checkpoint", "written", "what binds"]
    rows = []
    for words in SIZES:
        found = plan(words)
        step, sent = found["step_s"], found["sent_per_step_bytes"]
        nodes = re.search(r"--nodes (\d+)", words)
        rows.append(
            [
                show_count(found["rows"]),
                nodes[1] if nodes else "1",
                show_bytes(found["memory_per_node_bytes"]),
                f"{found['smallest_nodes']}",
                show_bytes(sent["total"]),
                show_time(step["total"]),
                f"{found['examples_per_s']:,.0f}",
                f"{found['efficiency']:.0%}",
                show_bytes(found["checkpoint_bytes"]),
                show_time(found["checkpoint_s"]),
                found["binds"],
            ]
        )
    commands = "\n".join(f"scalerec plan {words} \\\n    {ALWAYS}" for words in SIZES)
    return f"{table(columns, rows)}\n\n```text\n{commands}\n```"


def ways() -> str:
    """Ways to train 10^12 rows on 256 machines."""
    parts = ("compute", "messages", "link", "latency", "waiting")
    columns = ["way", "memory of one", *parts, "examples/s", "efficiency"]
    rows = []
    for name, words in WAYS.items():
        found = plan(words)
        rows.append(
            [
                name,
                show_bytes(found["memory_per_node_bytes"])
                + ("" if found["fits"] else ", too much"),
                *(show_time(found["step_s"][part]) for part in parts),
                f"{found['examples_per_s']:,.0f}",
                f"{found['efficiency']:.0%}",
            ]
        )
    return table(columns, rows)


def links() -> str:
    """One job by the rate of its links."""
    columns = ["link", "step", "of it the link", "efficiency", "int8 rows, bf16 gradients"]
    columns += ["16 local steps"]
    rows = []
    for link in LINKS:
        words = f"{MIDDLE} --link {link}"
        found = plan(words)
        step = found["step_s"]
        short = plan(f"{words} --set distributed.lookups=int8 --set distributed.codec=bf16")
        local = plan(f"{words} {ROUNDS}")
        rows.append(
            [
                link,
                show_time(step["total"]),
                f"{step['link'] / step['total']:.0%}",
                f"{found['efficiency']:.0%}",
                f"{short['examples_per_s'] / found['examples_per_s']:.2f} times as fast",
                f"{local['examples_per_s'] / found['examples_per_s']:.2f} times as fast",
            ]
        )
    return f"{table(columns, rows)}\n\n```text\nscalerec plan {MIDDLE} --link LINK\n```"


def spreads() -> str:
    """One job by the law of its ids."""
    columns = ["exponent", "distinct rows of 4,096 examples", "sent by a process", "step"]
    rows = []
    for exponent in SPREADS:
        found = plan(f"{MIDDLE} --link 25Gbit --exponent {exponent} --batch-size 65536")
        rows.append(
            [
                f"{exponent}",
                f"{found['distinct_rows_per_step']:,.0f} of {4096 * 26:,}",
                show_bytes(found["sent_per_step_bytes"]["total"]),
                show_time(found["step_s"]["total"]),
            ]
        )
    return table(columns, rows)


TABLES: dict[str, Callable[[], str]] = {
    "sizes": sizes,
    "ways": ways,
    "links": links,
    "spreads": spreads,
}


def filled(text: str) -> str:
    """The page with all tables made anew."""
    for name, make in TABLES.items():
        begin, end = f"<!-- table {name} -->", f"<!-- end of {name} -->"
        head, found, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"{PAGE}: needs {begin} and {end}")
        text = f"{head}{begin}\n\n{make()}\n\n{end}{tail}"
    return text


def main() -> int:
    """Fill the page, or tell whether it is current."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if it is stale")
    options = parser.parse_args()
    before = PAGE.read_text("utf-8")
    after = filled(before)
    if options.check:
        return int(before != after)
    PAGE.write_text(after, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
