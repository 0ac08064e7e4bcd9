"""Heads, replicas and clients in processes of their own, for tests that hurt them."""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fleet import AffineLatency, EmulatedEngine, FleetSpec, drive, join, serve
from fleet.actor import FleetError
from policies import Greedy
from traces import Trace

CONTEXT = multiprocessing.get_context("spawn")


def small_fleet(**changes: Any) -> FleetSpec:
    """Two replicas, a few milliseconds a batch."""
    engine = EmulatedEngine(latency=AffineLatency(base_s=0.004, per_item_s=0.001))
    return FleetSpec(engine=engine, replicas=2, batching=Greedy(max_batch=8)).replace(**changes)


def _head(pipe: Connection, spec: FleetSpec, bind: str, options: dict[str, Any]) -> None:
    try:
        pipe.send(serve(spec, bind, on_ready=pipe.send, **options))
    except FleetError as error:
        pipe.send(error)
        sys.exit(2)


class HeadProcess:
    """A head; `stop` ends it as Ctrl-C would and answers its report."""

    def __init__(self, spec: FleetSpec, bind: str = "tcp://127.0.0.1:*", **options: Any) -> None:
        self.pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_head, args=(theirs, spec, bind, options))
        self.process.start()
        theirs.close()
        answer = self.receive()
        if isinstance(answer, Exception):
            self.process.join()
            raise answer
        self.endpoint: str = answer

    def receive(self, timeout_s: float = 30.0) -> Any:
        if not self.pipe.poll(timeout_s):
            raise TimeoutError("the head said nothing")
        return self.pipe.recv()

    def stop(self) -> Any:
        self.process.terminate()
        report = self.receive()
        self.process.join(10)
        return report


def joined(head: str, number: int = 1, **options: Any) -> list[BaseProcess]:
    """Processes that join as one replica each."""
    processes = [CONTEXT.Process(target=_join, args=(head, options)) for _ in range(number)]
    for process in processes:
        process.start()
    return processes


def _join(head: str, options: dict[str, Any]) -> None:
    sys.exit(join(head, **options))


class ClientProcess:
    """A client that drives a trace; `result` is (outcomes, details)."""

    def __init__(self, trace: Trace, head: str, directory: Path, **options: Any) -> None:
        from traces import save_trace

        path = directory / "driven.parquet"
        save_trace(trace, path)
        self.pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_drive, args=(theirs, str(path), head, options))
        self.process.start()

    def result(self, timeout_s: float = 60.0) -> tuple[list[str], list[str | None]]:
        if not self.pipe.poll(timeout_s):
            raise TimeoutError("the client did not end")
        answer: tuple[list[str], list[str | None]] = self.pipe.recv()
        self.process.join(10)
        return answer


def _drive(pipe: Connection, path: str, head: str, options: dict[str, Any]) -> None:
    from traces import load_trace

    run = drive(load_trace(path), head, **options)
    pipe.send((run.records["outcome"].to_pylist(), run.records["detail"].to_pylist()))


def end_all(*processes: BaseProcess) -> None:
    """Leave nothing behind."""
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join(10)
