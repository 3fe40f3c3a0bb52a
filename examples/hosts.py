"""Train across several hosts, with a link between them as slow as wanted.

The hosts are network namespaces of this machine, so that it can be tried without a cluster; the
commands are those for real hosts, see docs/hosts.md:

    python examples/hosts.py --hosts 2 --rate 100mbit --delay-ms 5 -- DATA --model deepfm --out OUT

What follows `--` goes to `scalerec train`; each host runs it through torchrun. First the link is
measured. At the end the bytes that every interface carried are told, and `--report FILE` writes all
of it as JSON. It takes root, or user namespaces; elsewhere it says so and exits with 77.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hosts_links import Hosts, Link, address, enter_sandbox, parse_rate

RDZV_PORT = 29400
PROBE_PORT = 29399
PROBE_S = 0.5  # of the link's rate
PROBE = str(Path(__file__).with_name("hosts_probe.py"))


def rate(text: str) -> float:
    """A rate of the command line."""
    try:
        return parse_rate(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def torchrun(num_hosts: int, module: str, arguments: list[str]) -> list[str]:
    """What every host runs; on real hosts the same, with the first one's name or address."""
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *(f"--nnodes={num_hosts}", "--nproc-per-node=1", "--max-restarts=0"),
        *("--rdzv-backend=c10d", f"--rdzv-endpoint=host1:{RDZV_PORT}", "--rdzv-id=scalerec"),
        *("-m", module, *arguments),
    ]


def probe(hosts: Hosts, link: Link) -> dict[str, float]:
    """What the link from the second host to the first gives."""
    size = int(max(100_000, (link.rate or 1e9) / 8 * PROBE_S))
    server = hosts.start(1, [sys.executable, PROBE, "serve", str(PROBE_PORT)])
    question = [sys.executable, PROBE, "ask", address(1), str(PROBE_PORT), str(size)]
    asker = hosts.start(2, question, stdout=subprocess.PIPE)
    answer, _ = asker.communicate()
    if asker.returncode or server.wait():
        raise RuntimeError("the hosts do not reach each other")
    return dict(json.loads(answer))


def run_all(hosts: Hosts, command: list[str], **more: Any) -> dict[str, Any]:
    """Run a command on all hosts, and count; ends with the first that fails."""
    before = {host: hosts.counters(host) for host in hosts.numbers}
    start = time.perf_counter()
    running = {host: hosts.start(host, command, **more) for host in hosts.numbers}
    codes: dict[int, int] = {}
    try:
        while len(codes) < len(running) and not any(codes.values()):
            time.sleep(0.05)
            codes = {h: code for h, p in running.items() if (code := p.poll()) is not None}
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    seconds = time.perf_counter() - start
    links = {str(h): hosts.counters(h).since(before[h]) for h in hosts.numbers}
    code = next((code for code in codes.values() if code), 0)
    return {"exit_code": code, "seconds": seconds, "interfaces": links}


def tell(report: dict[str, Any]) -> None:
    """Print what the interfaces carried."""
    for host, found in report["interfaces"].items():
        print(
            f"host{host}: {found['sent']:,} bytes sent in {found['frames_sent']:,} frames, "
            f"{found['received']:,} received in {found['frames_received']:,}"
        )


def main() -> int:
    """Make the hosts, measure the link, train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, default=2, help="how many, 2 or more")
    parser.add_argument("--rate", type=rate, default=1e8, help="such as 20mbit; or none")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="from host to host, one way")
    parser.add_argument("--module", default="scalerec.distributed", help="what each process runs")
    parser.add_argument("--report", type=Path, help="where what was counted goes, as JSON")
    parser.add_argument("arguments", nargs="+", help="of `scalerec train`")
    options = parser.parse_args()
    if options.hosts < 2:
        parser.error(f"--hosts must be at least 2; got {options.hosts}")
    enter_sandbox()
    link = Link(rate=options.rate, delay_ms=options.delay_ms)
    hosts = Hosts(options.hosts, link)
    found = probe(hosts, link)
    print(
        f"{options.hosts} hosts; between two of them {found['bits_per_second'] / 1e6:,.1f} Mbit/s "
        f"and {found['round_trip_ms']:.2f} ms there and back",
        flush=True,
    )
    report = run_all(hosts, torchrun(options.hosts, options.module, options.arguments))
    report["link"] = found
    tell(report)
    if options.report:
        options.report.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return int(report["exit_code"])


if __name__ == "__main__":
    sys.exit(main())
