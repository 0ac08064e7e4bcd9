"""The command line as data: every command, its arguments, and where the function that runs it lives.

Building it imports no part of fleetlab, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import importlib
from argparse import SUPPRESS, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fleet.cli.experiment_arguments import add_experiments
from fleet.cli.laws import LAWS, REQUIRED
from fleet.cli.operating_arguments import add_operations
from fleet.cli.parser import Parser, command, group, head_argument, help_by_groups, key_flags, set_flag
from fleet.cli.shared_arguments import (
    kept_run_flags,
    log_views_flag,
    operations_flag,
    rebuilding_flags,
    results_flags,
    run_flags,
    sessions_flags,
    spec_argument,
    stream_flag,
    trace_argument,
)
from fleet.cli.values import count, endpoint, meant, positive, several, whole

GROUPS = {
    "run": ("simulate", "replay", "again"),
    "compare": ("compare", "curve", "sweep", "regret", "study"),
    "live": ("serve", "join", "drive", "keys"),
    "operate": ("deploy", "retire", "scale", "rollout", "status"),
    "traces": ("traces", "export"),
    "tools": ("show", "profile", "policies", "presets"),
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
    add_experiments(commands)
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
    trace_argument(simulate)
    spec_argument(simulate)
    run_flags(simulate)
    operations_flag(simulate)
    stream_flag(simulate)
    simulate.add_argument("--until-s", type=positive, metavar="S", help="stop at S virtual seconds")
    simulate.add_argument("--no-check", action="store_true", help="leave out the invariant checker")
    log_views_flag(simulate)
    kept_run_flags(simulate)

    again = command(
        commands, "again", "reproducing:again", "run a saved simulation anew, and say whether it agrees"
    )
    again.add_argument("run_folder", metavar="DIR", type=Path, help="where --out saved the run")
    rebuilding_flags(again)
    again.add_argument("--no-check", action="store_true", help="leave out the invariant checker")
    again.add_argument("--out", type=Path, metavar="DIR", help="save the new run there")

    replay = command(
        commands, "replay", "runs:replay", "play a trace in real time, through real processes here"
    )
    trace_argument(replay)
    spec_argument(replay)
    run_flags(replay)
    operations_flag(replay)
    stream_flag(replay)
    replay.add_argument(
        "--speed", type=positive, default=1.0, metavar="X", help="arrivals come X times faster"
    )
    log_views_flag(replay)
    kept_run_flags(replay)


def _add_across_hosts(commands: Any) -> None:
    serve = command(commands, "serve", "live:serve", "run a head that replicas and clients connect to")
    spec_argument(serve)
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
    results_flags(serve, "the head's report")

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
    trace_argument(drive)
    head_argument(drive)
    drive.add_argument(
        "--spec", type=Path, metavar="SPEC", help="what is served there, for the manifest and the objectives"
    )
    set_flag(drive)
    run_flags(drive, faults=False, seed=False)
    stream_flag(drive)
    drive.add_argument(
        "--speed", type=positive, default=1.0, metavar="X", help="arrivals come X times faster"
    )
    key_flags(drive, head=False)
    results_flags(drive, "the client's records")

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
    spec_argument(show)
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
    shape = policies.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print the list as JSON")
    shape.add_argument(
        "--markdown", action="store_true", help="print docs/policies.md, the page of the library"
    )

    presets = command(
        commands, "presets", "presets:presets", "list the presets: systems as they are by default"
    )
    presets.add_argument("only", metavar="NAME", nargs="?", help="one of them, with all its settings")
    presets.add_argument("--json", action="store_true", help="print the list as JSON")

    traces = group(commands, "traces", "describe, convert and make traces")
    verbs = traces.add_subparsers(metavar="COMMAND", required=True, dest="verb")
    listed = command(verbs, "list", "tracing:list_bundled", "the bundled traces")
    listed.add_argument("--json", action="store_true", help="print the list as JSON")
    stats = command(verbs, "stats", "tracing:stats", "what a trace is like")
    trace_argument(stats)
    _on_bad(stats)
    stats.add_argument("--json", action="store_true", help="print the statistics as JSON")
    convert = command(
        verbs,
        "convert",
        "tracing:convert",
        "write a trace in a format of our own or of others, cut and scaled if asked",
    )
    trace_argument(convert)
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
    sessions_flags(convert, "link the turns of a session: parent, think time")
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
