"""Across hosts, as far as one machine can show it: a head in one network namespace, replicas in another.

The veth pair between them has a delay where the kernel offers netem. Everything runs in child processes, since a
process cannot change the namespace of a loop that has begun.
"""

import subprocess
import time
from pathlib import Path

import pytest

from fleet.runtime.security import generate_keys, write_keys
from tests.live.namespaces import HEAD_ADDRESS, child, ip, two_namespaces

pytestmark = [pytest.mark.netns, pytest.mark.live]

HEAD_SCRIPT = """
import asyncio, sys
from pathlib import Path
from fleet.runtime.security import Security, read_allow_list, read_keys
from fleet.runtime.transport import Node
from tests.live.harness import QUICK, Recorder, order

async def main(endpoint, keys, allow):
    node = Node("head", options=QUICK, security=Security(read_keys(Path(keys)), read_allow_list(Path(allow))))
    node.host("batcher/default")
    node.bind(endpoint)
    recorder = Recorder(node)
    node.start(recorder)
    print("bound", flush=True)
    loop = asyncio.get_running_loop()
    sent, reported = loop.time(), set()
    def say(what, *more):
        if what not in reported:
            reported.add(what)
            print(what, *more, flush=True)
    while True:
        await asyncio.sleep(0.002)
        if recorder.joined and "asked" not in reported:
            sent = loop.time()
            node.send("replica/0", "batcher/default", order(1))
            say("asked")
        if recorder.delivered:
            say("answered", loop.time() - sent)
        if node.counters.refused_keys and node.counters.handshake_failures.get("refused-key"):
            say("refused")
        if recorder.lost:
            say("lost")

asyncio.run(main(*sys.argv[1:]))
"""


def expect(process: subprocess.Popen[str], word: str) -> list[str]:
    """The head's next line, which must begin with this word."""
    line = process.stdout.readline().split()
    assert line, process.stderr.read()
    assert line[0] == word
    return line[1:]


@pytest.fixture
def namespaces():
    with two_namespaces() as found:
        yield found


@pytest.fixture
def keys(tmp_path: Path):
    """Key files: head.key, replica.key (on the allow-list), stranger.key (not); and the head's public key."""
    made = {name: generate_keys() for name in ("head", "replica", "stranger")}
    for name, pair in made.items():
        write_keys(pair, tmp_path / f"{name}.key")
    (tmp_path / "allow.toml").write_text(f'[[peers]]\nkey = "{made["replica"].public}"\n')
    return tmp_path, made["head"].public


def test_a_replica_joins_from_another_host_and_a_wrong_key_is_refused_and_counted(namespaces, keys):
    near, far, delayed = namespaces
    directory, head_key = keys
    endpoint = f"tcp://{HEAD_ADDRESS}:5999"

    def replica(name: str, key: str, address: str):
        options = ("--keys", str(directory / key), "--server-key", head_key)
        return child(far, "-m", "tests.live.peer_process", endpoint, name, address, *options)

    with child(
        near, "-c", HEAD_SCRIPT, endpoint, str(directory / "head.key"), str(directory / "allow.toml")
    ) as head:
        expect(head, "bound")
        with replica("intruder", "stranger.key", "replica/9"):
            expect(head, "refused")
        with replica("far", "replica.key", "replica/0") as joined:
            expect(head, "asked")
            (trip_s,) = expect(head, "answered")
            if delayed:
                assert float(trip_s) >= 0.003
            assert joined.poll() is None
        expect(head, "lost")


def test_a_public_address_without_keys_is_refused(namespaces):
    near, _, _ = namespaces
    script = f"from fleet.runtime.transport import Node; Node('head').bind('tcp://{HEAD_ADDRESS}:5999')"
    with child(near, "-W", "ignore", "-c", script) as head:
        _, errors = head.communicate(timeout=30)
    assert head.returncode == 1
    assert "no keys were given" in errors


def test_a_cable_that_is_pulled_loses_the_peer_after_its_lease(namespaces, keys):
    near, far, _ = namespaces
    directory, head_key = keys
    endpoint = f"tcp://{HEAD_ADDRESS}:5999"
    options = ("--keys", str(directory / "replica.key"), "--server-key", head_key)
    with (
        child(
            near, "-c", HEAD_SCRIPT, endpoint, str(directory / "head.key"), str(directory / "allow.toml")
        ) as head,
        child(far, "-m", "tests.live.peer_process", endpoint, "far", "replica/0", *options) as replica,
    ):
        expect(head, "bound")
        expect(head, "asked")
        expect(head, "answered")
        assert ip("-n", far, "link", "set", "fleet-b", "down").returncode == 0
        began = time.monotonic()
        expect(head, "lost")
        assert time.monotonic() - began < 10.0
        assert replica.poll() is None
