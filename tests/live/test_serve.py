"""A head, replicas that join it, and clients, in processes of their own: hurt as networks and systems hurt them."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from fleet import FleetError
from fleet.runtime.security import generate_keys, write_keys
from tests.live.fleet_processes import ClientProcess, HeadProcess, end_all, joined, small_fleet
from traces import poisson

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]


@pytest.fixture
def head() -> Iterator[HeadProcess]:
    head = HeadProcess(small_fleet())
    yield head
    end_all(head.process)


def connect(endpoint: str) -> socket.socket:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5)


def test_replicas_that_join_serve_a_client_of_another_process(head: HeadProcess, tmp_path: Path) -> None:
    replicas = joined(head.endpoint, 2)
    client = ClientProcess(poisson(rate_per_s=200, duration_s=2, seed=0), head.endpoint, tmp_path)
    outcomes, _ = client.result()
    report = head.stop()
    assert set(outcomes) == {"completed"}
    assert report.submitted == len(outcomes) == sum(report.outcomes.values())
    for replica in replicas:
        replica.join(10)
        assert replica.exitcode == 0, "the head said goodbye, so they end in good order"


def test_requests_wait_for_the_first_replica_to_join(head: HeadProcess, tmp_path: Path) -> None:
    client = ClientProcess(poisson(rate_per_s=50, duration_s=1, seed=0), head.endpoint, tmp_path)
    time.sleep(2.0)
    replicas = joined(head.endpoint)
    outcomes, _ = client.result()
    assert set(outcomes) == {"completed"}
    end_all(*replicas)


def test_a_head_that_stops_ends_every_pending_request_as_failed(head: HeadProcess, tmp_path: Path) -> None:
    client = ClientProcess(poisson(rate_per_s=50, duration_s=1, seed=0), head.endpoint, tmp_path)
    time.sleep(3.0)
    report = head.stop()
    outcomes, details = client.result()
    assert report.outcomes == {"failed": report.submitted}
    assert set(outcomes) == {"failed"}
    assert set(details) <= {
        "the head stops",
        "the head is gone: said goodbye: done",
        "the head is unreachable",
    }


def test_a_client_whose_head_is_killed_ends_its_requests_itself(head: HeadProcess, tmp_path: Path) -> None:
    trace = poisson(rate_per_s=100, duration_s=30, seed=0)
    client = ClientProcess(trace, head.endpoint, tmp_path)
    replicas = joined(head.endpoint, rejoin_s=1.0)
    time.sleep(3.5)
    head.process.kill()
    outcomes, details = client.result()
    assert "failed" in outcomes
    assert set(outcomes) <= {"completed", "failed"}
    assert set(details) <= {None, "the head is gone: silent for 3 s", "the head is unreachable"}
    assert len(outcomes) < len(trace), "what was not sent yet is not sent to nobody"
    replicas[0].join(20)
    assert replicas[0].exitcode == 1, "a replica whose head is gone ends, and says that this was not in order"


def test_killing_joined_replicas_one_after_the_other_loses_no_request(
    head: HeadProcess, tmp_path: Path
) -> None:
    replicas = joined(head.endpoint, 3)
    time.sleep(2.5)
    client = ClientProcess(poisson(rate_per_s=200, duration_s=4, seed=0), head.endpoint, tmp_path)
    time.sleep(2.5)
    os.kill(replicas[0].pid or 0, signal.SIGKILL)
    outcomes, _ = client.result()
    report = head.stop()
    assert len(outcomes) == report.submitted
    assert outcomes.count("completed") == len(outcomes)
    end_all(*replicas)


def test_bytes_that_are_no_message_are_counted_and_change_nothing(head: HeadProcess, tmp_path: Path) -> None:
    replicas = joined(head.endpoint, 2)
    client = ClientProcess(poisson(rate_per_s=200, duration_s=3, seed=0), head.endpoint, tmp_path)
    attacks = [
        os.urandom(4096),
        b"GET / HTTP/1.1\r\nHost: head\r\n\r\n",
        b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL" + bytes(48),  # a greeting, and then nothing
        # A greeting, and a frame that announces a gigabyte.
        b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL"
        + bytes(48)
        + b"\x02"
        + struct.pack(">Q", 1 << 30)
        + os.urandom(512),
    ]
    for attack in attacks * 3:
        with connect(head.endpoint) as raw:
            raw.sendall(attack)
    outcomes, _ = client.result()
    report = head.stop()
    assert set(outcomes) == {"completed"}
    assert report.counters["handshake_failures"] >= 1
    end_all(*replicas)


def keys(directory: Path, name: str) -> tuple[Path, str]:
    pair = generate_keys()
    write_keys(pair, directory / name)
    return directory / name, pair.public


def test_with_keys_a_known_key_serves_and_a_wrong_one_is_refused_and_counted(tmp_path: Path) -> None:
    head_keys, head_public = keys(tmp_path, "head")
    good, good_public = keys(tmp_path, "good")
    wrong, _ = keys(tmp_path, "wrong")
    driver, driver_public = keys(tmp_path, "driver")
    allow = tmp_path / "allow.toml"
    allow.write_text(
        f'[[peers]]\nkey = "{good_public}"\nhosts = ["replica/*", "host/*"]\n'
        f'[[peers]]\nkey = "{driver_public}"\nhosts = ["client/*"]\n'
    )
    head = HeadProcess(small_fleet(replicas=1), keys=head_keys, allow=allow)
    served = joined(head.endpoint, keys=good, server_key=head_public)
    refused = joined(head.endpoint, keys=wrong, server_key=head_public)
    trace = poisson(rate_per_s=100, duration_s=2, seed=0)
    client = ClientProcess(trace, head.endpoint, tmp_path, keys=driver, server_key=head_public)
    outcomes, _ = client.result()
    report = head.stop()
    assert set(outcomes) == {"completed"}
    assert report.counters["refused_keys"] >= 1
    assert report.counters["peers_joined"] == 2
    end_all(*served, *refused)


def test_a_public_address_without_keys_is_refused_in_words() -> None:
    with pytest.raises(FleetError, match="open to other hosts and no keys were given"):
        HeadProcess(small_fleet(), bind="tcp://0.0.0.0:*")


def test_a_head_that_is_told_how_long_stops_by_itself() -> None:
    head = HeadProcess(small_fleet(), for_s=6.0, local_replicas=2)
    report = head.receive()
    head.process.join(10)
    assert head.process.exitcode == 0
    assert report.counters["peers_joined"] == 2


def test_hosts_rejoin_a_head_that_was_killed_and_one_that_stood_still(
    head: HeadProcess, tmp_path: Path
) -> None:
    replicas = joined(head.endpoint, 2)
    time.sleep(2.0)
    head.process.kill()
    head.process.join()
    successor = HeadProcess(small_fleet(), bind=head.endpoint)
    trace = poisson(rate_per_s=100, duration_s=1, seed=0)
    assert set(ClientProcess(trace, head.endpoint, tmp_path).result()[0]) == {"completed"}
    os.kill(successor.process.pid or 0, signal.SIGSTOP)
    time.sleep(4.0)  # longer than a lease
    os.kill(successor.process.pid or 0, signal.SIGCONT)
    assert set(ClientProcess(trace, head.endpoint, tmp_path).result()[0]) == {"completed"}
    report = successor.stop()
    for replica in replicas:
        replica.join(10)
        assert replica.exitcode == 0
    assert report.outcomes == {"completed": 2 * len(trace)}
    assert report.counters.get("failed_starts", 0) == 0


def test_requests_end_with_the_reason_when_no_replica_can_be_started(tmp_path: Path) -> None:
    broken = replace(small_fleet().engine, fail_load=True)
    head = HeadProcess(small_fleet(engine=broken, failed_starts_limit=2), local_replicas=2)
    client = ClientProcess(poisson(rate_per_s=50, duration_s=1, seed=0), head.endpoint, tmp_path)
    outcomes, details = client.result()
    head.stop()
    assert set(outcomes) == {"failed"}
    assert all("the engine failed to load: the load was told to fail" in str(detail) for detail in details)
