"""What each command prints and writes when all is well."""

import inspect
import json
from pathlib import Path

import pytest

import traces
from fleet import load_run, load_spec, simulate
from fleet.cli.laws import LAWS, REQUIRED
from policies import SLOTS, describe
from tests.cli.conftest import Fleet
from tests.conftest import ROOT
from traces import load_faults, load_trace

EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))
FLEETS = [path for path in EXAMPLES if path.name != "one-crash.toml"]


@pytest.mark.parametrize("path", FLEETS, ids=lambda path: path.stem)
def test_every_example_loads(path: Path) -> None:
    assert load_spec(path).replicas >= 1


def test_the_surge_example_is_the_reference_scenario() -> None:
    from experiments.seed_fleet import FAULTS, SPEC

    assert load_spec(ROOT / "examples/surge.toml") == SPEC
    assert load_faults(ROOT / "examples/one-crash.toml") == FAULTS


# --- simulate ----------------------------------------------------------------------------------------------


def test_simulate_prints_the_figures_and_saves_the_run(fleet: Fleet, tmp_path: Path) -> None:
    ended = fleet("simulate", "demo-surge", "small.toml", "--first-s", 5, "--out", "run", "--seed", 3)
    assert ended.status == 0
    assert "demo-surge on small.toml, simulated, seed 3" in ended.out
    run = load_run(tmp_path / "run")
    assert f"{run.summary.submitted} submitted, {run.summary.completed} completed" in ended.out
    assert run.digest[:16] in ended.out
    assert run.manifest.seed == 3


def test_simulate_is_what_python_does(fleet: Fleet, tmp_path: Path) -> None:
    printed = json.loads(fleet("simulate", "demo-surge", "small.toml", "--first-s", 5, "--json").out)
    run = simulate(load_trace("demo-surge").first(seconds=5.0), load_spec(tmp_path / "small.toml"))
    assert printed["digest"] == run.digest
    assert printed["summary"]["e2e_s"]["p99"] == run.summary.e2e_s.p99


def test_output_that_is_no_terminal_is_plain(fleet: Fleet) -> None:
    ended = fleet("simulate", "demo-surge", "small.toml", "--first-s", 5)
    assert ended.out.isascii()
    assert "\x1b" not in ended.out + ended.err
    assert ended.err == "", "no progress where nobody watches"


def test_simulate_takes_faults_a_horizon_and_a_rate(fleet: Fleet) -> None:
    faults = ROOT / "examples/one-crash.toml"
    arguments = (
        "simulate",
        "demo-surge",
        "small.toml",
        "--set",
        "replicas=2",
        "--faults",
        faults,
        "--until-s",
        25,
    )
    printed = json.loads(fleet(*arguments, "--scale-rate", 2, "--json").out)
    assert printed["counters"]["faults"] == 1
    assert printed["summary"]["duration_s"] <= 25


def test_simulate_plays_sessions_closed_loop(fleet: Fleet) -> None:
    arguments = (
        "simulate",
        "chat-small",
        "small.toml",
        "--first-s",
        60,
        "--json",
        "--set",
        "engine.latency.base_s=1.0",
    )
    open_loop, closed = (json.loads(fleet(*arguments, *more).out) for more in ((), ("--sessions",)))
    assert closed["summary"]["duration_s"] != open_loop["summary"]["duration_s"]


def test_what_is_asked_of_a_trace_is_done_in_the_documented_order(fleet: Fleet, tmp_path: Path) -> None:
    lengths = (
        "--scale-lengths",
        0.25,
        "--scale-outputs",
        0.1,
        "--max-prompt-tokens",
        200,
        "--max-output-tokens",
        20,
    )
    cut = ("--dequantise", 0.5, "--seed", 3, "--first-s", 60, "--first", 150, "--scale-rate", 2)
    assert fleet("traces", "convert", "chat-small", "x.parquet", *lengths, *cut).status == 0
    chat = load_trace("chat-small").dequantise(tick_s=0.5, seed=3).first(seconds=60.0, requests=150)
    expected = chat.scale_rate(2.0).scale_lengths(
        0.25, max_prompt_tokens=200, max_output_tokens=20, output_factor=0.1
    )
    assert load_trace(tmp_path / "x.parquet") == expected


