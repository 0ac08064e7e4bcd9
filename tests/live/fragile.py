"""An engine that a certain request kills, with its whole process."""

from __future__ import annotations

import os
import signal

from fleet import EmulatedEngine

POISON = "3"


class Fragile(EmulatedEngine):
    """As its parent, but for that request."""

    def run(self, batch, work):
        if any(item.request.id == POISON for item in work):
            os.kill(os.getpid(), signal.SIGKILL)
        super().run(batch, work)
