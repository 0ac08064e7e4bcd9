"""Operations on a fleet that runs, in real processes: whatever is changed, no request is lost or answered twice.

The client is its own check: a second reply to a request ends it with an error, and one that has no reply is in its
records.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from fleet import AffineLatency, EmulatedEngine, FleetError, FleetOperator, operate, replay, simulate
from fleet.cli import main as fleet
from fleet.runtime.security import generate_keys, write_keys
from policies import NoBatching, Pinned
from tests.live.fleet_processes import ClientProcess, HeadProcess, end_all, joined, small_fleet
from traces import Fault, FaultTrace, Operation, OperationsTrace, Request, Trace, TraceEntry, poisson

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

V2 = {"version": "2", "engine": {"engine": "emulated", "latency": {
    "latency": "affine", "base_s": 0.006, "per_item_s": 0.001}}}  # fmt: skip
BROKEN = {"version": "2", "engine": {**V2["engine"], "engine": "tests.live.fragile:FailsEveryBatch"}}
STATUS = {"kind": "status"}


@contextmanager
def served(spec: Any, **options: Any) -> Iterator[HeadProcess]:
    head = HeadProcess(spec, **options)
    try:
        yield head
    finally:
        end_all(head.process)


def ask(head: HeadProcess, **operation: Any) -> dict[str, Any]:
    return operate(head.endpoint, operation) or {}


def reached(
    head: HeadProcess, what: Callable[[dict[str, Any]], bool], within_s: float = 20.0
) -> dict[str, Any]:
    """The status, as soon as it is so."""
    until_s = time.monotonic() + within_s
    while not what(status := ask(head, **STATUS)):
        assert time.monotonic() < until_s, status
        time.sleep(0.1)
    return status


def ready(pool: str, count: int) -> Callable[[dict[str, Any]], bool]:
    return lambda status: status["pools"][pool]["replicas"] == {"ready": count}


def all_completed(client: ClientProcess, head: HeadProcess) -> None:
    """What the client saw and what the head's books say are the same, and all of it is good."""
    outcomes, details = client.result()
    report = head.stop()
    assert set(outcomes) == {"completed"}, [detail for detail in details if detail][:3]
    assert report.outcomes == {"completed": len(outcomes)}
    assert report.submitted == len(outcomes)


def test_a_deploy_a_canary_and_its_rollback_under_load_lose_nothing(tmp_path: Path) -> None:
    with served(small_fleet(), local_replicas=4) as head:
        client = ClientProcess(poisson(rate_per_s=150, duration_s=8, seed=0), head.endpoint, tmp_path)
        ask(head, kind="deploy", pool="v2", spec=V2)
        status = reached(head, ready("v2", 2))
        assert status["pools"]["v2"]["completed"] == 0, "a version that nobody chooses serves nobody"
        ask(
            head,
            kind="rollout",
            model="default",
            policy={"policy": "canary", "share": 0.3, "promote_itself": False},
        )
        status = reached(head, lambda status: status["pools"]["v2"]["completed"] > 20)
        assert status["models"]["default"]["stage"] == "canary 30 %"
        ask(head, kind="rollback", model="default")
        status = reached(head, lambda status: status["pools"]["v2"]["in_flight"] == 0)
        assert "rolled back: by an operator" in status["models"]["default"]["stage"]
        served_by_v2 = status["pools"]["v2"]["completed"]
        ask(head, kind="retire", pool="v2")
        status = reached(head, lambda status: list(status["pools"]) == ["default"])
        assert 0 < served_by_v2 < status["requests"]["completed"]
        all_completed(client, head)


