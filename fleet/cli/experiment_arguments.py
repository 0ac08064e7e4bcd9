"""The commands that compare, as data: `fleet compare`, `curve`, `sweep`, `regret` and `study`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fleet.cli.parser import Parser, command, set_flag
from fleet.cli.shared_arguments import rebuilding_flags, run_flags, spec_argument, trace_argument
from fleet.cli.values import count, positive, whole


def add_experiments(commands: Any) -> None:  # Any: argparse keeps its type private
    """Add them to the others."""
    _add_compare(commands)
    _add_curve(commands)
    _add_sweep(commands)
    _add_regret(commands)
    _add_study(commands)


def _add_compare(commands: Any) -> None:
    compare = command(
        commands, "compare", "comparing:compare", "simulate several fleets on one trace, paired by seed"
    )
    trace_argument(compare)
    compare.add_argument(
        "specs",
        metavar="SPEC",
        type=Path,
        nargs="+",
        help="fleets, as TOML or JSON; the first is the baseline",
    )
    compare.add_argument(
        "--presets", metavar="NAME,NAME,...",
        help="run each fleet as these systems do by default: triton, ray_serve, kserve, vllm, ...",
    )  # fmt: skip
    set_flag(compare)
    _vary(compare)
    run_flags(compare, seed=False)
    _seeds(compare, 10, "runs of each candidate")
    _stretches(compare)
    compare.add_argument(
        "--metrics", metavar="NAME,NAME,...",
        help="figures to compare, as in --metrics ttft_s.p99@tenant,goodput (default: those that the runs have)",
    )  # fmt: skip
    compare.add_argument(
        "--primary", metavar="NAME",
        help="the figure that decides, named beforehand: its verdicts are corrected among themselves, and come first",
    )  # fmt: skip
    compare.add_argument(
        "--by", action="append", default=[], metavar="COLUMN",
        help="each figure by this column too: tenant, priority, model, turn, replica, one of yours, or tenant+model",
    )  # fmt: skip
    compare.add_argument(
        "--scale", choices=("difference", "ratio"), default="difference",
        help="what is judged: differences, or ratios (for figures whose noise grows with their size)",
    )  # fmt: skip
    compare.add_argument(
        "--interval", choices=("t", "bca"), default="t",
        help="Student's t, or the bootstrap with a permutation test (for many seeds that are far from normal)",
    )  # fmt: skip
    compare.add_argument(
        "--effect", type=positive, metavar="X",
        help="say how many seeds would show a difference of X, as in 0.05 of the baseline's mean",
    )  # fmt: skip
    compare.add_argument("--baseline", metavar="NAME", help="the candidate that the others are held against")
    _workers(compare)
    compare.add_argument(
        "--out", type=Path, metavar="DIR", help="save the report (HTML, tables, manifest) there"
    )


def _add_curve(commands: Any) -> None:
    curve = command(
        commands,
        "curve",
        "curving:curve",
        "simulate fleets at several rates: latency against load",
    )
    trace_argument(curve)
    curve.add_argument("specs", metavar="SPEC", type=Path, nargs="+", help="fleets, as TOML or JSON")
    set_flag(curve)
    _vary(curve)
    curve.add_argument(
        "--rates", metavar="R,R,...", default="auto",
        help="requests a second, or shares of what the first candidate sustains (50%%,80%%); default auto: ten rates, "
        "up to past what the best sustains",
    )  # fmt: skip
    curve.add_argument(
        "--objective", metavar="NAME<=X",
        help="find the highest rate within it, as in --objective 'e2e_s.p99<=0.2' (seconds; shares from 0 to 1)",
    )  # fmt: skip
    curve.add_argument(
        "--metrics", metavar="NAME,NAME,...",
        help="figures to draw (default: e2e_s.p50,e2e_s.p99,slo_attainment,goodput_per_s)",
    )  # fmt: skip
    _seeds(curve, 5, "runs of each candidate at each rate")
    _stretches(curve)
    _workers(curve)
    curve.add_argument(
        "--out", type=Path, metavar="DIR", help="save the curve (HTML, CSV, JSON, SVG, PDF) there"
    )


def _add_sweep(commands: Any) -> None:
    sweep = command(
        commands,
        "sweep",
        "sweeping:sweep",
        "simulate a fleet at many points, and say which to choose",
    )
    trace_argument(sweep)
    spec_argument(sweep)
    points = sweep.add_argument_group("which points are tried")
    points.add_argument(
        "--grid", action="append", default=[], metavar="PATH=A,B,...",
        help="an axis of listed values, as in --grid batching.max_batch=1,8,64 (repeatable: all combinations)",
    )  # fmt: skip
    points.add_argument(
        "--range", action="append", default=[], metavar="PATH=LOW..HIGH[:log]",
        help="an axis to draw from, as in --range batching.max_batch=1..64 (repeatable; not for a grid)",
    )  # fmt: skip
    several_points = points.add_mutually_exclusive_group()
    for kind, text in (
        ("random", "draw N points of the axes at random"),
        ("sobol", "draw N points that fill the axes evenly"),
        ("optuna", "look for the best points, N of them"),
    ):
        several_points.add_argument(f"--{kind}", type=count, metavar="N", help=text)
    points.add_argument(
        "--search-seed", type=whole, default=0, metavar="N", help="of what is drawn (default 0)"
    )
    run_flags(sweep, seed=False)
    _seeds(sweep, 5, "runs of each point")
    sweep.add_argument(
        "--objectives", metavar="NAME[:max|min],...",
        help="what is best, as in --objectives throughput_per_s:max,e2e_s.p99:min",
    )  # fmt: skip
    sweep.add_argument(
        "--where", action="append", default=[], metavar="BOUND",
        help="what a point must keep to be chosen, as in --where 'slo_attainment>=0.99' (repeatable)",
    )  # fmt: skip
    sweep.add_argument(
        "--metrics", metavar="NAME,NAME,...", help="figures to measure beside objectives and bounds"
    )
    _workers(sweep)
    sweep.add_argument(
        "--out", type=Path, metavar="DIR",
        help="keep each run there as it ends; the same command goes on where one was killed",
    )  # fmt: skip
    sweep.add_argument(
        "--keep-runs", action="store_true", help="keep the whole runs there, not their figures alone"
    )


def _add_regret(commands: Any) -> None:
    regret = command(
        commands, "regret", "regretting:regret", "ask another routing policy what a saved run's own was asked"
    )
    regret.add_argument(
        "run_folder", metavar="DIR", type=Path, help="where --out saved a run with --log-views"
    )
    regret.add_argument(
        "--policy", required=True, metavar="POLICY",
        help='its name, module:Class, or a table such as {policy="power-of-two-choices",choices=3}',
    )  # fmt: skip
    regret.add_argument(
        "--metric",
        default="e2e_s",
        metavar="NAME",
        help="what decisions cost: e2e_s (default), queue_s or ttft_s",
    )
    regret.add_argument(
        "--exact", type=whole, default=0, metavar="N", help="try N decisions, drawn at random, in simulations"
    )
    regret.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="of which decisions are tried (default 0)"
    )
    rebuilding_flags(regret)
    regret.add_argument(
        "--out", type=Path, metavar="FILE", help="write the decisions that differ to a .parquet"
    )
    regret.add_argument("--json", action="store_true", help="print the figures as JSON")


def _add_study(commands: Any) -> None:
    study = command(
        commands, "study", "studying:study", "run a study of docs/findings.md, or say which there are"
    )
    study.add_argument("names", metavar="NAME", nargs="*", help="such as tail_at_scale")
    study.add_argument("--all", action="store_true", help="every one, one after another")
    study.add_argument(
        "--size", choices=("small", "full"), default="small",
        help="how much is run: full is what docs/findings.md reports (default small)",
    )  # fmt: skip
    study.add_argument(
        "--trace", metavar="TRACE", help="take the traffic from a trace, in place of the study's own"
    )
    _workers(study)
    study.add_argument("--out", type=Path, metavar="DIR", help="keep numbers, plot and page there")


def _vary(parser: Parser) -> None:
    parser.add_argument(
        "--vary", action="append", default=[], metavar="PATH=A,B,...",
        help="a candidate for each value, as in --vary routing=random,round-robin (repeatable: all combinations)",
    )  # fmt: skip


def _stretches(parser: Parser) -> None:
    parser.add_argument(
        "--stretch-s", type=positive, metavar="S",
        help="another S seconds of the trace for each seed: the first S for seed 0, the next for seed 1, ...",
    )  # fmt: skip


def _seeds(parser: Parser, default: int, what: str) -> None:
    parser.add_argument(
        "--seeds", type=count, default=default, metavar="N", help=f"{what} (default {default})"
    )


def _workers(parser: Parser) -> None:
    parser.add_argument(
        "--workers", type=count, default=1, metavar="N", help="processes that share the work (default 1)"
    )
