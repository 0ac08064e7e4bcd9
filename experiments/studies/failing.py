"""An emulated engine that answers some requests with an error, for studies of versions that are broken."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated

from msgspec import Meta

from fleet.engines import EmulatedEngine
from fleet.messages import RunFinished, Work


class FailingEngine(EmulatedEngine):
    """As `EmulatedEngine`, but a batch with one of the chosen requests ends in an error, after as long as ever.

    Which requests are chosen depends on their ids and the run's seed alone: one that fails here would fail wherever
    an engine with as large a `failing` is, and every attempt of it does.
    """

    failing: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Share of requests that fail."""

    def reset(self, seed: int) -> None:
        super().reset(seed)
        self._chooser = blake2b(b"failing\n%d\n" % seed, digest_size=8)

    def run(self, batch: int, work: Sequence[Work]) -> None:
        super().run(batch, work)
        if self._timer is not None and any(self._fails(item.request.id) for item in work):
            self._timer.cancel()
            finished = RunFinished(batch, self._service_s, error="it fails at this request")
            self._timer = self._ctx.after(self._service_s, finished)

    def _fails(self, request_id: str) -> bool:
        hasher = self._chooser.copy()
        hasher.update(request_id.encode())
        return int.from_bytes(hasher.digest(), "little") < self.failing * 2.0**64
