"""`fleet curve`: what it prints and keeps, and what it says of mistakes."""

import csv

import pytest

SMALL = ("demo-surge", "small.toml", "--first", "400", "--seeds", "2")


def test_it_prints_the_verdict_first_and_keeps_the_curve(fleet, tmp_path):
    ended = fleet(
        "curve", *SMALL, "--vary", "routing=random,round-robin", "--set", "slo.e2e_s=0.1", "--rates", "50,100,200",
        "--objective", "e2e_s.p99<=0.03", "--out", "kept",
    )  # fmt: skip

    assert ended.status == 0
    assert ended.out.startswith("At most, in requests/s within e2e p99 ≤ 30 ms: ")
    assert {path.name for path in (tmp_path / "kept").iterdir()} >= {"curve.html", "curve.csv", "curve.json"}
    with (tmp_path / "kept/curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["candidate"] for row in rows} == {"random", "round-robin"}
    assert {float(row["rate_per_s"]) for row in rows} == {50.0, 100.0, 200.0}


def test_one_candidate_is_enough_and_rates_are_chosen(fleet):
    ended = fleet("curve", *SMALL, "--metrics", "e2e_s.p50")

    assert ended.status == 0
    assert ended.out.startswith("Most power")
    assert "Highest rate without falling behind" in " ".join(ended.out.split())


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ("--rates", "10,fast"),
            "curve: rates: 'fast' is no rate; give requests a second, or shares such as 80%",
        ),
        (("--objective", "e2e_s.p99"), "curve: 'e2e_s.p99' is no constraint"),
        (("--objective", "e2e_s.p99>=1"), "write e2e_s.p99<=1"),
        (("--metrics", "speed"), "curve: 'speed' is no figure of a run"),
        (("--stretch-s", "1000"), "curve: 2 stretches of 1000 s are more than"),
        (("--seeds", "0"), "must be a whole number above 0"),
    ],
)
def test_a_mistake_is_answered_in_a_line(fleet, flags, says):
    ended = fleet("curve", *SMALL, *flags)

    assert ended.status == 2
    assert says in ended.line
