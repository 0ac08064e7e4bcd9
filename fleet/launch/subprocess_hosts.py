"""Host processes as children of the head: started fresh, watched, and gone when the head is.

A child's death is seen at once, by waiting for it, and told to the launcher with the signal or status it died of.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from fleet.launch.launcher import Launcher
from fleet.runtime.transport import Node

GRACE_S = 3.0
"""How long a child may take to end in good order."""


MOST_CHILDREN = 4_096
"""A thread waits for each child, so there is a bound."""


class Child(NamedTuple):
    """One host process, and the news of its end."""

    process: subprocess.Popen[bytes]
    gone: anyio.Event


class SubprocessHosts:
    """Starts, signals and reaps host processes. Use within `async with`-scope of the task group it is given."""

    def __init__(
        self,
        node: Node,
        head: str,
        tasks: TaskGroup,
        *,
        seed: int,
        lease_s: float,
        most: int | None = None,
        modules: Sequence[str] = (),
    ) -> None:
        self._node = node
        self._head = head
        self._tasks = tasks
        allowed = (part for module in modules for part in ("--allow-module", module))
        self._arguments = ("--seed", str(seed), "--lease-s", str(lease_s), *allowed)
        self._most = most
        """Never more at one time; None: as many as are asked for."""
        self._children: dict[str, Child] = {}
        self._waiters = anyio.CapacityLimiter(MOST_CHILDREN)
        self._started = self._running = 0
        self._devices = _visible_devices()
        self._on_device: Counter[str] = Counter(dict.fromkeys(self._devices, 0))
        self.joined: set[str] = set()
        """Hosts that have said Hello, as whoever hears of them notes here."""
        self.launcher: Launcher
        """Whom they are for; set before the first is requested."""

    def request(self) -> bool:
        """Start one more, unless there are enough."""
        if self._most is not None and self._running >= self._most:
            return False
        self._started += 1
        self._running += 1
        self._tasks.start_soon(self._live, f"host-{self._started}")
        return True

    async def _live(self, name: str) -> None:
        """Start one child and wait for its end."""
        device = min(self._devices, key=lambda item: self._on_device[item]) if self._devices else None
        if device is not None:
            self._on_device[device] += 1
        command = [
            sys.executable,
            "-m",
            "fleet.launch",
            "--head",
            self._head,
            "--name",
            name,
            *self._arguments,
        ]
        host = f"host/{name}"
        with anyio.CancelScope(shield=True):
            # On a thread: to start a process takes tens of milliseconds, in which the loop would stand still.
            child = self._children[host] = Child(
                await anyio.to_thread.run_sync(_start, command, _environment(device)), anyio.Event()
            )
        try:
            status = await anyio.to_thread.run_sync(
                child.process.wait, abandon_on_cancel=True, limiter=self._waiters
            )
        finally:
            child.process.kill()
            _close_input(child.process)
            child.gone.set()
            if device is not None:
                self._on_device[device] -= 1
            del self._children[host]
            self._running -= 1
        was_joined = host in self.joined
        self.joined.discard(host)
        # A peer that is given up is lost to everyone, the launcher included; one that said goodbye is lost already.
        if not self._node.give_up(name, ended(status), expected=status == 0) and not was_joined:
            self.launcher.host_never_joined(ended(status))

    def _signal(self, host: str, number: signal.Signals) -> None:
        child = self._children.get(host)
        if child is not None:
            child.process.send_signal(number)

    def kill(self, host: str) -> None:
        """SIGKILL."""
        self._signal(host, signal.SIGKILL)

    def suspend(self, host: str) -> None:
        """SIGSTOP."""
        self._signal(host, signal.SIGSTOP)

    def resume(self, host: str) -> None:
        """SIGCONT."""
        self._signal(host, signal.SIGCONT)

    async def close(self) -> None:
        """Let the children end, and end those that do not. One that has not joined yet has nothing to end."""
        children = list(self._children.values())
        for host, child in self._children.items():
            if host in self.joined:
                _close_input(child.process)
            else:
                child.process.kill()
        with anyio.move_on_after(GRACE_S):
            for child in children:
                await child.gone.wait()
        for child in children:
            child.process.kill()


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=environment,
        # Ctrl-C is for the head: it ends its children in good order.
        start_new_session=True,
    )


def _close_input(process: subprocess.Popen[bytes]) -> None:
    """A child ends when its standard input does."""
    if process.stdin is not None:
        process.stdin.close()


def ended(status: int) -> str:
    """How a process ended, in words."""
    if status < 0:
        return f"its process was killed by {signal.Signals(-status).name}"
    return f"its process ended with status {status}"


def _visible_devices() -> list[str]:
    """The GPUs to spread replicas over; empty where there is none."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        # As CUDA reads it: what comes after a -1 is not visible.
        visible = itertools.takewhile(lambda device: device != "-1", named.split(","))
        return [device for device in visible if device]
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no driver, no library: no devices
        return []
    try:
        return [str(index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _environment(device: str | None) -> dict[str, str]:
    """The child's environment: it can import what the head's script can, and sees one GPU."""
    # The interpreter finds its own library by itself; naming it again would only change the order.
    library = Path(os.__file__).parent
    named = [Path(path).absolute() for path in sys.path if path and Path(path).is_dir()]
    paths = [
        path
        for path in (Path.cwd(), *named)
        if not path.is_relative_to(library) and path.name != "site-packages"
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(map(str, paths)))}
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
    return environment