def test_a_canary_that_fails_every_batch_is_rolled_back_by_itself_and_its_report_says_who_saw_it(
    tmp_path: Path,
) -> None:
    spec = small_fleet(retry={"policy": "no-retry"})
    with served(spec, local_replicas=4, allow_modules=["tests.live.fragile"]) as head:
        client = ClientProcess(poisson(rate_per_s=100, duration_s=8, seed=1), head.endpoint, tmp_path)
        ask(head, kind="deploy", pool="v2", spec={**BROKEN, "replicas": 1})
        reached(head, ready("v2", 1))
        policy = {"policy": "canary", "share": 0.2, "gates": {"min_requests": 10}}
        ask(head, kind="rollout", model="default", policy=policy)
        status = reached(head, lambda status: "rolled back" in status["models"]["default"]["stage"])
        exposed = re.search(
            r"\((\d+) requests were sent to version 2\)", status["models"]["default"]["stage"]
        )
        outcomes, details = client.result()
        report = head.stop()
    assert report.submitted == len(outcomes) == sum(report.outcomes.values())
    assert set(outcomes) == {"completed", "failed"}
    assert exposed is not None
    assert outcomes.count("failed") == int(exposed[1])
    assert {detail for detail in details if detail} == {"engine-error: wrong weights"}


def test_a_pool_retired_under_load_moves_what_waits_and_ends_what_runs(tmp_path: Path) -> None:
    slow = EmulatedEngine(latency=AffineLatency(base_s=0.05, per_item_s=0.0))
    spec = small_fleet(engine=slow, batching=NoBatching())
    with served(spec, local_replicas=4) as head:
        client = ClientProcess(poisson(rate_per_s=60, duration_s=5, seed=2), head.endpoint, tmp_path)
        reached(head, lambda status: status["pools"]["default"]["queue_depth"] > 5)
        ask(head, kind="deploy", pool="v2", spec=V2)
        reached(head, ready("v2", 2))
        ask(head, kind="retire", pool="default")
        status = reached(head, lambda status: list(status["pools"]) == ["v2"])
        assert list(status["models"]["default"]["versions"]) == ["2"]
        all_completed(client, head)


def test_scaling_under_load_up_and_down_loses_nothing(tmp_path: Path) -> None:
    with served(small_fleet(replicas=1), local_replicas=3) as head:
        client = ClientProcess(poisson(rate_per_s=150, duration_s=6, seed=3), head.endpoint, tmp_path)
        ask(head, kind="scale", pool="default", replicas=3)
        reached(head, ready("default", 3))
        ask(head, kind="scale", pool="default", min_replicas=1, max_replicas=1)
        reached(head, ready("default", 1))
        all_completed(client, head)


def test_more_replicas_than_can_join_a_head_are_refused_and_it_serves_on() -> None:
    with served(small_fleet(replicas=1), local_replicas=1) as head:
        for operation, path in (
            ({"kind": "scale", "pool": "default", "replicas": 100_000}, r"\$.replicas"),
            (
                {"kind": "scale", "pool": "default", "min_replicas": 5_000, "max_replicas": 9_000},
                r"\$.min_replicas",
            ),
            ({"kind": "deploy", "pool": "v2", "spec": {**V2, "replicas": 100_000}}, r"\$.spec.replicas"),
        ):
            with pytest.raises(
                FleetError, match=rf"{path}: [0-9,]+ processes are more than join a head, 4,096"
            ):
                ask(head, **operation)
        ask(head, kind="scale", pool="default", max_replicas=1_000_000)
        assert reached(head, ready("default", 1))["pools"]["default"]["max_replicas"] == 1_000_000


def test_a_replica_of_a_deployed_pool_that_is_killed_is_replaced(tmp_path: Path) -> None:
    with served(small_fleet(replicas=1)) as head:
        hosts = joined(head.endpoint, 1)
        reached(head, ready("default", 1))
        ask(head, kind="deploy", pool="v2", spec={**V2, "replicas": 1})
        hosts += joined(head.endpoint, 1)
        reached(head, ready("v2", 1))
        ask(head, kind="rollout", model="default", policy={"policy": "pinned", "version": "2"})
        hosts += joined(head.endpoint, 1)  # a spare
        client = ClientProcess(poisson(rate_per_s=100, duration_s=4, seed=4), head.endpoint, tmp_path)
        reached(head, lambda status: status["pools"]["v2"]["completed"] > 20)
        os.kill(hosts[1].pid or 0, signal.SIGKILL)
        all_completed(client, head)
        end_all(*hosts)


