"""What a link gives: round trip and rate between two hosts.

Usage: python hosts_probe.py serve PORT | python hosts_probe.py ask ADDRESS PORT BYTES
"""

import json
import socket
import sys
import time

__all__ = ["ask", "serve"]

TRIPS = 5
CHUNK = 1 << 16
PATIENCE_S = 60.0


def read(connection: socket.socket, size: int) -> None:
    """Take so many bytes and forget them."""
    while size:
        got = len(connection.recv(min(CHUNK, size)))
        if not got:
            raise ConnectionError("the other host is gone")
        size -= got


def serve(port: int) -> None:
    """Answer one asker: each byte of a round trip, then the sum of what it sends."""
    with socket.create_server(("", port)) as server:
        server.settimeout(PATIENCE_S)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(PATIENCE_S)
            for _ in range(TRIPS):
                read(connection, 1)
                connection.sendall(b"!")
            size = int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "big")
            read(connection, size)
            connection.sendall(b"!")


def ask(host: str, port: int, size: int) -> dict[str, float]:
    """Round trip in milliseconds, the best of some; bits a second of a one-way transfer."""
    connection = connect(host, port)
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        trips = []
        for _ in range(TRIPS):
            start = time.perf_counter()
            connection.sendall(b"?")
            read(connection, 1)
            trips.append(time.perf_counter() - start)
        block = bytes(CHUNK)
        start = time.perf_counter()
        connection.sendall(size.to_bytes(8, "big"))
        for first in range(0, size, CHUNK):
            connection.sendall(block[: min(CHUNK, size - first)])
        read(connection, 1)
        seconds = time.perf_counter() - start
    return {"round_trip_ms": 1000 * min(trips), "bits_per_second": 8 * size / seconds}


def connect(host: str, port: int) -> socket.socket:
    """Connect as soon as the other host listens."""
    for _ in range(100):
        try:
            return socket.create_connection((host, port), timeout=PATIENCE_S)
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise ConnectionError(f"nobody answers at {host}:{port}")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        print(json.dumps(ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
