"""Operating a running fleet from elsewhere: an operation goes to the head, and what came of it comes back.

    async with FleetOperator("tcp://127.0.0.1:5555") as operator:
        await operator.ask({"kind": "scale", "pool": "large", "replicas": 4})

`fleet/runs/operator.py` says what operations there are; it is who checks them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import msgspec

from fleet.actor import FleetError
from fleet.messages import Message, Operate, Operated, Undeliverable
from fleet.runs.connection import Connection, Speaker
from fleet.runs.operator import OPERATOR
from fleet.runtime.live import run

LOOK_AGAIN_S = 0.25
"""Between two looks at how a fleet stands, while somebody waits for it to get there."""

Table = dict[str, Any]  # Any: JSON values


class Question:
    """One operation, and what came of it. The actor writes here, the program's task reads."""

    def __init__(self) -> None:
        self.answer: Operated | None = None
        self.ended = anyio.Event()

    def end(self, answer: Operated) -> None:
        """There is one answer, the first."""
        if self.answer is None:
            self.answer = answer
            self.ended.set()


class OperatorActor(Speaker):
    """Sends operations to the head's operator, and sorts the answers."""

    def __init__(self) -> None:
        self._open: dict[str, Question] = {}
        self._last = 0

    def handlers(self) -> dict[type[Message], Callable[[Any], None]]:
        return {Operated: self.on_operated, Undeliverable: self.on_undeliverable}

    def ask(self, operation: bytes) -> Question:
        """Send it; it is done once, or not at all."""
        self._last += 1
        id = str(self._last)
        self._open[id] = question = Question()
        self.ctx.send(OPERATOR, Operate(id, operation, self.ctx.address))
        return question

    def on_operated(self, message: Operated) -> None:
        question = self._open.pop(message.id, None)
        if question is not None:
            question.end(message)

    def on_undeliverable(self, message: Undeliverable) -> None:
        """The head does not take it, or cannot be reached."""
        lost = message.message
        if isinstance(lost, Operate):
            detail = f": {message.detail}" if message.detail else ""
            self.on_operated(Operated(lost.id, f"the head's operator is {message.reason}{detail}"))

    def end_all(self, detail: str) -> None:
        for id in list(self._open):
            self.on_operated(Operated(id, detail))


class FleetOperator(Connection):
    """A connection to the head at `head` that may change its fleet, open within ``async with``.

    `keys` and `server_key` are as for `drive`; the head's allow-list must let this key be an operator. `timeout_s`
    bounds how long to wait for a head, and for each of its answers.
    """

    def __init__(
        self,
        head: str,
        *,
        keys: Path | None = None,
        server_key: str | None = None,
        insecure: bool = False,
        timeout_s: float = 30.0,
    ) -> None:
        self._actor, self._timeout_s = OperatorActor(), timeout_s
        super().__init__(
            head,
            "operator",
            self._actor,
            keys=keys,
            server_key=server_key,
            insecure=insecure,
            timeout_s=timeout_s,
        )

    async def ask(self, operation: Mapping[str, Any]) -> Table | None:  # Any: JSON values
        """Have `operation` done; answers how the fleet stands, where that was asked, else None.

        It is answered when it was done, or has begun where it takes time. Raises `FleetError` with what the head says
        is wrong with it, or when there is no answer.
        """
        demand_finite(operation, "$")
        self.demand_open()
        question = self._actor.ask(msgspec.json.encode(operation))
        with anyio.move_on_after(self._timeout_s):
            await question.ended.wait()
        answer = question.answer
        if answer is None:
            raise FleetError(
                f"the head did not answer in {self._timeout_s:g} s, and may do it still; its status will tell"
            )
        if answer.error is not None:
            raise FleetError(answer.error)
        return None if answer.status is None else msgspec.json.decode(answer.status, type=Table)

    async def status(self) -> Table:
        """How the fleet stands: requests, models with their versions and rollouts, pools with their replicas."""
        return await self.ask({"kind": "status"}) or {}

    async def wait_until(self, reached: Callable[[Table], bool], within_s: float) -> bool:
        """Look again and again until `reached(status)`; False: it was not within so long."""
        with anyio.move_on_after(within_s):
            while not reached(await self.status()):  # noqa: ASYNC110  # what changes is in another process
                await anyio.sleep(LOOK_AGAIN_S)
            return True
        return False


def operate(
    head: str,
    operation: Mapping[str, Any],  # Any: JSON values
    *,
    keys: Path | None = None,
    server_key: str | None = None,
    insecure: bool = False,
    timeout_s: float = 30.0,
) -> Table | None:
    """Have the head do one operation, such as ``{"kind": "retire", "pool": "old"}``: see `FleetOperator.ask`."""
    demand_finite(operation, "$")

    async def main() -> Table | None:
        async with FleetOperator(
            head, keys=keys, server_key=server_key, insecure=insecure, timeout_s=timeout_s
        ) as operator:
            return await operator.ask(operation)

    return run(main)


def demand_finite(value: Any, path: str) -> None:  # Any: JSON values
    """Raises `FleetError` for a number that JSON cannot hold: it would come to the head as none."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            demand_finite(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            demand_finite(item, f"{path}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise FleetError(f"{path}: expected a finite number, got {value}")
