"""What `framework_table` runs: fleets under the presets of `policies.presets`, and the runs that measure them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

import pyarrow.compute as pc
from msgspec import Struct

from experiments.load import at_rate
from experiments.studies.workloads import conversations, engine
from fleet import AffineLatency, EmulatedEngine, FleetSpec, Run, simulate
from policies import Fixed, NoBatching, NoWarmPool
from policies.presets import PRESETS
from traces import Request, Slo, Trace, TraceEntry, poisson, surge
from traces.synthesis import bernoulli_surge

BASE_S, PER_ITEM_S, COLD_START_S = 0.012, 0.003, 0.8
"""Of a batch, and of a start: the reference code's."""
OBJECTIVE_S = 0.2
POD_START_S = 8.0
"""Of a container that scales from zero: the reference text's."""
INSTANCE_START_S = 300.0
"""Of a machine that is rented for it; its makers say minutes."""
HOP_S = 0.001
"""One way between two processes of a pipeline, of our choosing."""
CHAT_TTFT_S, CHAT_TPOT_S = 1.0, 0.05
TUNED = 32
"""The largest batch, where it is not left as it comes."""

Changes = Mapping[str, object]
_OBJECTIVE: Changes = {"batching.objective_s": OBJECTIVE_S / 2.0}
"""Clipper is told what the application wants: half for the batch, half for the wait."""
BY_NAME: Mapping[str, tuple[tuple[str, ...], Changes]] = {
    **{name: ((name,), {}) for name, made in PRESETS.items() if made().serves == "requests"},
    "clipper": (("clipper",), _OBJECTIVE),
    "kserve over triton": (("triton", "kserve"), {}),
    "kserve to zero": (("triton", "kserve"), {"min_replicas": 0}),
    "ray_serve to zero": (("ray_serve",), {"min_replicas": 0}),
    "triton, batch 32": (("triton",), {"batching.max_batch": TUNED}),
    "ray_serve, batch 32": (
        ("ray_serve",),
        {"batching.max_batch": TUNED, "batching.max_ongoing_requests": TUNED},
    ),
    "ray_serve, 10 ongoing": (("ray_serve",), {"batching.max_ongoing_requests": 10}),
    "torchserve, batch 32": (("torchserve",), {"batching.max_batch": TUNED}),
}
"""Presets, the later ones over the earlier ones, and what is changed of them."""
TABLE = (
    "reference_text",
    "triton",
    "torchserve",
    "tensorflow_serving",
    "ray_serve",
    "kserve",
    "kserve over triton",
    "sagemaker",
    "vertex",
    "clipper",
    "clockwork",
    "infaas",
)
"""Knative is KServe with no least replica: on traffic that does not pause they are one."""
FIXED_FLEET = (
    "triton",
    "triton, batch 32",
    "tensorflow_serving",
    "torchserve",
    "torchserve, batch 32",
    "ray_serve",
    "ray_serve, batch 32",
    "clipper",
    "clockwork",
    "reference_text",
)
PIPELINE = (
    "ray_serve",
    "ray_serve, 10 ongoing",
    "ray_serve as one deployment",
    "triton",
    "kserve over triton",
)
OVERNIGHT = (
    "kserve to zero",
    "kserve over triton",
    "ray_serve to zero",
    "ray_serve",
    "vertex",
    "triton",
)
STARTUP = ("vertex", "sagemaker", "torchserve", "ray_serve", "kserve")
CHAT = ("vllm", "sglang", "llm_d", "orca")


def base(replicas: int, max_replicas: int, *, start_s: float = COLD_START_S) -> FleetSpec:
    """The fleet that presets are put over. What they leave to the container runs one request at a time."""
    return FleetSpec(
        engine=EmulatedEngine(
            latency=AffineLatency(base_s=BASE_S, per_item_s=PER_ITEM_S), cold_start_s=COLD_START_S
        ),
        provision_s=start_s - COLD_START_S,
        replicas=replicas,
        max_replicas=max_replicas,
        batching=NoBatching(),
        max_inflight_batches=1,
        slo=Slo(e2e_s=OBJECTIVE_S),
    )


def under(name: str, spec: FleetSpec) -> FleetSpec:
    """`spec` under the presets of that name."""
    presets, changes = BY_NAME[name]
    for preset in presets:
        spec = spec.replace(**PRESETS[preset]().fields)
    return spec.replace(changes)


