"""Hosts on one machine: network namespaces, each with a limited link to a common switch.

All of it lives in a sandbox of namespaces that belong to one process (`enter_sandbox`): when that
process ends, however it ends, the kernel takes the namespaces, the links and every process in them
away. So nothing has to be removed, nothing is left by a kill -9, and no name is ever taken. Root
may do this, and ordinary users where the kernel lets them make user namespaces.

    host1                      switch                      host2
    eth0 (tbf) ──────── port1 (tbf)   (tbf) port2 ──────── (tbf) eth0
                                └── bridge ──┘
                              or delay (hosts_delay.py)

`tc`'s token bucket (tbf) limits what leaves a host at its own end, and what arrives there at the
switch's end.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = [
    "NOT_PERMITTED",
    "Counters",
    "Hosts",
    "Link",
    "address",
    "enter_sandbox",
    "parse_rate",
    "why_not",
]

NOT_PERMITTED = 77  # the exit code of a check that cannot be made here
INSIDE = "SCALEREC_HOSTS_INSIDE"
NETWORK = "10.77.0"
INTERFACE = "eth0"
UNITS = {"kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
BURST_S = (
    0.25e-3  # what may leave at once, in seconds of the rate: small, or short messages are free
)
LEAST_BURST = 3100  # two frames, in bytes
QUEUE_S = 0.05  # what waits in a queue before frames are dropped
SANDBOX = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
TOOLS = ("unshare", "nsenter", "setpriv", "ip", "tc", "mount", "hostname")


def parse_rate(text: str) -> float:
    """Bits a second of `20mbit`, `1gbit`, `512kbit`, or 0 for `none`.

    Raises:
        ValueError: If it is none of these.
    """
    if text == "none":
        return 0.0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(kbit|mbit|gbit)", text)
    if match is None or not float(match[1]):
        raise ValueError(f"a rate is like 512kbit, 20mbit or 1gbit, or none; got {text!r}")
    return float(match[1]) * UNITS[match[2]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """What lies between a host and the switch.

    Args:
        rate: Bits a second, each way; 0 for no limit.
        delay_ms: From host to host, one way; 0 for none.
    """

    rate: float = 0.0
    delay_ms: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Counters:
    """What an interface has carried, with all headers: bytes and frames each way."""

    sent: int
    received: int
    frames_sent: int
    frames_received: int

    def since(self, before: "Counters") -> dict[str, int]:
        """What was carried since then, by name."""
        return {name: getattr(self, name) - getattr(before, name) for name in Counters.__slots__}


def address(host: int) -> str:
    """Of a host, counted from 1."""
    return f"{NETWORK}.{host}"


def sandbox_command() -> list[str]:
    """What starts a command in namespaces of its own, as root of them."""
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    return ["unshare", *user, *SANDBOX]


def why_not() -> str:
    """Why namespaces cannot be made here; empty if they can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"these commands are missing: {', '.join(missing)} (util-linux, iproute2)"
    script = (
        "ip link add name a type veth peer name b && tc qdisc add dev a root tbf rate 1mbit "
        "burst 10kb latency 10ms && mount -t tmpfs none /run"
    )
    command = [*sandbox_command(), "sh", "-c", script]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode == 0:
        return ""
    said = " ".join(found.stderr.split()) or f"exit code {found.returncode}"
    return f"{said}; it takes root, or a kernel that lets users make namespaces, with veth and tbf"


def enter_sandbox() -> None:
    """Go on in namespaces of its own: returns there, and exits with their exit code here.

    Where that is not permitted, it says so and exits with `NOT_PERMITTED`.
    """
    if os.environ.get(INSIDE):
        return
    reason = why_not()
    if reason:
        print(f"hosts cannot be made on this machine: {reason}", file=sys.stderr)
        sys.exit(NOT_PERMITTED)
    # Killed with this process (setpriv), and all in there with it (--kill-child).
    command = ["setpriv", "--pdeathsig", "KILL", *sandbox_command(), sys.executable, *sys.argv]
    process = subprocess.Popen(command, env={**os.environ, INSIDE: "1"})

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        code = process.wait()
    finally:
        process.kill()
        process.wait()
    sys.exit(code)