def test_an_operator_whose_head_dies_hears_so_and_one_that_stands_still_is_waited_for_so_long() -> None:
    with served(small_fleet()) as head:
        os.kill(head.process.pid or 0, signal.SIGSTOP)

        async def impatient() -> None:
            async with FleetOperator(head.endpoint, timeout_s=1.0) as operator:
                await operator.ask(STATUS)

        with pytest.raises(FleetError, match="no head answered: no answer for 1 s"):
            anyio.run(impatient)
        os.kill(head.process.pid or 0, signal.SIGCONT)

        async def interrupted() -> None:
            async with FleetOperator(head.endpoint, timeout_s=20.0) as operator:
                await operator.ask(STATUS)
                os.kill(head.process.pid or 0, signal.SIGSTOP)
                timer = threading.Timer(0.5, head.process.kill)
                timer.start()
                await operator.ask(STATUS)

        with pytest.raises(FleetError, match="the head is gone: silent for 3 s"):
            anyio.run(interrupted)


def test_an_operator_that_gives_up_waiting_says_that_it_may_be_done_still() -> None:
    with served(small_fleet()) as head:

        async def impatient() -> None:
            async with FleetOperator(head.endpoint, timeout_s=1.0) as operator:
                await operator.ask(STATUS)
                os.kill(head.process.pid or 0, signal.SIGSTOP)
                await operator.ask({"kind": "scale", "pool": "default", "replicas": 5})

        with pytest.raises(FleetError, match="did not answer in 1 s, and may do it still"):
            anyio.run(impatient)
        os.kill(head.process.pid or 0, signal.SIGCONT)
        reached(head, lambda status: status["pools"]["default"]["max_replicas"] == 5)


# --- keys --------------------------------------------------------------------------------------------------------


def test_with_keys_only_who_is_named_an_operator_operates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public = {}
    for name in ("head", "client", "operator", "host"):
        pair = generate_keys()
        write_keys(pair, tmp_path / name)
        public[name] = pair.public
    (tmp_path / "allow.toml").write_text(
        f"[[peers]]\nkey = '{public['client']}'\nhosts = [\"client/*\"]\n"
        f"[[peers]]\nkey = '{public['operator']}'\nhosts = [\"operator/*\"]\n"
        f"[[peers]]\nkey = '{public['host']}'\n"
    )
    with served(small_fleet(replicas=1), keys=tmp_path / "head", allow=tmp_path / "allow.toml") as head:

        def scale(key: str) -> tuple[int, str]:
            status = fleet(
                [
                    "scale",
                    head.endpoint,
                    "default",
                    "2",
                    "--keys",
                    str(tmp_path / key),
                    "--server-key",
                    public["head"],
                ]
            )
            said = capsys.readouterr()
            return status, said.out + said.err

        for key in ("client", "host"):
            status, said = scale(key)
            assert status == 2
            assert "this key may not host 'operator/" in said
            assert said.count("\n") == 1
        assert scale("operator") == (0, "pool default is scaled\n")
        assert head.stop().counters["refused_hellos"] >= 2


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_commands_do_what_they_say_and_wait_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "next.toml").write_text('version = "2"\nreplicas = 1\n')

    def run(*arguments: str, status: int = 0) -> str:
        capsys.readouterr()
        assert fleet([*arguments]) == status
        said = capsys.readouterr()
        return said.out if status == 0 else said.err

    with served(small_fleet(replicas=1), local_replicas=3) as head:
        where, wait = head.endpoint, ("--wait-s", "20")
        assert run("deploy", where, "v2", str(tmp_path / "next.toml"), *wait) == "pool v2 is ready\n"
        assert run("rollout", "start", where, "default", "canary", "--set", "share=0.25").startswith(
            "canary chooses"
        )
        assert "model default: canary, canary: waits" in run("rollout", "status", where, "default"), (
            "no request yet"
        )
        assert run("rollout", "promote", where, "default") == "the rollout of default is promoted\n"
        assert "promoted: by an operator" in run("status", where)
        assert run("scale", where, "v2", "2", *wait) == "pool v2 has its replicas\n"
        late = run("scale", where, "v2", "9", "--wait-s", "1", status=1)
        assert late.startswith("fleet: pool v2 is scaled, and not there after 1 s: ")
        assert "9 wanted" in late
        assert run("scale", where, "v2", "--min", "0", "--max", "1", *wait) == "pool v2 has its replicas\n"
        assert run("retire", where, "default", *wait) == "pool default is gone\n"
        assert (
            "default" not in run("status", where).split("model", maxsplit=1)[0].split("not\n")[1].split()[0]
        )
        wrong = run("retire", where, "default", status=2)
        assert wrong == "fleet: $.pool: there is no pool 'default'; there are v2\n"


