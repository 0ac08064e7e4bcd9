"""``python -m experiments.seed_fleet [--live] [--save FOLDER]``: the reference scenario, counted twice and run."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.table import Table

from experiments.seed_fleet.printed_loop import Accounts, play
from experiments.seed_fleet.scenario import FAULTS, SPEC, load
from experiments.text import console
from fleet import Run, simulate


def accounts_table(accounts: Accounts, run: Run) -> Table:
    """The loop's books, honest books of the same loop, and this project's run of the scenario."""
    s = run.summary
    table = Table(
        title="The reference scenario: 30 s, a surge at 15 s, one failure at 20 s", title_justify="left"
    )
    table.add_column("")
    for heading in ("loop, as printed", "loop, all counted", "this fleet, simulated"):
        table.add_column(heading, justify="right")
    table.add_row("arrivals", "–", f"{accounts.arrivals:,}", f"{s.submitted:,}")
    table.add_row("served", f"{accounts.printed_served:,}", f"{accounts.answered:,}", f"{s.completed:,}")
    table.add_row("  by replicas retired since", "not counted", f"{accounts.retired_served:,}", "counted")
    table.add_row("  in the batch that was killed", "counted", f"{accounts.lost_in_failure:,}", "retried")
    table.add_row("unanswered at the end", "–", f"{accounts.unanswered:,}", f"{s.in_flight:,}")
    per_s = [count / 30.0 for count in (accounts.printed_served, accounts.answered)]
    table.add_row("throughput (1/s)", *(f"{rate:.1f}" for rate in (*per_s, s.throughput_per_s)))
    table.add_section()
    for name, loop_ms in (("mean", accounts.mean_ms), ("p50", accounts.p50_ms), ("p99", accounts.p99_ms)):
        ours_s = getattr(s.e2e_s, name)
        table.add_row(f"latency {name} (ms)", f"{loop_ms:.1f}", f"{loop_ms:.1f}", f"{ours_s * 1000:.1f}")
    busy = f"{accounts.utilization:.1%}"
    table.add_row("utilization", busy, busy, "–" if s.utilization is None else f"{s.utilization:.1%}")
    loop_range = f"{accounts.replicas_min} / {accounts.replicas_max}"
    table.add_row("replicas ready, min / max", loop_range, loop_range, f"{s.replicas.min} / {s.replicas.max}")
    return table


def explanation(accounts: Accounts, run: Run) -> str:
    """Why the printed count is wrong."""
    tried_again = run.manifest.counters.get("retries", 0)
    return (
        f"Why {accounts.printed_served:,}: the loop adds up what the replicas served that are left when it ends. "
        f"Each one retired on the way took its count with it: {accounts.retired_served:,} requests in all. "
        f"Every arrival but {accounts.unanswered} was answered, which is {accounts.answered / 30.0:.0f} a second "
        f"and not {accounts.printed_served / 30.0:.0f}. And the replica that fails at 20 s was busy with "
        f"{accounts.lost_in_failure} requests; the loop had counted them as served when their batch began. "
        f"Here {tried_again} attempts were lost with the replica and tried again, and every request completed."
    )


def main() -> None:
    """Run the scenario and print it."""
    parser = argparse.ArgumentParser(prog="python -m experiments.seed_fleet", description=__doc__)
    parser.add_argument(
        "--live", action="store_true", help="also replay it on real processes, in real time (30 s)"
    )
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="write the runs and the tables there")
    chosen = parser.parse_args()
    screen = console()
    trace = load()
    run = simulate(trace, SPEC, faults=FAULTS)
    accounts = play(trace.column("arrived_s").to_pylist())
    screen.print(accounts_table(accounts, run))
    screen.print(explanation(accounts, run))
    if chosen.save is not None:
        run.save(chosen.save / "simulated")
    if chosen.live:
        from experiments.seed_fleet.live import replayed

        report = replayed(trace)
        screen.print(report)
        if chosen.save is not None:
            report.save(chosen.save)


if __name__ == "__main__":
    main()
