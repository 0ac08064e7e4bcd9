"""A mistake in the input is one line on stderr that says what is wrong and where, and exit status 2."""

import sys
from pathlib import Path

import pytest

from tests.cli.conftest import SMALL, Fleet

SIMULATE = ("simulate", "demo-surge", "small.toml", "--first-s", 2)

MISTAKES = {
    "a misspelt command": (("simulat",), "did you mean simulate?"),
    "no command": ((), "COMMAND"),
    "a misspelt flag": ((*SIMULATE, "--sed", 3), "simulate: does not understand --sed; did you mean --seed?"),
    "a missing argument": (
        ("simulate", "demo-surge"),
        "simulate: the following arguments are required: SPEC",
    ),
    "a flag that is no number": ((*SIMULATE, "--seed", "x"), "--seed: must be a whole number, not 'x'"),
    "a flag out of range": ((*SIMULATE, "--until-s", 0), "--until-s: must be above 0, not 0"),
    "a flag that is not finite": ((*SIMULATE, "--until-s", "inf"), "--until-s: must be finite"),
    "a misspelt policy": ((*SIMULATE, "--set", "routing=roundrobin"), "did you mean `round-robin`?"),
    "a misspelt parameter": (
        (*SIMULATE, "--set", "routing=power-of-two-choices", "--set", "routing.choises=3"),
        "small.toml: $.routing.choises: power-of-two-choices has no parameter `choises`; did you mean `choices`?",
    ),
    "a parameter out of range": (
        (*SIMULATE, "--set", "routing=power-of-two-choices", "--set", "routing.choices=0"),
        "small.toml: $.routing.choices: Expected `int` >= 1",
    ),
    "a misspelt field": (
        (*SIMULATE, "--set", "replica=3"),
        "$.replica: a fleet has no such field; did you mean",
    ),
    "a value of the wrong type": (
        (*SIMULATE, "--set", "replicas=many"),
        "$.replicas: Expected `int`, got `str`",
    ),
    "a change without a value": ((*SIMULATE, "--set", "replicas"), "take PATH=VALUE"),
    "a path through a number": (
        (*SIMULATE, "--set", "replicas=2", "--set", "replicas.x=1"),
        "`replicas` is no table",
    ),
    "a policy in no module": ((*SIMULATE, "--set", "routing=nowhere:Mine"), "there is no module `nowhere`"),
    "a fleet that is no text, to be changed": (
        ("simulate", "demo-surge", "/bin/sh", "--set", "replicas=2"),
        "/bin/sh: is not text",
    ),
    "a trace in the wrong unit": ((*SIMULATE, "--scale-rate", "1e-300"), "are its times in seconds?"),
    "a cut past the end": (
        ("traces", "convert", "demo-surge", "x.jsonl", "--from-s", 1e9),
        "demo-surge: no requests are left",
    ),
    "more requests than any memory holds": (
        ("traces", "convert", "demo-surge", "x.jsonl", "--upsample", 1e9),
        "--upsample 1e+09 would make",
    ),
    "a law that makes more than memory holds": (
        ("traces", "synthesize", "poisson", "x.jsonl", "--rate-per-s", 1e15, "--duration-s", 9),
        "not enough memory: ",
    ),
    "sessions to be told from nothing": (
        (*SIMULATE, "--infer-sessions"),
        "sessions cannot be inferred: the trace has no prefix blocks",
    ),
    "a prompt of no tokens": ((*SIMULATE, "--max-prompt-tokens", 0), "must be a whole number above 0"),
    "no such trace": (("simulate", "nosuch", "small.toml"), "bundled traces are chat-small"),
    "no such trace file": (
        ("simulate", "nosuch.csv", "small.toml"),
        "nosuch.csv: cannot be read: No such file",
    ),
    "no such spec": (("simulate", "demo-surge", "nosuch.toml"), "nosuch.toml: cannot be read: No such file"),
    "no such spec, to be changed": (
        ("simulate", "demo-surge", "nosuch.toml", "--set", "replicas=2"),
        "nosuch.toml: cannot be read: No such file",
    ),
    "how to read no fault trace": (
        (*SIMULATE, "--faults-time-scale", 2),
        "--faults-time-scale goes with --faults FILE",
    ),
    "faults from before their beginning": (
        (*SIMULATE, "--faults", "x", "--faults-start-s", -1),
        "--faults-start-s: must not be below 0, not -1",
    ),
    "no such fault trace": (
        (*SIMULATE, "--faults", "nosuch.toml"),
        "nosuch.toml: cannot be read: No such file",
    ),
    "a cut that leaves nothing": (
        ("simulate", "surge-reference", "small.toml", "--first-s", 1e-9),
        "no requests are left",
    ),
    "a cut before the first request": (
        ("traces", "stats", "chat-small", "--first-s", 1),
        "chat-small: no requests are left before 1 s: the first comes at 1.12589 s",
    ),
    "an unknown format": (
        ("traces", "stats", "chat-small", "--format", "vidor"),
        "there is no format 'vidor'; known: fleetlab-jsonl",
    ),
    "a unit where the format says it": (
        (*SIMULATE, "--time-unit", "ms"),
        "time_unit= (--time-unit) does not apply to fleetlab-jsonl",
    ),
    "results into a file": ((*SIMULATE, "--out", "small.toml"), "--out small.toml: File exists"),
    "an oracle, live": (
        ("replay", "demo-surge", "small.toml", "--set", "routing=least-work-oracle"),
        "runs in simulation only",
    ),
    "one candidate": (("compare", "demo-surge", "small.toml"), "needs two candidates"),
    "the same candidate twice": (
        ("compare", "demo-surge", "small.toml", "--vary", "replicas=1,1"),
        "two candidates are",
    ),
    "an unknown baseline": (
        (
            "compare",
            "demo-surge",
            "small.toml",
            "--vary",
            "routing=random,round-robin",
            "--baseline",
            "rando",
        ),
        "--baseline rando is no candidate; did you mean random?",
    ),
    "an unknown metric": (
        ("compare", "demo-surge", "small.toml", "--vary", "replicas=1,2", "--metrics", "e2e_s.p99,p50"),
        "compare: --metrics: 'p50' is no figure of a run; there are ttft_s, tpot_s,",
    ),
    "more stretches than there is trace": (
        (
            "compare",
            "demo-surge",
            "small.toml",
            "--vary",
            "replicas=1,2",
            "--stretch-s",
            "20",
            "--seeds",
            "4",
        ),
        "4 stretches of 20 s are more than the",
    ),
    "no endpoint": (("join", "127.0.0.1:5555"), "must be an endpoint such as tcp://127.0.0.1:5555"),
    "no port": (("join", "tcp://127.0.0.1:99999"), "must be an endpoint"),
    "a public endpoint without keys": (
        ("serve", "small.toml", "--bind", "tcp://0.0.0.0:*"),
        "is open to other hosts and no keys were given",
    ),
    "keys without a list": (("serve", "small.toml", "--keys", "keys.toml"), "keys need an allow-list"),
    "keys without the head's": (
        ("join", "tcp://127.0.0.1:5555", "--keys", "keys.toml"),
        "keys need the head's public key",
    ),
    "an unknown engine": (("profile", "emulatd"), "did you mean `emulated`"),
    "an engine without its parameters": (("profile", "emulated"), "emulated needs `latency`"),
    "a profile into nowhere": (("profile", "small.toml", "--out", "no/p.json"), "there is no folder no"),
    "an unknown policy": (("policies", "round-robbin"), "did you mean round-robin?"),
    "a page of one policy": (("policies", "fifo", "--markdown"), "prints the whole library; leave fifo out"),
    "a trace in no format": (("traces", "convert", "demo-surge", "x.csv"), "the suffix names the format"),
    "a law of lengths that is none": (
        (
            "traces",
            "synthesize",
            "poisson",
            "x.jsonl",
            "--rate-per-s",
            1,
            "--duration-s",
            1,
            "--prompt-tokens",
            "many",
        ),
        "--prompt-tokens takes 128, uniform:LOW,HIGH or lognormal:MEAN,CV; got 'many'",
    ),
    "a law without its rate": (
        ("traces", "synthesize", "poisson", "x.jsonl", "--duration-s", 1),
        "required: --rate-per-s",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_status_2(mistake: str, fleet: Fleet) -> None:
    arguments, said = MISTAKES[mistake]
    ended = fleet(*arguments)
    assert said in ended.line
    assert ended.status == 2
    assert ended.out == ""


AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
TRACES = {
    "a negative count": (f"{AZURE}2023-11-16 18:17:03.9,-5,10\n", ":2: column `ContextTokens`"),
    "a word for a number": (f"{AZURE}2023-11-16 18:17:03.9,many,10\n", '"many" is not'),
    "a missing value": (f"{AZURE}2023-11-16 18:17:03.9,,10\n", ":2: column `ContextTokens`"),
    "no format at all": ("once upon a time\n", 'begins "once upon a time", which is no known format'),
    "nothing": ("", "is empty"),
    "what a terminal would obey": ("\x1b[2J\x07 trace\n", "is no known format"),
}


@pytest.mark.parametrize("fault", TRACES)
def test_a_bad_trace_is_named_with_its_line_and_column(fault: str, fleet: Fleet, tmp_path: Path) -> None:
    content, said = TRACES[fault]
    (tmp_path / "bad.csv").write_text(content)
    ended = fleet("simulate", "bad.csv", "small.toml")
    assert ended.line.startswith("bad.csv")
    assert ended.line.isprintable()
    assert said in ended.line
    assert ended.status == 2


def test_an_unsorted_trace_is_sorted_and_counted(fleet: Fleet, tmp_path: Path) -> None:
    rows = ["2023-11-16 18:17:05.0,10,1", "2023-11-16 18:17:03.0,20,1", "2023-11-16 18:17:04.0,30,1"]
    (tmp_path / "late.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    ended = fleet("traces", "stats", "late.csv")
    assert ended.status == 0
    assert "order          2 rows stood after a later one" in ended.out
    assert fleet("simulate", "late.csv", "small.toml").status == 0


@pytest.mark.parametrize("changes", [(), ("--set", "replicas=2")], ids=["as it is", "changed"])
def test_bad_toml_is_named_with_its_line(fleet: Fleet, tmp_path: Path, changes: tuple[str, ...]) -> None:
    (tmp_path / "bad.toml").write_text("replicas = = 2\n")
    ended = fleet("simulate", "demo-surge", "bad.toml", *changes)
    assert ended.line.startswith("bad.toml: ")
    assert "line 1" in ended.line
    assert ended.status == 2


POLICY = """
from policies import Route, RoutingPolicy

class Mine(RoutingPolicy):
    def route(self, request, replicas, now_s):
        {body}
"""
POLICIES = {
    "raises": ('raise KeyError("no such tenant")', "routing policy mine raised KeyError"),
    "names a stranger": (
        'return Route("replica/99")',
        "named replica 'replica/99', which is not a candidate",
    ),
    "answers nonsense": ("return 7", "answered 7; expected Route, Hold or Reject"),
    "answers later": ("return (lambda: (yield))()", "expected Route, Hold or Reject"),
}


@pytest.mark.parametrize("fault", POLICIES)
def test_a_policy_that_breaks_its_contract_is_named(fault: str, fleet: Fleet, tmp_path: Path) -> None:
    body, said = POLICIES[fault]
    module = f"contract_{fault.replace(' ', '_')}"
    (tmp_path / f"{module}.py").write_text(POLICY.format(body=body))
    ended = fleet(*SIMULATE, "--set", f"routing={module}:Mine")
    assert said in ended.line
    assert "seed=0" in ended.line, "it says how to see it again"
    assert ended.status == 2


def test_a_policy_cannot_end_the_command_as_if_all_were_well(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "leaving.py").write_text(POLICY.format(body="raise SystemExit(0)"))
    ended = fleet(*SIMULATE, "--set", "routing=leaving:Mine")
    assert ended.line == "RuntimeError: something that was run called sys.exit(0) (--debug shows where)"
    assert ended.status == 1


def test_a_policy_file_that_raises_is_named(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('not today')\n")
    ended = fleet(*SIMULATE, "--set", "routing=broken_module:Mine")
    assert "module `broken_module` cannot be imported: RuntimeError: not today" in ended.line
    assert ended.status == 2


def test_what_is_nobodys_mistake_is_exit_status_1(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(sys.modules["fleet"], "simulate", broken)
    ended = fleet(*SIMULATE)
    assert ended.line == "ZeroDivisionError: inside (--debug shows where)"
    assert ended.status == 1


def test_a_broken_invariant_is_our_defect_and_not_the_input(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fleet.runs.invariants import InvariantViolation

    def broken(*_: object, **__: object) -> None:
        raise InvariantViolation("invariant 1 (conservation): 2 and 2 make 5")

    monkeypatch.setattr(sys.modules["fleet"], "simulate", broken)
    ended = fleet(*SIMULATE)
    assert "conservation" in ended.line
    assert ended.status == 1


def test_debug_shows_the_traceback(fleet: Fleet) -> None:
    with pytest.raises(Exception, match="cannot be read"):
        fleet("simulate", "nosuch.csv", "small.toml", "--debug")
    with pytest.raises(Exception, match="cannot be read"):
        fleet("--debug", "simulate", "nosuch.csv", "small.toml")


def test_an_interrupt_is_exit_status_130(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["fleet"], "simulate", interrupted)
    ended = fleet(*SIMULATE)
    assert ended.line == "interrupted"
    assert ended.status == 130


def test_the_small_fleet_of_these_tests_is_right(fleet: Fleet) -> None:
    assert "engine" in SMALL
    assert fleet(*SIMULATE).status == 0
