"""Engines that fail: one that a certain request kills, with its whole process, and one that runs nothing well."""

from __future__ import annotations

import os
import signal

from fleet import EmulatedEngine
from fleet.messages import RunFinished

POISON = "3"


class Fragile(EmulatedEngine):
    """As its parent, but for that request."""

    def run(self, batch, work):
        if any(item.request.id == POISON for item in work):
            os.kill(os.getpid(), signal.SIGKILL)
        super().run(batch, work)


class FailsEveryBatch(EmulatedEngine):
    """Loads, takes its time, and fails."""

    def run(self, batch, work):
        service_s = self.latency.seconds(work)
        self._ctx.after(service_s, RunFinished(batch, service_s, error="wrong weights"))
