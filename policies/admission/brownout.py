"""Brownout: serve some requests for less, as many as it takes to hold a latency, instead of refusing any."""

from __future__ import annotations

import random
from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from policies.base import AdmissionPolicy
from policies.decisions import Admit, Degrade
from policies.views import Ending, FleetView, Latencies
from traces.schema import Request
from traces.values import BadValue

_ADMIT = Admit()
_MOST_SAMPLES = 10_000
"""Latencies of a period that are kept; what comes beyond is left out of the quantile."""
_COVARIANCE = 1000.0
"""Of the estimate, at first and at most: while the dimmer is 0 nothing is learned, and it would grow for ever."""


class Brownout(AdmissionPolicy):
    """Serve a request in full with the probability of the dimmer, else for less; the dimmer holds a latency. O(1).

    Once in a period (when the next request comes) latency is taken to be `a` times the dimmer, `a` being estimated by
    recursive least squares with forgetting, and the dimmer moves by ``period_s * (1 - pole) / a`` times what latency is
    below its setpoint, within 0..1. A period in which nothing ended changes nothing. Latency is from the intended
    arrival, of requests that completed or ran out of time. A request that is served for less has `max_output_tokens` at
    most, or goes to `model`.

    Source: Klein, Maggio, Arzen, Hernandez-Rodriguez, "Brownout: Building More Robust Cloud Applications", ICSE 2014;
    law and values of its authors' simulator, github.com/cloud-control/brownout-lb-simulator, `cf_mm.py` (dimmer 0.5 at
    first, period 0.5 s, pole 0.9, forgetting 0.95; 95th percentile against 1 s).
    """

    setpoint_s: Annotated[float, Meta(gt=0)] = 1.0
    """Latency to hold."""
    percentile: Annotated[float, Meta(gt=0, le=100)] = 95.0
    """Of the latencies of a period, which one is held."""
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = 64
    """Output tokens of a request that is served for less; None: as many as in full."""
    model: str | None = None
    """Model of a request that is served for less; None: the one that it asked for."""
    period_s: Annotated[float, Meta(gt=0)] = 0.5
    """Between two changes of the dimmer, at least."""
    pole: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    """Of the closed loop: the nearer to 1, the slower and the steadier."""
    forgetting: Annotated[float, Meta(gt=0, le=1)] = 0.95
    """Weight in the estimate of each period relative to the one after it."""
    initial_dimmer: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Probability of being served in full at first."""

    def check_values(self) -> None:
        """Raises `BadValue` where serving for less would be serving in full."""
        if self.max_output_tokens is None and self.model is None:
            raise BadValue(
                "max_output_tokens", "None, and so is model; name one: what is a request to be served for?"
            )

    def reset(self, rng: random.Random) -> None:
        self.rng = rng
        self.dimmer = self.initial_dimmer
        self.seconds_per_dimmer = 1.0
        """Estimate of latency over dimmer (alpha in the source)."""
        self.covariance = _COVARIANCE
        self.latencies_s: list[float] = []
        self.ends_s = self.period_s

    def admit(self, request: Request, fleet: FleetView, now_s: float) -> Admit | Degrade:
        if now_s >= self.ends_s:
            self.ends_s = now_s + self.period_s
            if self.latencies_s:
                self._control(Latencies(tuple(self.latencies_s)).quantile(self.percentile / 100.0) or 0.0)
                self.latencies_s.clear()
        if self.rng.random() <= self.dimmer:
            return _ADMIT
        less = request if self.model is None else replace(request, model=self.model)
        return Degrade(less, "brownout", max_output_tokens=self.max_output_tokens)

    def _control(self, latency_s: float) -> None:
        dimmer = self.dimmer
        gain = self.covariance * dimmer / (self.forgetting + self.covariance * dimmer * dimmer)
        self.seconds_per_dimmer += gain * (latency_s - dimmer * self.seconds_per_dimmer)
        self.covariance = min(_COVARIANCE, self.covariance * (1.0 - gain * dimmer) / self.forgetting)
        if self.seconds_per_dimmer > 0.0:  # latency that falls with the dimmer is no model to steer by
            moved = (
                self.period_s * (1.0 - self.pole) * (self.setpoint_s - latency_s) / self.seconds_per_dimmer
            )
            self.dimmer = min(1.0, max(0.0, dimmer + moved))

    def on_request_ended(self, ending: Ending, now_s: float) -> None:
        if ending.outcome in ("completed", "expired") and len(self.latencies_s) < _MOST_SAMPLES:
            self.latencies_s.append(ending.e2e_s)