def test_every_command_that_plays_a_trace_takes_the_same_transforms(fleet: Fleet) -> None:
    asked = ("--first", 40, "--scale-lengths", 0.1, "--max-output-tokens", 9)
    printed = json.loads(fleet("simulate", "chat-small", "small.toml", *asked, "--json").out)
    short = load_trace("chat-small").first(requests=40).scale_lengths(0.1, max_output_tokens=9)
    assert printed["trace"] == {"requests": 40, "sha256": short.sha256}
    vary = ("--vary", "replicas=1,2", "--seeds", 1)
    assert fleet("compare", "chat-small", "small.toml", *asked, *vary).status == 0
    assert fleet("traces", "stats", "chat-small", *asked, "--max-prompt-tokens", 8).status == 0


def test_sessions_that_are_recorded_without_parents_are_linked(fleet: Fleet, tmp_path: Path) -> None:
    rows = "5,s,2,gpt,10,5\n15,s,2,gpt,30,5\n16,,2,gpt,9,9\n"
    (tmp_path / "burst.csv").write_text(
        f"Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens\n{rows}"
    )
    assert fleet("traces", "convert", "burst.csv", "linked.jsonl", "--sessions").status == 0
    linked = load_trace(tmp_path / "linked.jsonl")
    assert linked.column("parent").to_pylist() == [None, "0", None]
    assert linked.column("think_s").to_pylist() == [None, 8.0, None]
    slow = ("--set", "engine.latency.base_s=100", "--json")
    closed = json.loads(fleet("simulate", "burst.csv", "small.toml", "--sessions", *slow).out)
    assert closed["summary"]["duration_s"] > 200  # the second turn waits for the first


def test_sessions_that_are_not_recorded_are_told_from_prefixes(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "kimi.jsonl").write_text(
        '{"timestamp": 0, "input_length": 700, "output_length": 9, "hash_ids": [0, 1]}\n'
        '{"timestamp": 3000, "input_length": 1100, "output_length": 9, "hash_ids": [0, 2, 3]}\n'
    )
    assert fleet("traces", "convert", "kimi.jsonl", "linked.jsonl", "--infer-sessions").status == 0
    assert load_trace(tmp_path / "linked.jsonl").column("parent").to_pylist() == [None, "0"]
    assert "no request follows another" in fleet("simulate", "kimi.jsonl", "small.toml", "--sessions").err
    assert fleet("simulate", "kimi.jsonl", "small.toml", "--infer-sessions").err == ""


# --- changes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        (["replicas=3"], "replicas", 3),
        (["routing=round-robin"], "routing", {"policy": "round-robin"}),
        (["routing.policy=round-robin"], "routing", {"policy": "round-robin"}),
        (["$.routing=random"], "routing", {"policy": "random"}),
        (
            ['routing={policy = "power-of-two-choices", choices = 3}'],
            "routing",
            {"policy": "power-of-two-choices", "choices": 3},
        ),
        (
            ["routing=power-of-two-choices", "routing.choices=4"],
            "routing",
            {"policy": "power-of-two-choices", "choices": 4},
        ),
        (
            ["routing=power-of-two-choices", "routing.choices=4", "routing=random"],
            "routing",
            {"policy": "random"},
        ),
        (
            ["batching.policy=window", "batching.window_s=0.5"],
            "batching",
            {"policy": "window", "max_batch": 16, "window_s": 0.5},
        ),
        (["network={delay_s = 0.01}"], "network", {"delay_s": 0.01}),
        (["network.delay_s=0.01"], "network", {"delay_s": 0.01}),
        (["weights=[1, 2.5]"], "weights", (1.0, 2.5)),
    ],
)
def test_set_changes_one_thing(
    fleet: Fleet, tmp_path: Path, changes: list[str], field: str, expected: object
) -> None:
    from fleet.cli.inputs import spec_of

    del fleet  # which makes the folder
    spec = spec_of(tmp_path / "small.toml", changes).to_dict()
    if isinstance(expected, dict):  # what was not given may be there as its default
        assert expected.items() <= spec[field].items()
        assert spec[field].get("policy") == expected.get("policy")
    else:
        assert spec[field] == expected
    before = load_spec(tmp_path / "small.toml").to_dict()
    assert {**spec, field: None} == {**before, field: None}


