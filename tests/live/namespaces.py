"""Two hosts on one machine: network namespaces joined by a veth pair, for tests of what crosses a network."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

HEAD_ADDRESS = "10.203.7.1"


def ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=20, check=False)


@contextlib.contextmanager
def two_namespaces() -> Iterator[tuple[str, str, bool]]:
    """Two namespaces joined by a veth pair: (of the head, of the replicas, whether packets are delayed)."""
    if shutil.which("ip") is None:
        pytest.skip("no `ip` command (iproute2)")
    head, far = f"fleet-h{os.getpid()}", f"fleet-r{os.getpid()}"
    with contextlib.ExitStack() as undo:
        for name in (head, far):
            made = ip("netns", "add", name)
            if made.returncode != 0:
                pytest.skip(f"network namespaces are not permitted here: {made.stderr.strip()}")
            undo.callback(ip, "netns", "delete", name)
        joined = ip(
            "link", "add", "fleet-a", "netns", head, "type", "veth", "peer", "name", "fleet-b", "netns", far
        )
        if joined.returncode != 0:
            pytest.skip(f"no veth pair here: {joined.stderr.strip()}")
        for name, link, address in ((head, "fleet-a", HEAD_ADDRESS), (far, "fleet-b", "10.203.7.2")):
            assert ip("-n", name, "addr", "add", f"{address}/24", "dev", link).returncode == 0
            assert ip("-n", name, "link", "set", link, "up").returncode == 0
        delay = ("qdisc", "add", "dev", "fleet-a", "root", "netem", "delay", "3ms")
        tc = shutil.which("tc")
        delayed = tc is not None and ip("netns", "exec", head, tc, *delay).returncode == 0
        yield head, far, delayed


@contextlib.contextmanager
def child(namespace: str, *command: str):
    process = subprocess.Popen(
        ["ip", "netns", "exec", namespace, sys.executable, *command],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)
