"""Scaling by the clock: so many replicas from such a time of the day on."""

from __future__ import annotations

from bisect import bisect_right
from typing import Annotated

from msgspec import Meta

from policies.base import ScalingPolicy
from policies.decisions import Scale
from policies.scaling.bounds import within
from policies.views import PoolView
from traces.values import BadValue


class Scheduled(ScalingPolicy):
    """Ask for what the schedule says at this time of the period, or for more where `scaler` does. O(log entries).

    An entry holds until the next one, and the last one of a period until the first one of the next. A new replica takes
    its cold start: an entry should come so long before its time.

    Source: "Scheduled scaling for Application Auto Scaling" of AWS, whose actions set the least that other policies may
    go down to; the cron scaler of KEDA.
    """

    schedule: tuple[tuple[Annotated[float, Meta(ge=0)], Annotated[int, Meta(ge=0)]], ...] = ((0.0, 1),)
    """(seconds from the start of the period, replicas from then on), in the order of time."""
    period_s: Annotated[float, Meta(gt=0)] = 86_400.0
    """Seconds after which the schedule begins anew."""
    starts_s: Annotated[float, Meta(ge=0)] = 0.0
    """Where in the period a run begins, in seconds."""
    scaler: ScalingPolicy | None = None
    """What may ask for more; None: the schedule alone decides."""

    def check_values(self) -> None:
        """Raises `BadValue` for a schedule that contradicts itself."""
        if not self.schedule:
            raise BadValue("schedule", "name at least one time, such as [[0, 2], [32400, 8]]")
        for number, (at_s, _) in enumerate(self.schedule):
            if at_s >= self.period_s:
                raise BadValue(
                    f"schedule[{number}]", f"{at_s:g} s never comes in a period of {self.period_s:g} s"
                )
            if number and at_s <= self.schedule[number - 1][0]:
                raise BadValue(
                    f"schedule[{number}]",
                    f"{at_s:g} s does not come after {self.schedule[number - 1][0]:g} s; a time has one number of "
                    "replicas, and times are in order",
                )

    def desired(self, pool: PoolView, now_s: float) -> Scale:
        floor = within(pool, self.at(now_s))
        if self.scaler is None:
            return Scale(floor, "schedule")
        asked = self.scaler.desired(pool, now_s)
        return Scale(floor, "schedule") if asked.replicas < floor else asked

    def at(self, now_s: float) -> int:
        """What the schedule says now."""
        time_s = (now_s + self.starts_s) % self.period_s
        return self.schedule[bisect_right(self.schedule, time_s, key=_time) - 1][1]


def _time(entry: tuple[float, int]) -> float:
    return entry[0]