# --- traffic -----------------------------------------------------------------------------------------------


def reference_surge(seed: int, *, seconds: float) -> Trace:
    """The reference code's 30 s, drawn anew, or the first of them."""
    return bernoulli_surge(seed=seed).first(seconds=seconds).with_slo(e2e_s=OBJECTIVE_S)


def slow_surge(seed: int, *, stretch: float) -> Trace:
    """Three eighths of its rates, over `stretch` times its 30 s."""
    drawn = surge(15.0, 240.0, 15.0 * stretch, 9.0 * stretch, 30.0 * stretch, seed=seed)
    return drawn.with_slo(e2e_s=OBJECTIVE_S)


def pipeline_surge(seed: int, *, stretch: float) -> Trace:
    """From 20 to 240 requests a second and back."""
    return surge(20.0, 240.0, 15.0 * stretch, 9.0 * stretch, 30.0 * stretch, seed=seed)


def burst(seed: int, *, stretch: float) -> Trace:
    """Two requests a second, and once 90."""
    drawn = surge(2.0, 90.0, 15.0 * stretch, 3.0 * stretch, 30.0 * stretch, seed=seed)
    return drawn.with_slo(e2e_s=OBJECTIVE_S)


def day_and_night(seed: int, *, day_s: float, night_s: float) -> Trace:
    """An evening and a morning of 20 requests a second, and two requests in the night between them."""
    evening = poisson(20.0, day_s, seed)
    morning = poisson(20.0, day_s, seed + 10_000)
    times_s = [
        *(entry.request.arrived_s for entry in evening),
        *(day_s + night_s * part for part in (1.0 / 3.0, 2.0 / 3.0)),
        *(day_s + night_s + entry.request.arrived_s for entry in morning),
    ]
    return at_times(times_s)


def at_times(times_s: list[float]) -> Trace:
    """Requests at these times."""
    entries = (
        TraceEntry(Request(f"r{number}", time_s, slo=Slo(e2e_s=OBJECTIVE_S)))
        for number, time_s in enumerate(times_s)
    )
    return Trace.from_entries(entries)


# --- runs --------------------------------------------------------------------------------------------------


def starts(run: Run) -> int:
    """Replicas that began to load after the first ones."""
    return pc.sum(pc.equal(run.replicas["state"], "loading")).as_py() or 0


class Whole(Struct, frozen=True, kw_only=True):
    """A run of whole requests."""

    trace: Trace
    spec: FleetSpec
    seed: int

    def run(self) -> dict[str, float]:
        """Its measures."""
        run = simulate(self.trace, self.spec, seed=self.seed, check=False)
        summary = run.summary
        gpu_s = summary.gpu_seconds or 0.0
        return {
            "attainment": summary.slo_attainment or 0.0,
            "per_device": summary.completed / gpu_s,
            "p50_s": summary.e2e_s.p50 or 0.0,
            "p99_s": summary.e2e_s.p99 or 0.0,
            "lost": float(summary.submitted - summary.completed) / summary.submitted,
            "gpu_seconds": gpu_s,
            "starts": float(starts(run)),
            "most": float(summary.replicas.max),
        }


class Capacity(Struct, frozen=True, kw_only=True):
    """How many requests a second each device of a fleet that stays as it is can take."""

    name: str
    devices: int
    rates_per_s: tuple[float, ...]
    """For each device; those that were tried, from the least."""
    duration_s: float
    seed: int

    def spec(self) -> FleetSpec:
        """The fleet, as many devices whatever its system would do."""
        made = under(self.name, base(self.devices, self.devices).replace(min_replicas=0))
        return made.replace(scaling=Fixed(), warm_pool=NoWarmPool(), min_replicas=self.devices)

    def keeps(self, rate_per_s: float) -> bool:
        """Whether 99 % of the requests meet the objective. Those that are refused do not."""
        trace = poisson(rate_per_s * self.devices, self.duration_s, self.seed).with_slo(e2e_s=OBJECTIVE_S)
        run = simulate(trace, self.spec(), seed=self.seed, check=False)
        return (run.summary.slo_attainment or 0.0) >= 0.99

    def run(self) -> dict[str, float]:
        """The highest rate that is kept, by bisection: what is kept at one rate is taken to be so at those below."""
        kept = bisect_right(self.rates_per_s, False, key=lambda rate: not self.keeps(rate))
        return {"capacity_per_s": self.rates_per_s[kept - 1] if kept else 0.0}


