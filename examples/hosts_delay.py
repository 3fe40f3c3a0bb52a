"""A switch that keeps every frame for a while: the delay of a long line, made in user space.

It reads the frames that hosts send from their ports, and writes each to the port of the host it is
for (to all others if it is for all) once its time has come. Every packet of every connection is
delayed, acknowledgements too; nothing is reordered, and what is dropped is dropped by the port's
queue, as a switch does when several hosts send to one.

Usage: python hosts_delay.py MILLISECONDS PORT [PORT ...]; host k, from 1, is at the k-th port.
"""

import errno
import os
import select
import socket
import sys
import time
from collections import deque
from contextlib import suppress

__all__ = ["open_port", "relay"]

# Of linux/if_packet.h. With the header in front, checksums and segments that the sender's kernel
# left for its network card to make come and go as they are.
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
ETH_P_ALL = 3
HEADER = 10  # bytes of struct virtio_net_hdr
LARGEST = HEADER + 65536 + 64
BUFFER = 64 * 2**20
DROPPED = (errno.ENOBUFS, errno.EAGAIN)  # what a full queue answers


def open_port(name: str) -> socket.socket:
    """All frames that arrive at an interface of this namespace, and a way to send from it."""
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    port.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    port.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    with suppress(PermissionError):
        for option in (SO_SNDBUFFORCE, SO_RCVBUFFORCE):
            port.setsockopt(socket.SOL_SOCKET, option, BUFFER)
    port.bind((name, ETH_P_ALL))
    port.setblocking(False)
    return port


def relay(ports: list[socket.socket], delay_s: float) -> None:
    """Carry frames between the ports for ever."""
    number = {port: index for index, port in enumerate(ports)}
    waiting: deque[tuple[float, int, bytes]] = deque()
    while True:
        left = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select(ports, [], [], left)
        for port in ready:
            with suppress(BlockingIOError):
                for _ in range(64):
                    frame = port.recv(LARGEST)
                    waiting.append((time.monotonic() + delay_s, number[port], frame))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, source, frame = waiting.popleft()
            send(ports, source, frame)


def send(ports: list[socket.socket], source: int, frame: bytes) -> None:
    """Hand a frame to the port of its host, or to all others."""
    target = frame[HEADER : HEADER + 6]
    known = target[:5] == b"\x02\0\0\0\0" and 1 <= target[5] <= len(ports)
    chosen = [target[5] - 1] if known else [i for i in range(len(ports)) if i != source]
    for index in chosen:
        try:
            ports[index].send(frame)
        except OSError as error:
            if error.errno not in DROPPED:
                raise


def main() -> None:
    """Open the ports, say so, and go on until killed."""
    with suppress(PermissionError):
        os.nice(-10)  # it sleeps most of the time, and must wake in time
    ports = [open_port(name) for name in sys.argv[2:]]
    print("ready", flush=True)
    relay(ports, float(sys.argv[1]) / 1000)


if __name__ == "__main__":
    main()
