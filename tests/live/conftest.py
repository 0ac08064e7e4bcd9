"""asyncio's slow-callback check, on in every live test: what kept a loop of this process for more than 10 ms.

It is reported and fails nothing: on a busy machine a callback is long because it was not let run, and some tests hold
the loop on purpose. The processes that a test starts are not watched.
"""

import asyncio
import logging
import re
from collections.abc import Iterator

import pytest

from fleet.runtime.live import SLOW_CALLBACK_S
from fleet.runtime.transport import Node

_SLOW: list[tuple[str, str]] = []
"""Test, and what asyncio said."""


class _Collector(logging.Handler):
    """Keeps what asyncio says of slow callbacks."""

    test = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("Executing"):
            _SLOW.append((self.test, record.getMessage()))


@pytest.fixture(autouse=True)
def slow_callbacks_are_reported(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    start = Node.start

    def watched(self: Node, receiver: object) -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = SLOW_CALLBACK_S
        start(self, receiver)

    monkeypatch.setattr(Node, "start", watched)
    collector = _Collector()
    collector.test = request.node.name
    logging.getLogger("asyncio").addHandler(collector)
    yield
    logging.getLogger("asyncio").removeHandler(collector)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figure, and the longest few."""
    if not _SLOW:
        return
    longest = sorted(_SLOW, key=lambda item: -float(item[1].rpartition("took ")[2].split()[0]))
    terminalreporter.section("slow callbacks")
    terminalreporter.line(
        f"{len(_SLOW)} kept a loop for more than {SLOW_CALLBACK_S * 1000:.0f} ms; the longest:"
    )
    for test, said in longest[:5]:
        what, _, took = said.removeprefix("Executing ").rpartition(" took ")
        task = re.search(r"name='([^']+)'", what)
        name = task.group(1) if task else what.partition(" created at")[0].lstrip("<")
        terminalreporter.line(f"  {took}: {name[:80]} in {test[:80]}")
