"""The command line as data: every command, its arguments, and where the function that runs it lives.

Building it imports no part of fleetlab, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import importlib
from argparse import SUPPRESS, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fleet.cli.laws import LAWS, REQUIRED
from fleet.cli.operating_arguments import add_operations
from fleet.cli.parser import Parser, command, group, head_argument, help_by_groups, key_flags, set_flag
from fleet.cli.values import count, endpoint, meant, nonnegative, positive, several, whole

GROUPS = {
    "run": ("simulate", "replay", "again"),
    "compare": ("compare", "curve", "sweep", "regret"),
    "live": ("serve", "join", "drive", "keys"),
    "operate": ("deploy", "retire", "scale", "rollout", "status"),
    "traces": ("traces", "export"),
    "tools": ("show", "profile", "policies"),
}
"""Where each command stands in `fleet --help`; one that is in none of them is not shown, and a test fails."""


def parse(argv: Sequence[str]) -> Namespace:
    """The arguments, with the function to run as `run`. Raises `UsageError`."""
    arguments, unknown = _parser().parse_known_args(argv)
    parser: Parser = arguments.parser
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]  # noqa: SLF001  # no other way
        option = unknown[0].partition("=")[0]
        parser.error(f"does not understand {unknown[0]}{meant(option, flags)}")
    module, _, function = arguments.run.partition(":")
    arguments.run = getattr(importlib.import_module(f"fleet.cli.{module}"), function)
    return arguments


# --- groups of arguments that commands share ---------------------------------------------------------------


def _trace(parser: Parser, *, cut: bool = True) -> None:
    parser.add_argument("trace", metavar="TRACE", help="a trace file, or a bundled trace (fleet traces list)")
    _reading(parser)
    if cut:
        _cuts(parser)


def _reading(parser: Parser) -> None:
    """What a file leaves open, or what to do with some of its rows."""
    reading = parser.add_argument_group("how the trace file is read")
    reading.add_argument("--format", metavar="NAME", help="its format (default: recognised by its content)")
    reading.add_argument(
        "--time-unit",
        choices=("s", "ms", "us", "ns"),
        help="of its arrivals, where the format leaves it open",
    )
    reading.add_argument(
        "--block-tokens", type=count, metavar="N", help="tokens that each of its prefix hashes stands for"
    )
    reading.add_argument(
        "--arrivals", metavar="LAW",
        help="how requests of a file without times come: poisson:RATE, gamma:RATE:CV, constant:RATE, at-once",
    )  # fmt: skip
    reading.add_argument(
        "--chars-per-token",
        type=positive,
        metavar="X",
        help="characters that make a token, where the file has texts",
    )
    reading.add_argument(
        "--columns", metavar="TARGET=COLUMN[:UNIT],...",
        help="it is a table of your own (CSV, JSON lines, Parquet): which of its columns is which of a trace, as in "
        "arrived_s=ts:ms,prompt_tokens=in",
    )  # fmt: skip
    reading.add_argument(
        "--failed", choices=("keep", "drop"),
        help="requests that failed when recorded: keep them as recorded (default, and said), or leave them out",
    )  # fmt: skip


def _cuts(parser: Parser) -> None:
    """What `inputs.trace_of` does to a trace, in the order in which it does it."""
    parser.set_defaults(trace_seed=0)
    flags: list[tuple[str, Callable[[str], float], str, str]] = [
        (
            "--dequantise",
            positive,
            "S",
            "spread requests of one instant over the S seconds of a coarse clock's tick",
        ),
        ("--first-s", positive, "S", "only the requests of the first S seconds"),
        ("--first", count, "N", "only the first N requests"),
        ("--scale-rate", positive, "X", "X times as many arrivals a second"),
        ("--scale-lengths", positive, "X", "prompts, their blocks and outputs X times as long"),
        ("--scale-outputs", positive, "X", "outputs X times as long, whatever --scale-lengths says"),
        ("--max-prompt-tokens", count, "N", "cut longer prompts, after scaling"),
        ("--max-output-tokens", count, "N", "cut longer outputs, after scaling"),
        ("--with-work", positive, "S", "each request's work: how long it ran when recorded, over S seconds"),
    ]
    for flag, kind, metavar, text in flags:
        parser.add_argument(flag, type=kind, metavar=metavar, help=text)
    parser.add_argument(
        "--assign", action="append", default=[], metavar="COLUMN=LAW",
        help="draw a column that the trace does not have, as in --assign tenant=zipf:20:1.1 "
        "--assign model=choice:chat=0.7,code=0.3 (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--assign-per", choices=("request", "session", "user"),
        help="who has one value of what is assigned (default: a session, of model, adapter, tenant and user)",
    )  # fmt: skip
    parser.add_argument(
        "--assign-overwrite", action="store_true", help="assign what the trace has already, too"
    )


def _spec(parser: Parser) -> None:
    parser.add_argument("spec", metavar="SPEC", type=Path, help="a fleet, as TOML or JSON")
    set_flag(parser)


def _operations(parser: Parser) -> None:
    parser.add_argument(
        "--operations", type=Path, metavar="FILE",
        help="an operations trace: pools deployed, scaled and retired, rollouts steered, each at its time",
    )  # fmt: skip


def _run(parser: Parser, *, faults: bool = True, seed: bool = True) -> None:
    if seed:
        parser.add_argument(
            "--seed", type=whole, default=0, metavar="N", help="of every random choice (default 0)"
        )
    if faults:
        _faults(parser)
    _sessions(parser, "closed loop: a follow-up waits for its parent's reply")


def _faults(parser: Parser) -> None:
    """A fault trace, and what `load_faults` does to it, under its own names."""
    parser.add_argument(
        "--faults", type=Path, metavar="FILE", help="a fault trace, or a log of faults, to inject"
    )
    group = parser.add_argument_group("how the fault trace is read")
    flags: list[tuple[str, Callable[[str], float | str], str, str]] = [
        ("start-s", nonnegative, "S", "begin S seconds into it, on its own clock"),
        ("time-scale", positive, "X", "its times multiplied by X, as in 0.01 for a log of months"),
        ("replicas", count, "N", "lay what it names (servers, instances, replicas) on N places, k mod N"),
        ("pool", str, "NAME", "lay the places that it names without a pool on those of this pool"),
        ("notice-s", nonnegative, "S", "warn S seconds before each preemption that says nothing of it"),
    ]
    for name, kind, metavar, text in flags:
        group.add_argument(f"--faults-{name}", type=kind, metavar=metavar, help=text, default=SUPPRESS)


def _stream(parser: Parser) -> None:
    parser.add_argument("--stream", action="store_true", help="have every output token sent as it comes")


def _log_views(parser: Parser) -> None:
    parser.add_argument(
        "--log-views",
        action="store_true",
        help="keep what routing policies were shown and told, for fleet regret",
    )


def _sessions(parser: Parser, text: str) -> None:
    parser.add_argument("--sessions", action="store_const", const="recorded", help=text)
    parser.add_argument(
        "--infer-sessions", action="store_const", const="inferred", dest="sessions",
        help="the same, with sessions told from prefix blocks, for traces that record none",
    )  # fmt: skip


def _results(parser: Parser, what: str) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"save {what} there")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def _kept_run(parser: Parser) -> None:
    _results(parser, "the run (Parquet tables and manifest.json)")
    parser.add_argument(
        "--with-trace", action="store_true", help="keep the trace there too, so that anybody can run it again"
    )


def _rebuilding(parser: Parser) -> None:
    """Where a saved run is built again."""
    parser.add_argument(
        "--trace", type=Path, metavar="FILE",
        help="where its trace is now (a folder, if it was read from several files: each by its name)",
    )  # fmt: skip
    parser.add_argument(
        "--allow-changed", action="store_true", help="run the code there is, even if it is not what it was"
    )


# --- the commands ------------------------------------------------------------------------------------------


class _Fleet(Parser):
    """The whole command."""

    commands: Mapping[str, Parser]

    def format_help(self) -> str:
        """A line for each command: all of it fits a screen."""
        return "\n".join([
            "usage: fleet [--version] [--debug] COMMAND ...\n",
            "Research policies for model-serving fleets, in exact virtual time and live.\n",
            *help_by_groups(GROUPS, self.commands),
            "\nfleet COMMAND --help says more of one. --debug shows an error's traceback.\n",
        ])  # fmt: skip


def _parser() -> Parser:
    parser = _Fleet(prog="fleet")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error, and log more")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command", parser_class=Parser)
    _add_runs(commands)
    _add_curve(commands)
    _add_regret(commands)
    _add_across_hosts(commands)
    add_operations(commands)
    _add_tools(commands)
    parser.commands = commands.choices
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"fleetlab {version('fleetlab')}")
        parser.exit()


def _add_runs(commands: Any) -> None:
    simulate = command(
        commands, "simulate", "runs:simulate", "play a trace against a fleet in exact virtual time"
    )
    _trace(simulate)
    _spec(simulate)
    _run(simulate)
    _operations(simulate)
    _stream(simulate)
    simulate.add_argument("--until-s", type=positive, metavar="S", help="stop at S virtual seconds")
    simulate.add_argument("--no-check", action="store_true", help="leave out the invariant checker")
    _log_views(simulate)
    _kept_run(simulate)

    again = command(
        commands, "again", "reproducing:again", "run a saved simulation anew, and say whether it agrees"
    )
    again.add_argument("run_folder", metavar="DIR", type=Path, help="where --out saved the run")
    _rebuilding(again)
    again.add_argument("--no-check", action="store_true", help="leave out the invariant checker")
    again.add_argument("--out", type=Path, metavar="DIR", help="save the new run there")

    replay = command(
        commands, "replay", "runs:replay", "play a trace in real time, through real processes here"
    )
    _trace(replay)
    _spec(replay)
    _run(replay)
    _operations(replay)
    _stream(replay)
    replay.add_argument(
        "--speed", type=positive, default=1.0, metavar="X", help="arrivals come X times faster"
    )
    _log_views(replay)
    _kept_run(replay)

    compare = command(
        commands, "compare", "comparing:compare", "simulate several fleets on one trace, paired by seed"
    )
    _trace(compare)
    compare.add_argument(
        "specs",
        metavar="SPEC",
        type=Path,
        nargs="+",
        help="fleets, as TOML or JSON; the first is the baseline",
    )
    set_flag(compare)
    _vary(compare)
    _run(compare, seed=False)
    compare.add_argument(
        "--seeds", type=count, default=10, metavar="N", help="runs of each candidate (default 10)"
    )
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
    compare.add_argument(
        "--workers", type=count, default=1, metavar="N", help="processes that share the work (default 1)"
    )
    compare.add_argument(
        "--out", type=Path, metavar="DIR", help="save the report (HTML, tables, manifest) there"
    )
    _add_sweep(commands)


def _add_sweep(commands: Any) -> None:
    sweep = command(
        commands,
        "sweep",
        "sweeping:sweep",
        "simulate a fleet at many points, and say which to choose",
    )
    _trace(sweep)
    _spec(sweep)
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
    _run(sweep, seed=False)
    sweep.add_argument("--seeds", type=count, default=5, metavar="N", help="runs of each point (default 5)")
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
    sweep.add_argument(
        "--workers", type=count, default=1, metavar="N", help="processes that share the work (default 1)"
    )
    sweep.add_argument(
        "--out", type=Path, metavar="DIR",
        help="keep each run there as it ends; the same command goes on where one was killed",
    )  # fmt: skip
    sweep.add_argument(
        "--keep-runs", action="store_true", help="keep the whole runs there, not their figures alone"
    )


def _add_curve(commands: Any) -> None:
    curve = command(
        commands,
        "curve",
        "curving:curve",
        "simulate fleets at several rates: latency against load",
    )
    _trace(curve)
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
    curve.add_argument(
        "--seeds", type=count, default=5, metavar="N", help="runs of each candidate at each rate (default 5)"
    )
    _stretches(curve)
    curve.add_argument(
        "--workers", type=count, default=1, metavar="N", help="processes that share the work (default 1)"
    )
    curve.add_argument(
        "--out", type=Path, metavar="DIR", help="save the curve (HTML, CSV, JSON, SVG, PDF) there"
    )


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
    _rebuilding(regret)
    regret.add_argument(
        "--out", type=Path, metavar="FILE", help="write the decisions that differ to a .parquet"
    )
    regret.add_argument("--json", action="store_true", help="print the figures as JSON")


def _add_across_hosts(commands: Any) -> None:
    serve = command(commands, "serve", "live:serve", "run a head that replicas and clients connect to")
    _spec(serve)
    serve.add_argument(
        "--bind", type=endpoint, default="tcp://127.0.0.1:5555", metavar="ENDPOINT",
        help="where to listen (default tcp://127.0.0.1:5555); beyond loopback, keys are demanded",
    )  # fmt: skip
    serve.add_argument(
        "--local-replicas", type=whole, default=0, metavar="N", help="replica processes on this host too"
    )
    serve.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="of every random choice (default 0)"
    )
    serve.add_argument(
        "--for-s", type=positive, metavar="S", help="stop after S seconds (default: at Ctrl-C)"
    )
    serve.add_argument(
        "--allow-module", action="append", default=[], metavar="NAME",
        help="a module beside installed distributions, and those that SPEC names, that operations may name components "
        "of (repeatable)",
    )  # fmt: skip
    key_flags(serve, head=True)
    _results(serve, "the head's report")

    join = command(commands, "join", "live:join", "offer replica processes of this host to a head")
    head_argument(join)
    join.add_argument("--replicas", type=count, default=1, metavar="N", help="how many processes (default 1)")
    join.add_argument(
        "--name", help="of the processes, as the head logs them (default: made from the host's name)"
    )
    join.add_argument(
        "--rejoin-s", type=positive, default=60.0, metavar="S",
        help="how long a head that is lost may take to come back (default 60)",
    )  # fmt: skip
    join.add_argument(
        "--allow-module", action="append", default=[], metavar="NAME",
        help="a module beside installed distributions that the head may name components of (repeatable)",
    )  # fmt: skip
    key_flags(join, head=False)

    drive = command(commands, "drive", "live:drive", "play a trace against a running head, as a client")
    _trace(drive)
    head_argument(drive)
    drive.add_argument(
        "--spec", type=Path, metavar="SPEC", help="what is served there, for the manifest and the objectives"
    )
    set_flag(drive)
    _run(drive, faults=False, seed=False)
    _stream(drive)
    drive.add_argument(
        "--speed", type=positive, default=1.0, metavar="X", help="arrivals come X times faster"
    )
    key_flags(drive, head=False)
    _results(drive, "the client's records")

    keys = command(commands, "keys", "live:keys", "make a CURVE key pair and print its public key")
    keys.add_argument("file", metavar="FILE", type=Path, help="a new file; only its owner can read it")


def _add_export(commands: Any) -> None:
    export = command(
        commands, "export", "exporting:export", "write a saved run in a format that other tools read"
    )
    export.add_argument("run_directory", metavar="DIR", type=Path, help="a run, as --out saved it")
    export.add_argument(
        "target", metavar="FILE", type=Path, help="packed if it ends in .gz; csv: a folder takes all tables"
    )
    export.add_argument(
        "--to", required=True, choices=("vllm-bench", "aiperf", "csv", "perfetto"),
        help="perfetto: a timeline for ui.perfetto.dev",
    )  # fmt: skip
    export.add_argument(
        "--from-s",
        type=positive,
        default=0.0,
        metavar="S",
        help="perfetto: leave out what is over before S seconds",
    )
    export.add_argument(
        "--first-s", type=positive, metavar="S", help="perfetto: only what begins in the first S seconds"
    )


def _add_tools(commands: Any) -> None:
    show = command(commands, "show", "showing:show", "print what a fleet's file comes to, and run nothing")
    _spec(show)
    show.add_argument("--json", action="store_true", help="print it as JSON")

    _add_export(commands)
    _add_profile(commands)

    policies = command(
        commands, "policies", "catalogue:policies", "list the policies: slot, parameters, source"
    )
    policies.add_argument(
        "only",
        metavar="SLOT|NAME|MODULE:CLASS",
        nargs="?",
        help="one slot (engine, latency and step-latency too), one policy, or a class of your own",
    )
    policies.add_argument("--json", action="store_true", help="print the list as JSON")

    traces = group(commands, "traces", "describe, convert and make traces")
    verbs = traces.add_subparsers(metavar="COMMAND", required=True, dest="verb")
    listed = command(verbs, "list", "tracing:list_bundled", "the bundled traces")
    listed.add_argument("--json", action="store_true", help="print the list as JSON")
    stats = command(verbs, "stats", "tracing:stats", "what a trace is like")
    _trace(stats)
    _on_bad(stats)
    stats.add_argument("--json", action="store_true", help="print the statistics as JSON")
    convert = command(
        verbs,
        "convert",
        "tracing:convert",
        "write a trace in a format of our own or of others, cut and scaled if asked",
    )
    _trace(convert)
    convert.add_argument(
        "target", metavar="FILE", type=Path, help=".jsonl, .jsonl.gz or .parquet; with --to any name"
    )
    convert.add_argument(
        "--to",
        choices=("mooncake", "azure", "vidur", "csv"),
        help="the layout to write it in (csv: all columns)",
    )
    convert.add_argument(
        "--from-s", type=positive, default=0.0, metavar="S", help="leave out what comes before S seconds"
    )
    convert.add_argument("--scale-time", type=positive, metavar="X", help="the users' clock X times as slow")
    convert.add_argument(
        "--upsample", type=positive, metavar="X", help="X times the requests, in the same shape"
    )
    _sessions(convert, "link the turns of a session: parent, think time")
    convert.add_argument(
        "--seed", type=whole, default=0, metavar="N", dest="trace_seed",
        help="of --arrivals, --dequantise, --assign and --upsample (default 0)",
    )  # fmt: skip
    _on_bad(convert)
    _add_synthesize(verbs)


def _add_profile(commands: Any) -> None:
    profile = command(
        commands, "profile", "profiling:profile",
        "measure how long an engine takes, by batches or by steps",
    )  # fmt: skip
    profile.add_argument(
        "engine", metavar="SPEC|ENGINE", help="a fleet's file, or an engine's name with --set engine.…=…"
    )
    profile.add_argument("--pool", metavar="NAME", help="of a fleet whose pools have several engines: which")
    set_flag(profile)
    batches = profile.add_argument_group("of engines that run batches")
    batches.add_argument("--batch-sizes", type=several(count), metavar="N,…", help="default 1 to 64")
    batches.add_argument(
        "--tokens", type=several(whole), metavar="N,…", help="prompt lengths (default 0: without tokens)"
    )
    steps = profile.add_argument_group("of engines that serve token by token")
    steps.add_argument(
        "--chunks", type=several(count), metavar="N,…", help="prompt tokens in a step (default 1 to 256)"
    )
    steps.add_argument(
        "--mixed-chunks",
        type=several(count),
        metavar="N,…",
        help="those beside decodes (default 8, 64 and 256)",
    )
    steps.add_argument(
        "--contexts", type=several(whole), metavar="N,…",
        help="tokens computed before, of each sequence (default 0, 128 and 512)",
    )  # fmt: skip
    steps.add_argument(
        "--decodes", type=several(count), metavar="N,…", help="sequences that decode (default 1 to 16)"
    )
    profile.add_argument(
        "--repeats", type=count, metavar="N", help="measured runs of each point (default 10; of steps 5)"
    )
    profile.add_argument("--warmup", type=whole, metavar="N", help="runs before them (default 2; of steps 1)")
    profile.add_argument(
        "--out", type=Path, metavar="FILE", help="write the table that a profiled latency reads"
    )


def _on_bad(parser: Parser) -> None:
    parser.add_argument(
        "--on-bad",
        choices=("raise", "drop"),
        default="raise",
        help="bad rows: stop (default), or drop and count",
    )


def _add_synthesize(verbs: Any) -> None:
    synthesize = group(verbs, "synthesize", "make a trace from a law and a seed")
    laws = synthesize.add_subparsers(metavar="LAW", required=True, dest="law")
    for law, (text, parameters) in LAWS.items():
        parser = command(laws, law, "tracing:synthesize", text)
        parser.add_argument("target", metavar="FILE", type=Path, help=".jsonl, .jsonl.gz or .parquet")
        for name, kind in parameters.items():
            required = name in REQUIRED or (name == "duration_s" and law != "surge")
            parser.add_argument(
                f"--{name.replace('_', '-')}", type=kind, required=required, default=SUPPRESS, metavar="X"
            )
        parser.add_argument(
            "--seed", type=whole, default=0, metavar="N", help="of every random choice (default 0)"
        )
        for name in ("prompt_tokens", "output_tokens"):
            parser.add_argument(
                f"--{name.replace('_', '-')}", metavar="LAW", default=None,
                help="128, uniform:8,128 or lognormal:MEAN,CV (default: none recorded)",
            )  # fmt: skip
