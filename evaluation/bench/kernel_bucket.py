"""Linux's token bucket filter (`tc tbf`) in a network namespace of its own, measured as the emulator is.

`python -m evaluation.bench.kernel_bucket RATE BURST BYTES SECONDS`, run under `unshare --user --map-root-user --net`,
shapes the loopback device, sends datagrams over it, and prints the stamps of their arrivals.
"""

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from typing import Final

HEADER_BYTES: Final = 42
"""Ethernet, IP and UDP headers, which the filter counts too."""


def kernel_stamps(
    rate_bps: float, burst_bytes: int, packet_bytes: int, seconds: float
) -> list[tuple[float, int]] | str:
    """(monotonic seconds, bytes with headers) of arriving datagrams, or why that cannot be measured here.

    Args:
        rate_bps: of the filter.
        burst_bytes: of the filter.
        packet_bytes: of each datagram with its headers, where that leaves something.
        seconds: for how long to send.
    """
    if not (shutil.which("unshare") and shutil.which("tc")):
        return "needs unshare and tc"
    module = [sys.executable, "-m", "evaluation.bench.kernel_bucket"]
    values = [f"{rate_bps:.0f}", str(burst_bytes), str(packet_bytes), str(seconds)]
    command = ["unshare", "--user", "--map-root-user", "--net", *module, *values]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - as above
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["failed"])[-1]
    return [(at_s, size) for at_s, size in json.loads(done.stdout)]


def _shape(rate_bps: str, burst_bytes: str) -> None:
    for command in (
        "ip link set lo up",
        f"tc qdisc add dev lo root tbf rate {rate_bps}bit burst {burst_bytes} limit 20000000",
    ):
        subprocess.run(command.split(), check=True)  # noqa: S603 - numbers only


def _send(port: int, payload: bytes, until_s: float) -> None:
    """Fills the filter's queue; the socket's send buffer holds back what it cannot take."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        while time.monotonic() < until_s:
            sending.sendto(payload, ("127.0.0.1", port))


def main() -> None:
    """Shapes, sends, receives, prints."""
    rate_bps, burst_bytes, packet_bytes, seconds = sys.argv[1:]
    _shape(rate_bps, burst_bytes)
    payload = bytes(max(int(packet_bytes) - HEADER_BYTES, 1))
    stamps = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiving:
        receiving.bind(("127.0.0.1", 0))
        receiving.settimeout(1.0)
        until_s = time.monotonic() + float(seconds)
        port = receiving.getsockname()[1]
        threading.Thread(target=_send, args=(port, payload, until_s), daemon=True).start()
        while time.monotonic() < until_s:
            size = len(receiving.recv(65_536))
            stamps.append((time.monotonic(), size + HEADER_BYTES))
    json.dump(stamps, sys.stdout)


if __name__ == "__main__":
    main()