# --- replay ------------------------------------------------------------------------------------------------------


def two_models(seconds: int) -> Trace:
    """Ten requests a second for each of two models."""
    requests = [
        Request(f"{model}{n}", n / 10, model=model) for n in range(10 * seconds) for model in ("a", "b")
    ]
    return Trace.from_entries([TraceEntry(request) for request in requests])


def pooled(**changes: Any) -> Any:
    tables = {
        name: {"engine": small_fleet().engine, "model": name, **changes.get(name, {})} for name in ("a", "b")
    }
    return small_fleet(pools=tables, replicas=1)


def test_hosts_become_replicas_of_any_pool_and_a_fault_finds_the_place_of_its_pool() -> None:
    crash = Fault(at_s=0.5, kind="crash", replica="place/b/0")
    slow = Fault(at_s=1.5, kind="slow", replica="replica/a/0", factor=4.0, for_s=0.5)
    faults = FaultTrace(faults=(crash, slow))

    live = replay(two_models(3), pooled(), faults=faults)
    simulated = simulate(two_models(3), pooled(), faults=faults)

    for run in (live, simulated):
        assert run.summary.completed == run.summary.submitted == 60
        assert run.manifest.counters["faults"] == 2
        ended = {row["replica"] for row in run.replicas.to_pylist() if row["state"] == "failed"}
        assert ended == {"replica/b/0"}
        served_by = set(run.records["replica"].to_pylist())
        assert served_by == {"replica/a/0", "replica/b/0", "replica/b/1"}


def test_a_replica_of_half_the_weight_takes_twice_as_long_live_too() -> None:
    engine = EmulatedEngine(latency=AffineLatency(base_s=0.05, per_item_s=0.0))
    spec = small_fleet(
        engine=engine, weights=(1.0, 0.5), routing={"policy": "round-robin"}, max_inflight_batches=1
    )
    trace = Trace.from_entries([TraceEntry(Request(f"r{n}", 0.15 * n)) for n in range(12)])

    run = replay(trace, spec)

    took: dict[str, list[float]] = {"replica/0": [], "replica/1": []}
    for replica, service_s in zip(
        run.records["replica"].to_pylist(), run.records["service_s"].to_pylist(), strict=True
    ):
        took[replica].append(service_s)
    assert took["replica/0"] == [pytest.approx(0.05)] * 6
    assert min(took["replica/1"]) >= 0.1
    assert sorted(took["replica/1"])[3] < 0.12


def test_an_operations_trace_is_played_live_as_it_is_simulated() -> None:
    operations = OperationsTrace(operations=(
        Operation(at_s=0.2, kind="deploy", pool="v2", spec=V2),
        Operation(at_s=2.5, kind="rollout", model="default", policy={"policy": "pinned", "version": "2"}),
        Operation(at_s=3.2, kind="retire", pool="default"),
    ))  # fmt: skip
    spec = small_fleet(replicas=1)
    trace = Trace.from_entries([TraceEntry(Request(f"r{n}", 0.1 * n)) for n in range(50)])

    for run in (replay(trace, spec, operations=operations), simulate(trace, spec, operations=operations)):
        assert run.summary.completed == 50
        by = [replica.startswith("replica/v2/") for replica in run.records["replica"].to_pylist()]
        assert by == [False] * 25 + [True] * 25 or by == [False] * 26 + [True] * 24
        pinned = [row for row in run.decisions.to_pylist() if row["slot"] == "operation"]
        assert [row["decision"] for row in pinned] == ["deploy", "rollout", "retire"]
    assert isinstance(spec.model("default").rollout, Pinned)
