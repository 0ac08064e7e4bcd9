"""A whole fleet across hosts: a head in one network namespace, replicas and a client joined from another, CURVE on."""

import subprocess
from pathlib import Path

import pytest

from fleet.runtime.security import generate_keys, write_keys
from tests.live.namespaces import HEAD_ADDRESS, child, two_namespaces

pytestmark = [pytest.mark.netns, pytest.mark.live, pytest.mark.timeout(120)]

ENDPOINT = f"tcp://{HEAD_ADDRESS}:6001"
HEAD = """
import sys
from pathlib import Path
from tests.live.fleet_processes import small_fleet
from fleet import serve
keys, allow = map(Path, sys.argv[2:])
report = serve(small_fleet(), sys.argv[1], keys=keys, allow=allow, on_ready=lambda endpoint: print("bound", flush=True))
print(report.outcomes, report.counters["refused_keys"], report.counters["peers_joined"], flush=True)
"""
JOIN = """
import sys
from pathlib import Path
from fleet import join
sys.exit(join(sys.argv[1], keys=Path(sys.argv[2]), server_key=sys.argv[3]))
"""
DRIVE = """
import sys
from pathlib import Path
from fleet import drive
from traces import poisson
run = drive(poisson(rate_per_s=100, duration_s=3, seed=0), sys.argv[1], keys=Path(sys.argv[2]), server_key=sys.argv[3])
print(run.summary.submitted, run.summary.completed, run.summary.e2e_s.p50, flush=True)
"""


def test_a_fleet_spans_two_hosts_with_keys_and_a_wrong_key_is_refused_and_counted(tmp_path: Path) -> None:
    pairs = {name: generate_keys() for name in ("head", "replicas", "client", "stranger")}
    for name, pair in pairs.items():
        write_keys(pair, tmp_path / name)
    (tmp_path / "allow.toml").write_text(
        f'[[peers]]\nkey = "{pairs["replicas"].public}"\nhosts = ["replica/*", "host/*"]\n'
        f'[[peers]]\nkey = "{pairs["client"].public}"\nhosts = ["client/*"]\n'
    )

    def far(namespace: str, script: str, key: str):
        return child(namespace, "-c", script, ENDPOINT, str(tmp_path / key), pairs["head"].public)

    with (
        two_namespaces() as (near, away, delayed),
        child(near, "-c", HEAD, ENDPOINT, str(tmp_path / "head"), str(tmp_path / "allow.toml")) as head,
    ):
        assert head.stdout.readline().strip() == "bound", head.stderr.read()
        with (
            far(away, JOIN, "replicas") as one,
            far(away, JOIN, "replicas") as two,
            far(away, JOIN, "stranger"),
            far(away, DRIVE, "client") as client,
        ):
            submitted, completed, p50_s = client.stdout.readline().split()
            assert submitted == completed
            # Four crossings of the pair: client to head, head to replica, and both back.
            assert not delayed or float(p50_s) > 4 * 0.003
            subprocess.run(["kill", str(head.pid)], check=True)
            outcomes, refused, joined = head.stdout.readline().rsplit(maxsplit=2)
            assert outcomes == f"{{'completed': {submitted}}}"
            assert int(refused) >= 1
            assert int(joined) == 3
            assert one.wait(15) == two.wait(15) == 0
