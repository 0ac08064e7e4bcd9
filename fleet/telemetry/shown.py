"""What a notebook shows of a run: its main figures, as a small table of HTML."""

from __future__ import annotations

from fleet.messages import OUTCOMES
from fleet.telemetry.summary import Distribution, Summary
from traces.notebook import html_table


def summary_as_html(summary: Summary, title: str) -> str:
    """The figures that there are."""
    counts = {name: getattr(summary, name) for name in (*OUTCOMES, "in_flight")}
    ended = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if count)
    tokens = summary.output_tokens_per_s is not None
    return html_table(
        title,
        [
            ("requests", f"{summary.submitted:,}{f': {ended}' if ended else ''}"),
            ("end to end", _in_short(summary.e2e_s)),
            ("time to first token", _in_short(summary.ttft_s) if tokens else None),
            ("time per output token", _in_short(summary.tpot_s) if tokens else None),
            ("objectives met", _percent(summary.slo_attainment)),
            ("throughput", f"{summary.throughput_per_s:,.4g} requests a second"),
            ("replicas ready", f"{summary.replicas.min} to {summary.replicas.max}"),
            ("busy", _percent(summary.utilization)),
        ],
    )


def _in_short(latency: Distribution) -> str | None:
    if latency.p50 is None or latency.p99 is None:
        return None
    return f"median {latency.p50 * 1000.0:,.4g} ms, p99 {latency.p99 * 1000.0:,.4g} ms"


def _percent(fraction: float | None) -> str | None:
    return None if fraction is None else f"{fraction:.1%}"