@pytest.mark.parametrize("slot", SLOTS)
def test_every_slot_takes_a_name_and_then_parameters(slot: str) -> None:
    from fleet.cli.inputs import changed

    before = {slot: {"policy": "old", "of_old": 1}}
    assert changed(before, [f"{slot}=new", f"{slot}.of_new=2"]) == {slot: {"policy": "new", "of_new": 2}}
    assert changed({}, [f"{slot}.policy=new"]) == {slot: {"policy": "new"}}


def test_alternatives_are_split_at_commas_outside_brackets_and_quotes() -> None:
    from fleet.cli.inputs import alternatives

    assert alternatives("a,b") == ["a", "b"]
    assert alternatives('{policy = "x", n = 1}, b') == ['{policy = "x", n = 1}', "b"]
    assert alternatives('"a,b",[1,2]') == ['"a,b"', "[1,2]"]


# --- compare -----------------------------------------------------------------------------------------------


def test_compare_varies_one_file(fleet: Fleet, tmp_path: Path) -> None:
    ended = fleet(
        "compare",
        "demo-surge",
        "small.toml",
        "--first-s",
        3,
        "--seeds",
        2,
        "--out",
        "report",
        "--vary",
        "routing=random,round-robin",
        "--set",
        "replicas=2",
    )
    assert ended.status == 0
    assert "random" in ended.out
    assert "round-robin" in ended.out
    assert (tmp_path / "report/report.html").stat().st_size > 0


def test_compare_names_candidates_after_what_tells_them_apart(fleet: Fleet, tmp_path: Path) -> None:
    from fleet.cli.comparing import candidates_of

    del fleet
    small, other = tmp_path / "small.toml", tmp_path / "deep" / "small.toml"
    other.parent.mkdir()
    other.write_text(small.read_text())
    assert list(candidates_of([small], [], ["replicas=1,2"])) == ["1", "2"]
    assert list(candidates_of([small, other], [], [])) == ["small", "deep/small"]
    assert list(candidates_of([small], [], ["replicas=1,2", "binding=early,late"])) == [
        "replicas=1, binding=early",
        "replicas=1, binding=late",
        "replicas=2, binding=early",
        "replicas=2, binding=late",
    ]


# --- traces ------------------------------------------------------------------------------------------------


def test_traces_list_names_the_bundled_ones(fleet: Fleet) -> None:
    ended = fleet("traces", "list")
    assert {"surge-reference", "chat-small", "demo-surge"} <= set(ended.out.split())
    assert json.loads(fleet("traces", "list", "--json").out)["surge-reference"]["requests"] == 6606


def test_traces_stats_says_what_is_there(fleet: Fleet) -> None:
    ended = fleet("traces", "stats", "surge-reference")
    assert "6,606 in 29.994 s" in ended.out
    assert json.loads(fleet("traces", "stats", "chat-small", "--json").out)["statistics"]["sessions"] > 0


def test_traces_convert_cuts_and_scales_and_drops(fleet: Fleet, tmp_path: Path) -> None:
    assert (
        fleet("traces", "convert", "demo-surge", "cut.parquet", "--first-s", 20, "--from-s", 10).status == 0
    )
    cut = load_trace(tmp_path / "cut.parquet")
    assert cut.sha256 == load_trace("demo-surge").slice(10, 20).sha256
    rows = "2023-11-16 18:17:03.0,20,1\n2023-11-16 18:17:04.0,many,1\n"
    (tmp_path / "bad.csv").write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}")
    ended = fleet("traces", "convert", "bad.csv", "good.jsonl", "--on-bad", "drop")
    assert "dropped 1 rows" in ended.err
    assert len(load_trace(tmp_path / "good.jsonl")) == 1


