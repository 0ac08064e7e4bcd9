"""Jobs on several processes: whatever becomes of one, the others go on."""

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import count, islice
from pathlib import Path

import pytest

from experiments.executor import AHEAD, LOST, Executor, Failure
from tests.conftest import ROOT


def doubled(job: int) -> int:
    if job == 3:
        raise ValueError("three\nis too many")
    return 2 * job


def ended(job: tuple[str, Path]) -> str:
    """`dies` takes its worker with it each time, `once` the first time."""
    name, folder = job
    mark = folder / name
    if name == "dies" or (name == "once" and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def seen_by(job: int) -> tuple[int, int]:
    return job, os.getpid()


def all_of(work, jobs, workers):
    with Executor(workers) as executor:
        return dict(executor.run(work, jobs))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_that_raises_leaves_the_others_alone(workers):
    found = all_of(doubled, range(6), workers)

    failure = found.pop(3)
    assert found == {0: 0, 1: 2, 2: 4, 4: 8, 5: 10}
    assert failure.error == "ValueError: three is too many"
    assert failure.traceback.splitlines()[1].endswith("in doubled"), "none of the executor's own frames"
    assert not failure.lost
    with pytest.raises(ValueError, match="is too many"):
        failure.reraise()


def test_a_failure_is_the_same_wherever_it_happened():
    here, there = (all_of(doubled, [2, 3], workers)[3] for workers in (1, 2))
    assert (here.error, here.traceback) == (there.error, there.traceback)


def test_a_worker_that_is_lost_once_costs_nothing(tmp_path):
    jobs = [(name, tmp_path) for name in ("a", "once", "b", "c", "d", "e")]
    assert all_of(ended, jobs, 2) == {job: job[0] for job in jobs}
    assert (tmp_path / "once").exists()


def test_a_job_that_takes_its_worker_twice_fails_alone(tmp_path):
    jobs = [(name, tmp_path) for name in ("a", "dies", "b", "c", "d", "e")]

    found = all_of(ended, jobs, 2)

    assert found.pop(jobs[1]) == Failure(LOST)
    assert found == {job: job[0] for job in jobs if job[0] != "dies"}


def test_jobs_are_taken_as_there_is_room():
    taken = count()
    with Executor(2) as executor:
        list(islice(executor.run(doubled, taken), 3))
        assert next(taken) <= 3 + 2 * AHEAD


def test_one_worker_is_this_process_itself():
    lock = threading.Lock()  # which cannot be sent
    with Executor(1) as executor:
        assert dict(executor.run(lambda job: (job, lock.locked(), os.getpid()), [1])) == {
            1: (1, False, os.getpid())
        }


def test_what_cannot_be_sent_is_run_here(capfd):
    lock = threading.Lock()
    with Executor(2) as executor:
        found = dict(executor.run(lambda job: (job, lock.locked(), os.getpid()), [1, 2]))

    assert found == {1: (1, False, os.getpid()), 2: (2, False, os.getpid())}
    assert capfd.readouterr().err.count("cannot be sent to another") == 1


def test_a_result_that_cannot_be_sent_back_is_a_failure():
    found = all_of(lambda job: threading.Lock() if job else job, [0, 1], 2)
    assert found[0] == 0
    assert "cannot pickle" in found[1].error


def test_workers_are_other_processes_and_end_with_the_executor():
    found = all_of(seen_by, range(8), 2)
    pids = {pid for _, pid in found.values()}
    assert os.getpid() not in pids
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_leaving_by_an_error_ends_the_workers_at_once():
    began_s = time.monotonic()
    with pytest.raises(KeyError), Executor(2) as executor:
        raise KeyError(next(executor.run(time.sleep, [0.01, 60.0, 60.0])))
    assert time.monotonic() - began_s < 20.0


SCRIPT = """
from __future__ import annotations
from typing import Annotated, ClassVar
from msgspec import Meta, Struct, field
from experiments.executor import Executor
from fleet import AffineLatency, EmulatedEngine, FleetSpec, simulate
from policies import Route, RoutingPolicy
from traces import poisson

WAY = -1

class First(RoutingPolicy):
    "Always the same."
    at: Annotated[int, Meta(ge=0)] = 0
    seen: ClassVar[list] = []
    def __post_init__(self):
        self.way = WAY
    def reset(self, rng):
        super().reset(rng)
        self.asked = 0
    def route(self, request, replicas, now_s):
        self.asked += 1
        return Route(replicas[self.at].id)

class Last(First):
    places: list[int] = field(default_factory=lambda: [1])
    def route(self, request, replicas, now_s):
        assert isinstance(self, Last) and self.way == -1
        return super().route(request, replicas[::self.way], now_s)

class Job(Struct, frozen=True, kw_only=True):
    spec: FleetSpec
    seed: int = 0
    def run(self):
        made = simulate(TRACE, self.spec, seed=self.seed)
        return self, made.digest

TRACE = poisson(rate_per_s=20, duration_s=1, seed=0)
base = FleetSpec(engine=EmulatedEngine(latency=AffineLatency(base_s=0.01, per_item_s=0)), replicas=2)
jobs = [Job(spec=base.replace(routing=Last(at=at)), seed=at) for at in (0, 1)]
for workers in (1, 2):
    with Executor(workers) as executor:
        found = dict((job.seed, result) for job, result in executor.run(Job.run, jobs))
        print([(type(found[n][0]) is Job, found[n][0].spec.routing.places, found[n][1]) for n in (0, 1)])
"""


def test_classes_of_the_users_script_run_on_workers_and_leave_the_same_digests(tmp_path):
    script = tmp_path / "study.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == "", "no part of it was run here, and nothing needs a guard"
    here, there = done.stdout.splitlines()
    assert here == there
    assert "(True, [1], '" in here


def test_workers_do_not_hear_ctrl_c(tmp_path: Path) -> None:
    # In a process of its own: what starts with the first worker of a process must not undo it.
    script = tmp_path / "deaf.py"
    script.write_text(
        "import signal\n"
        "from experiments.executor import Executor\n"
        "def deaf(_):\n"
        "    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
        "with Executor(2) as executor:\n"
        "    print([result for _, result in executor.run(deaf, range(4))])\n"
    )
    done = subprocess.run(
        [sys.executable, script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[True, True, True, True]\n"