STAGES: Mapping[str, tuple[float, float]] = {
    "generator": (0.004, 0.001),
    "ranker": (BASE_S, PER_ITEM_S),
    "rules": (0.0, 0.002),
}
"""Seconds of a batch, and of each request in it; only the ranker's are the reference code's. Rules gain nothing by
batches."""
ON_CPU = "rules"
"""The stage that holds no device, where it is a process of its own."""


class Pipeline(Struct, frozen=True, kw_only=True):
    """A run of three stages, one after the other: what leaves one arrives at the next.

    Nothing comes back, so each stage can be run for itself, with the times at which the one before it answered.
    """

    name: str
    trace: Trace
    seed: int

    def run(self) -> dict[str, float]:
        """The measures of all stages together."""
        one = self.name.endswith("as one deployment")
        stages = {"all": _together()} if one else STAGES
        system = "ray_serve" if one else self.name
        hop_s = 0.0 if one or system == "triton" else HOP_S  # an ensemble is in one process
        began = dict(enumerate(self.trace.column("arrived_s").to_pylist()))
        now = dict(began)
        gpu_s, loads, most = 0.0, 0, 0
        for stage, (base_s, per_item_s) in stages.items():
            latency = AffineLatency(base_s=base_s, per_item_s=per_item_s)
            spec = base(1, 4).replace(engine=EmulatedEngine(latency=latency, cold_start_s=COLD_START_S))
            order = sorted(now, key=now.__getitem__)
            run = simulate(
                at_times([now[at] for at in order]), under(system, spec), seed=self.seed, check=False
            )
            ended = dict(zip(run.records["id"].to_pylist(), run.records["e2e_s"].to_pylist(), strict=True))
            now = {
                at: now[at] + ended[f"r{place}"] + 2.0 * hop_s
                for place, at in enumerate(order)
                if ended[f"r{place}"] is not None
            }
            gpu_s += 0.0 if stage == ON_CPU else run.summary.gpu_seconds or 0.0
            loads += starts(run)
            most += run.summary.replicas.max
        took_s = sorted(now[at] - began[at] for at in now)
        return {
            "attainment": bisect_right(took_s, OBJECTIVE_S) / len(began),
            "per_device": len(took_s) / gpu_s,
            "p50_s": took_s[len(took_s) // 2],
            "p99_s": took_s[int(len(took_s) * 0.99)],
            "lost": 1.0 - len(took_s) / len(began),
            "gpu_seconds": gpu_s,
            "starts": float(loads),
            "most": float(most),
        }


def _together() -> tuple[float, float]:
    """A batch that goes through all stages before the next one begins."""
    bases_s, per_item_s = zip(*STAGES.values(), strict=True)
    return sum(bases_s), sum(per_item_s)


class Chat(Struct, frozen=True, kw_only=True):
    """A run token by token."""

    name: str
    requests: int
    rate_per_s: float
    replicas: int
    seed: int

    def spec(self) -> FleetSpec:
        """The fleet. Orca has no prefix cache."""
        served = FleetSpec(engine=engine(prefix_caching=self.name != "orca"), replicas=self.replicas)
        return served.replace(**PRESETS[self.name]().fields)

    def run(self) -> dict[str, float]:
        """Its measures."""
        trace = at_rate(conversations(self.requests, self.seed), self.rate_per_s)
        trace = trace.with_slo(ttft_s=CHAT_TTFT_S, tpot_s=CHAT_TPOT_S)
        summary = simulate(trace, self.spec(), seed=self.seed, check=False).summary
        gpu_s = summary.gpu_seconds or 0.0
        return {
            "attainment": summary.slo_attainment or 0.0,
            "per_device": summary.completed / gpu_s,
            "ttft_p50_s": summary.ttft_s.p50 or 0.0,
            "ttft_p99_s": summary.ttft_s.p99 or 0.0,
            "tpot_p99_s": summary.tpot_s.p99 or 0.0,
            "cached": summary.cached_fraction or 0.0,
        }