BURST = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens\n"
    "86400,m,100,20,120\n86402,m,100,0,100\n86404,m,100,30,130\n"
)


def test_stats_say_what_failed_when_the_trace_was_recorded_and_when_that_was(
    fleet: Fleet, tmp_path: Path
) -> None:
    (tmp_path / "burst.csv").write_text(BURST)
    ended = fleet("traces", "stats", "burst.csv")
    assert "3 in 4.000 s, 0.75 a second\n" in ended.out
    assert "1 of these requests when recorded (33.3%)" in ended.out
    assert "time 0 is 86,400.000 s on the clock of the recording" in ended.out
    assert "unknown source in BurstGPT's format: burst.csv" in ended.out
    assert "licence not given" in ended.out
    assert ended.err.startswith("burst.csv: 1 of 3 requests failed when they were recorded, and are kept as")
    dropped = fleet("traces", "stats", "burst.csv", "--failed", "drop")
    assert "3 rows, 2 kept, 1 dropped (failed when recorded)" in dropped.out
    assert dropped.err == ""
    report = json.loads(fleet("traces", "stats", "burst.csv", "--failed", "keep", "--json").out)
    assert (report["report"]["failed"], report["statistics"]["failed"], report["requests"]) == (1, 1, 3)


def test_failed_requests_are_played_as_recorded_or_not_at_all(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "burst.csv").write_text(BURST)
    play = ("simulate", "burst.csv", ROOT / "examples/llm.toml", "--json")
    kept, dropped = (json.loads(fleet(*play, "--failed", choice).out) for choice in ("keep", "drop"))
    assert (kept["trace"]["requests"], dropped["trace"]["requests"]) == (3, 2)
    tokens = [run["summary"]["output_tokens_per_s"] * run["summary"]["duration_s"] for run in (kept, dropped)]
    assert tokens[0] == pytest.approx(50, abs=1)  # not the default length of an answer
    assert tokens[1] == pytest.approx(50)


def test_what_the_keys_of_a_trace_leave_open_is_asked_for_and_taken(fleet: Fleet, tmp_path: Path) -> None:
    row = '{{"timestamp": {}, "input_length": 1024, "output_length": 4, "hash_ids": {}}}\n'
    (tmp_path / "replay.jsonl").write_text(
        row.format(51820.25, [*range(16)]) + row.format(51825.25, [*range(16)])
    )
    ended = fleet("simulate", "replay.jsonl", "small.toml")
    assert ended.status == 2
    assert "replay.jsonl: column `timestamp`: may be seconds or milliseconds: 51820.25 is no" in ended.line
    ended = fleet("simulate", "replay.jsonl", "small.toml", "--time-unit", "s")
    assert ended.status == 2
    assert "64 to 68 tokens fit every row: say which with block_tokens= (--block-tokens)" in ended.line
    told = ("--time-unit", "s", "--block-tokens", 64)
    assert fleet("simulate", "replay.jsonl", "small.toml", *told).status == 0
    assert fleet("traces", "convert", "replay.jsonl", "own.jsonl", *told).status == 0
    header = load_trace(tmp_path / "own.jsonl").header
    assert (header.licence, header.provenance, header.offset_s) == (None, "unknown", 51820.25)
    assert [step.parameters for step in header.transforms] == [{"time_unit": "s", "block_tokens": 64}]
    assert "read as        times in s, prefix blocks of 64 tokens" in (
        fleet("traces", "stats", "replay.jsonl", *told).out
    )


def test_fields_that_a_trace_cannot_hold_are_named(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "work.jsonl").write_text(
        '{"input_toks": 2, "output_toks": 1, "arrival_time_ns": 0, "output_tok_ids": [3], "task": "a"}\n'
    )
    ended = fleet("traces", "convert", "work.jsonl", "own.jsonl", "--format", "llmservingsim-workload")
    assert ended.err == "not kept: output_tok_ids, which 1 rows have\n"
    stats = fleet("traces", "stats", "work.jsonl").out
    assert "in extra       task (1 rows)" in stats
    assert "not kept       output_tok_ids (1 rows)" in stats
    assert "all at one instant: no rate" in stats