class Hosts:
    """Hosts 1 to N and the switch between them; only inside the sandbox.

    Args:
        num_hosts: N, from 1 to 200.
        link: Of each of them.
    """

    def __init__(self, num_hosts: int, link: Link) -> None:
        if not 1 <= num_hosts <= 200:
            raise ValueError(f"there can be 1 to 200 hosts; got {num_hosts}")
        self.numbers = range(1, num_hosts + 1)
        self._delay: subprocess.Popen[bytes] | None = None
        call("mount", "-t", "tmpfs", "none", "/run")
        self._name_all()
        for host in self.numbers:
            self._make(host)
        call("ip", "link", "add", "name", "switch", "type", "bridge")
        call("ip", "link", "set", "switch", "up")
        self.change(link)

    def _name_all(self) -> None:
        """Give every host's name its address, as a name server would."""
        lines = [f"{address(host)} host{host}" for host in self.numbers]
        names = Path("/run/hosts")
        names.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]), "ascii")
        call("mount", "--bind", str(names), "/etc/hosts")

    def _make(self, host: int) -> None:
        name, port, mac = f"host{host}", f"port{host}", f"02:00:00:00:00:{host:02x}"
        call("ip", "netns", "add", name)
        Path(f"/run/{name}").touch()
        call("unshare", f"--uts=/run/{name}", "hostname", name)
        far = ("peer", "name", INTERFACE, "address", mac, "netns", name)
        call("ip", "link", "add", "name", port, "type", "veth", *far)
        call("ip", "link", "set", port, "up")
        call("ip", "-n", name, "link", "set", "lo", "up")
        call("ip", "-n", name, "address", "add", f"{address(host)}/24", "dev", INTERFACE)
        call("ip", "-n", name, "link", "set", INTERFACE, "up")

    def change(self, link: Link) -> None:
        """Give all links another rate and delay, also while they are in use."""
        for host in self.numbers:
            set_rate(("-n", f"host{host}"), INTERFACE, link)
            set_rate((), f"port{host}", link)
            whose = ("nomaster",) if link.delay_ms else ("master", "switch")
            call("ip", "link", "set", f"port{host}", *whose)
        if self._delay is not None:
            self._delay.kill()
            self._delay.wait()
            self._delay = None
        if link.delay_ms:
            self._delay = self._start_delay(link.delay_ms)

    def _start_delay(self, delay_ms: float) -> subprocess.Popen[bytes]:
        ports = [f"port{host}" for host in self.numbers]
        script = str(Path(__file__).with_name("hosts_delay.py"))
        command = [sys.executable, script, str(delay_ms), *ports]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError("the delay between the hosts could not be made")
        return process

    def start(self, host: int, command: Sequence[str], **more: Any) -> subprocess.Popen[str]:
        """Start a command on a host.

        Args:
            host: Its number, from 1.
            command: With `{host}` and `{address}` filled in, those of the host it runs on.
            more: As for `subprocess.Popen`; the environment names the interface for gloo.
        """
        places = {"{host}": str(host), "{address}": address(host)}
        words = [fill(word, places) for word in command]
        there = ["nsenter", f"--net=/run/netns/host{host}", f"--uts=/run/host{host}", "--"]
        names = {"GLOO_SOCKET_IFNAME": INTERFACE, "TP_SOCKET_IFNAME": INTERFACE}
        # There is no name server to ask for names of addresses, of which torch would warn.
        quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
        env = {**quiet, **os.environ, **more.pop("env", {}), **names}
        return subprocess.Popen([*there, *words], env=env, text=True, **more)

    def counters(self, host: int) -> Counters:
        """What a host's interface has carried so far."""
        show = ("ip", "-n", f"host{host}", "-s", "-j", "link", "show", "dev", INTERFACE)
        found = json.loads(call(*show))[0]["stats64"]
        sent, received = found["tx"], found["rx"]
        return Counters(
            sent=sent["bytes"],
            received=received["bytes"],
            frames_sent=sent["packets"],
            frames_received=received["packets"],
        )


def fill(word: str, places: dict[str, str]) -> str:
    """The word with each place filled in."""
    for place, value in places.items():
        word = word.replace(place, value)
    return word


def set_rate(where: tuple[str, ...], interface: str, link: Link) -> None:
    """Limit what leaves by an interface."""
    if not link.rate:
        command = ("tc", *where, "qdisc", "delete", "dev", interface, "root")
        subprocess.run(command, capture_output=True, check=False)  # there may be none
        return
    burst = max(LEAST_BURST, int(link.rate / 8 * BURST_S))
    queue_s = QUEUE_S + 2e-3 * link.delay_ms
    limit = max(20 * LEAST_BURST, int(link.rate / 8 * queue_s)) + burst
    bucket = ("rate", f"{link.rate:.0f}bit", "burst", f"{burst}b", "limit", f"{limit}b")
    call("tc", *where, "qdisc", "replace", "dev", interface, "root", "tbf", *bucket)


def call(*command: str) -> str:
    """Run a command that must succeed; give what it printed."""
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {found.stderr.strip()}")
    return found.stdout
