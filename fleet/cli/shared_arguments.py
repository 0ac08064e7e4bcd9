"""Arguments that several commands share, under one name and with one meaning."""

from __future__ import annotations

from argparse import SUPPRESS
from collections.abc import Callable
from pathlib import Path

from fleet.cli.parser import Parser, set_flag
from fleet.cli.values import count, nonnegative, positive, whole


def trace_argument(parser: Parser, *, cut: bool = True) -> None:
    """A trace, how its file is read, and unless `cut` is False what is done to it."""
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


def spec_argument(parser: Parser) -> None:
    """A fleet, and changes to it."""
    parser.add_argument("spec", metavar="SPEC", type=Path, help="a fleet, as TOML or JSON")
    set_flag(parser)


def operations_flag(parser: Parser) -> None:
    """An operations trace."""
    parser.add_argument(
        "--operations", type=Path, metavar="FILE",
        help="an operations trace: pools deployed, scaled and retired, rollouts steered, each at its time",
    )  # fmt: skip


def run_flags(parser: Parser, *, faults: bool = True, seed: bool = True) -> None:
    """The seed, faults and sessions of a run."""
    if seed:
        parser.add_argument(
            "--seed", type=whole, default=0, metavar="N", help="of every random choice (default 0)"
        )
    if faults:
        _faults(parser)
    sessions_flags(parser, "closed loop: a follow-up waits for its parent's reply")


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


def stream_flag(parser: Parser) -> None:
    """Whether tokens come one by one."""
    parser.add_argument("--stream", action="store_true", help="have every output token sent as it comes")


def log_views_flag(parser: Parser) -> None:
    """Whether what policies saw is kept."""
    parser.add_argument(
        "--log-views",
        action="store_true",
        help="keep what routing policies were shown and told, for fleet regret",
    )


def sessions_flags(parser: Parser, text: str) -> None:
    """Whether follow-ups wait for answers; `text` says what comes of it."""
    parser.add_argument("--sessions", action="store_const", const="recorded", help=text)
    parser.add_argument(
        "--infer-sessions", action="store_const", const="inferred", dest="sessions",
        help="the same, with sessions told from prefix blocks, for traces that record none",
    )  # fmt: skip


def results_flags(parser: Parser, what: str) -> None:
    """Where `what` is saved, and JSON in place of a table."""
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"save {what} there")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def kept_run_flags(parser: Parser) -> None:
    """Where a run is saved, and with what."""
    results_flags(parser, "the run (Parquet tables and manifest.json)")
    parser.add_argument(
        "--with-trace", action="store_true", help="keep the trace there too, so that anybody can run it again"
    )


def rebuilding_flags(parser: Parser) -> None:
    """Where a saved run is built again."""
    parser.add_argument(
        "--trace", type=Path, metavar="FILE",
        help="where its trace is now (a folder, if it was read from several files: each by its name)",
    )  # fmt: skip
    parser.add_argument(
        "--allow-changed", action="store_true", help="run the code there is, even if it is not what it was"
    )