def test_traces_synthesize_is_what_python_makes(fleet: Fleet, tmp_path: Path) -> None:
    flags = ("--rate-per-s", 20, "--duration-s", 10, "--seed", 4, "--prompt-tokens", "uniform:8,128")
    assert fleet("traces", "synthesize", "poisson", "made.jsonl", *flags).status == 0
    made = traces.poisson(20.0, 10.0, 4, prompt_tokens=traces.Lengths.uniform(8, 128))
    assert load_trace(tmp_path / "made.jsonl") == made


@pytest.mark.parametrize("law", LAWS)
def test_every_law_has_the_flags_that_its_function_has_parameters(law: str) -> None:
    parameters = inspect.signature(getattr(traces, law)).parameters
    flags = LAWS[law][1]
    assert set(flags) <= set(parameters)
    needed = {name for name, parameter in parameters.items() if parameter.default is parameter.empty}
    assert needed == {name for name in flags if name in REQUIRED or (name == "duration_s" and law != "surge")}


def test_every_law_makes_a_trace(fleet: Fleet, tmp_path: Path) -> None:
    given = {
        "rate_per_s": 5,
        "cv": 2,
        "duration_s": 10,
        "rates_per_s": "1,10",
        "mean_sojourn_s": "2",
        "mean_per_s": 5,
        "amplitude": 0.5,
        "period_s": 5,
        "sessions_per_s": 2,
    }
    for law, (_, parameters) in LAWS.items():
        flags = [f"--{name.replace('_', '-')}={given[name]}" for name in parameters if name in given]
        assert fleet("traces", "synthesize", law, f"{law}.jsonl", *flags).status == 0, law
        assert len(load_trace(tmp_path / f"{law}.jsonl")) > 0


# --- policies, profile, keys, help -------------------------------------------------------------------------


def test_policies_lists_every_one_in_a_line_with_its_law_and_its_defaults(fleet: Fleet) -> None:
    lines = fleet("policies").out.splitlines()
    for info in describe():
        if info.location.startswith("policies."):  # other tests have classes of their own
            (line,) = (line for line in lines if line.startswith(f"  {info.name} ") and info.law in line)
            assert all(f"{parameter.name}=" in line for parameter in info.parameters if parameter.default)
    assert len(lines) == len(describe()) + 2 * len({info.slot for info in describe()}) - 1


def test_a_slot_fits_a_terminal_however_narrow(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    from fleet.cli import catalogue

    monkeypatch.setattr(catalogue, "_width", lambda: 80)
    lines = fleet("policies", "routing").out.splitlines()

    assert max(map(len, lines)) <= 80
    assert len(lines) == 1 + sum(info.slot == "routing" for info in describe())
    (kv_cost,) = (line for line in lines if line.startswith("  kv-cost "))
    assert kv_cost.endswith("…")
    assert "Take the replica of least cost" in kv_cost
    assert "overlap_wei" in kv_cost


def test_a_default_with_parameters_of_its_own_is_named_in_the_table(fleet: Fleet) -> None:
    assert "retry=ExponentialBackoff(…)" in fleet("policies", "retry").out
    assert "fallback=LeastOutstanding()" in fleet("policies", "routing").out


def test_a_policy_is_shown_in_full_with_bounds_source_and_class(fleet: Fleet) -> None:
    out = fleet("policies", "power-of-two-choices").out

    assert "- choices: int >= 1, default 2" in out
    assert "source: Mitzenmacher" in out
    assert "class: policies.routing.power_of_two_choices:PowerOfTwoChoices" in out


def test_policies_shows_one_slot_or_one_policy(fleet: Fleet) -> None:
    for slot in SLOTS:
        assert fleet("policies", slot).out.startswith(f"{slot}\n")
    assert fleet("policies", "warm-pool").out.startswith("warm_pool\n")
    assert fleet("policies", "PowerOfTwoChoices").out == fleet("policies", "power-of-two-choices").out
    assert "emulated" in fleet("policies", "engine").out
    assert json.loads(fleet("policies", "window", "--json").out)[0]["slot"] == "batching"


def test_a_class_of_ones_own_is_described_by_its_module(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "nobodys.py").write_text(
        "from policies import BatchingPolicy, Wait\n"
        "class Sits(BatchingPolicy):\n"
        '    """Sits there."""\n'
        "    for_s: float = 1.0\n"
        "    def next_batch(self, queue, idle, now_s):\n"
        "        return Wait()\n"
        "class NobodysHeir(Sits):\n"
        '    """Sits on."""\n'
    )

    assert fleet("policies", "nobodys:Sits").out == (
        "batching\n  sits\n    Sits there.\n    source: not given\n    class: nobodys:Sits\n"
        "    - for_s: float, default 1.0\n"
    )
    assert (
        fleet("policies", "nobodys:Sitz").line
        == "policies: module `nobodys` has no `Sitz`; did you mean `Sits`?"
    )
    assert "fills no slot itself" in fleet("policies", "policies.base:Component").line


def test_profile_measures_and_writes_what_a_profiled_latency_reads(fleet: Fleet, tmp_path: Path) -> None:
    ended = fleet("profile", "small.toml", "--batch-sizes", "1,4", "--tokens", "0,8", "--out", "p.json")
    assert ended.status == 0
    assert "7.000" in ended.out, "0.005 + 0.002 s"
    (tmp_path / "measured.toml").write_text(
        'engine = { engine = "emulated", latency = { latency = "profiled", profile = "p.json" } }'
    )
    assert fleet("simulate", "demo-surge", "measured.toml", "--first-s", 2).status == 0


def test_profile_takes_an_engine_by_name(fleet: Fleet) -> None:
    changes = ("engine.latency=affine", "engine.latency.base_s=0.01", "engine.latency.per_item_s=0")
    flags = [word for change in changes for word in ("--set", change)]
    assert "10.000" in fleet("profile", "emulated", *flags, "--batch-sizes", "1").out


LLM = (
    "emulated-llm", "--set", "engine.latency=affine", "--set", "engine.latency.base_s=0.01",
    "--set", "engine.latency.per_prefill_token_s=0.001", "--set", "engine.kv.blocks=400",
)  # fmt: skip


def test_profile_measures_the_steps_of_an_engine_that_serves_token_by_token(
    fleet: Fleet, tmp_path: Path
) -> None:
    grid = ("--chunks", "1,30", "--contexts", "0,32", "--decodes", "1,2", "--mixed-chunks", "8")
    ended = fleet("profile", *LLM, *grid, "--repeats", "3", "--out", "p.json")
    assert ended.status == 0
    assert "40.000" in ended.out, "0.010 + 30 x 0.001 s"
    assert "emulated-llm, loaded in" in ended.out
    (tmp_path / "measured.toml").write_text(
        'engine = { engine = "emulated-llm", latency = { latency = "profiled", profile = "p.json" }, '
        "kv = { blocks = 400 } }"
    )
    assert fleet("simulate", "chat-small", "measured.toml", "--first", 5).status == 0


def test_profile_says_which_options_an_engine_takes(fleet: Fleet) -> None:
    assert "emulated-llm serves token by token: it takes --chunks" in (
        fleet("profile", *LLM, "--batch-sizes", "1").line
    )
    assert "emulated runs batches: it takes --batch-sizes" in (
        fleet("profile", "small.toml", "--decodes", "1").line
    )


def test_keys_writes_a_private_file_once_and_prints_the_public_key(fleet: Fleet, tmp_path: Path) -> None:
    from fleet.runtime.security import read_keys

    ended = fleet("keys", "mine.toml")
    assert read_keys(tmp_path / "mine.toml").public == ended.out.strip()
    again = fleet("keys", "mine.toml")
    assert again.status == 2
    assert "not overwritten" in again.line


def test_help_and_version(fleet: Fleet) -> None:
    assert fleet("--help").status == 0
    assert "simulate" in fleet("--help").out
    assert fleet("traces", "synthesize", "surge", "--help").status == 0
    assert fleet("--version").out.startswith("fleetlab ")
