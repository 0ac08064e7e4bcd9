"""The command as a process: what it loads, what it leaves behind, and a fleet of several of it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import SMALL
from tests.conftest import ROOT

# A shell starts what it runs in the background with SIGINT ignored, which is inherited: so these begin by heeding it.
HEED = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
FLEET = [sys.executable, "-c", f"{HEED}; from fleet.cli import main; sys.exit(main())"]
SERVED = (
    'engine = { engine = "emulated", latency = { latency = "affine", base_s = 0.002, per_item_s = 0.001 } }\n'
)


@contextmanager
def started(*arguments: object, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """The command in the background; killed at the end if it is still there."""
    process = subprocess.Popen(
        [*FLEET, *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def children(pid: int) -> list[int]:
    """The processes whose parent is `pid`."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended while we looked
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("number", "says", "status"), [("SIGINT", "interrupted", 130), ("SIGTERM", "terminated", 143)]
)
def test_a_command_that_is_ended_while_it_loads_says_so_in_a_word(
    number: str, says: str, status: int
) -> None:
    early = (
        f"{HEED}\n"
        "class Ends:\n"
        "    def find_spec(self, name, *_):\n"
        f"        name == 'fleet.cli.arguments' and signal.raise_signal(signal.{number})\n"
        "sys.meta_path.insert(0, Ends())\n"
        "from fleet.cli import main; sys.exit(main(['--help']))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", early], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout, found.stderr) == (status, "", f"fleet: {says}\n")


def test_a_command_that_is_terminated_leaves_no_half_file(tmp_path: Path) -> None:
    with started("traces", "convert", "demo-surge", "long.jsonl", "--upsample", 400, cwd=tmp_path) as process:
        until = time.monotonic() + 30
        while not list(tmp_path.iterdir()):
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.01)
        process.terminate()
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (143, "fleet: terminated\n")
    assert list(tmp_path.iterdir()) == []


def test_help_builds_the_command_line_without_any_part_of_it() -> None:
    script = (
        "import sys, types, pathlib\n"
        # `fleet` itself loads its public names; what is asked here is what the command adds to it.
        "package = types.ModuleType('fleet'); package.__path__ = [str(pathlib.Path('fleet').resolve())]\n"
        "sys.modules['fleet'] = package\n"
        "from fleet.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(json.loads(done.stderr.replace("'", '"')))
    assert "simulate" in done.stdout
    assert not loaded & {
        "torch",
        "numpy",
        "pyarrow",
        "zmq",
        "anyio",
        "rich",
        "msgspec",
        "policies",
        "traces",
        "experiments",
    }


def test_no_command_but_those_that_run_a_model_loads_torch(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    script = (
        "import sys; from fleet.cli import main\n"
        "main(['simulate', 'demo-surge', 'small.toml', '--first-s', '1'])\n"
        "main(['policies']); main(['traces', 'list'])\n"
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_mistake_is_one_line_in_a_process_of_its_own_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [*FLEET, "simulate", "demo-surge", "nosuch.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "fleet: nosuch.toml: cannot be read: No such file or directory\n"


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path) -> None:
    command = (
        f'{sys.executable} -c "import sys; from fleet.cli import main; sys.exit(main())" policies | head -1'
    )
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "admission\n"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [(">&-", 0, ""), ("> /dev/full", 1, "fleet: cannot write: no space is left on the device\n")],
    ids=["closed", "full"],
)
def test_output_that_goes_nowhere_is_told_in_a_line(
    tmp_path: Path, redirection: str, status: int, said: str
) -> None:
    command = f'{sys.executable} -c "import sys; from fleet.cli import main; sys.exit(main())" policies {redirection}'
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (status, said)


@pytest.mark.live
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_workers_of_a_comparison_end_with_it(tmp_path: Path, ending: signal.Signals) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    vary = ("--vary", "replicas=2,3", "--seeds", 500, "--workers", 2)
    with started("compare", "surge-reference", "small.toml", *vary, cwd=tmp_path) as process:
        deadline = time.monotonic() + 30.0
        while len(workers := children(process.pid)) < 3:  # two, and the tracker of their semaphores
            assert time.monotonic() < deadline
            time.sleep(0.02)
        if ending == signal.SIGINT:
            os.killpg(process.pid, ending)  # as a terminal does it: while they start, too
            _, said = process.communicate(timeout=20)
            assert (process.returncode, said) == (130, "fleet: interrupted\n")
        else:
            time.sleep(1.0)
            process.kill()
        deadline = time.monotonic() + 20.0
        while any(alive(pid) for pid in workers):
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.live
def test_replay_prints_and_saves_a_live_run(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    done = subprocess.run(
        [
            *FLEET,
            "replay",
            "demo-surge",
            "small.toml",
            "--first-s",
            "4",
            "--speed",
            "4",
            "--json",
            "--out",
            "run",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["runtime"] == "live"
    assert printed["summary"]["completed"] == printed["summary"]["submitted"] > 0
    assert (tmp_path / "run/manifest.json").exists()


@pytest.mark.live
def test_a_replica_that_cannot_load_ends_the_replay_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    done = subprocess.run(
        [*FLEET, "replay", "demo-surge", "small.toml", "--set", "engine.fail_load=true"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "replica/0 did not come up: the engine failed to load" in done.stderr


@pytest.mark.live
def test_ctrl_c_in_a_live_replay_leaves_no_process_behind(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    with started("replay", "demo-surge", "small.toml", "--set", "replicas=2", cwd=tmp_path) as process:
        deadline = time.monotonic() + 30
        while len(replicas := children(process.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(replicas) >= 2
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 130
        assert err == "fleet: interrupted\n"
        assert not [pid for pid in replicas if alive(pid)]


@pytest.mark.live
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("replay", "demo-surge", "small.toml", "--set", "replicas=3"), 130, "fleet: interrupted\n"),
        (("join", "tcp://127.0.0.1:{port}", "--replicas", 3), 0, ""),
    ],
    ids=["replay", "join"],
)
def test_ctrl_c_while_processes_start_ends_all_of_them_at_once(
    tmp_path: Path, arguments: tuple[object, ...], status: int, said: str
) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    given = [str(argument).format(port=free_port()) for argument in arguments]
    with started(*given, cwd=tmp_path) as process:
        deadline = time.monotonic() + 30
        while len(starting := children(process.pid)) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        began_s = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
        _, err = process.communicate(timeout=20)
        assert time.monotonic() - began_s < 4.0
        assert (process.returncode, err) == (status, said)
        assert len(starting) >= 3
        while any(alive(pid) for pid in starting):
            assert time.monotonic() - began_s < 4.0
            time.sleep(0.02)


@pytest.mark.live
def test_a_client_whose_head_is_killed_says_so_and_fails(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SERVED)
    head = f"tcp://127.0.0.1:{free_port()}"
    with (
        started("serve", "small.toml", "--bind", head, "--local-replicas", 1, cwd=tmp_path) as serve,
        started("drive", "demo-surge", head, cwd=tmp_path) as drive,
    ):
        time.sleep(4.0)
        serve.kill()
        out, err = drive.communicate(timeout=20)
    assert drive.returncode == 1
    assert "fleet: the head is lost: silent for 3 s; " in err
    assert "were never sent" in err
    assert "the head is gone: silent for 3 s" in out.partition("not completed")[2]


@pytest.mark.live
def test_a_head_replicas_and_a_client_meet_with_keys(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SERVED)
    keys = {name: _made_key(name, tmp_path) for name in ("head", "replica", "client")}
    (tmp_path / "allow.toml").write_text(
        f'[[peers]]\nkey = \'{keys["replica"]}\'\nhosts = ["replica/*", "host/*"]\n\n'
        f"[[peers]]\nkey = '{keys['client']}'\nhosts = [\"client/*\"]\n"
    )
    head = f"tcp://127.0.0.1:{free_port()}"
    security = ("--server-key", keys["head"])
    with (
        started(
            "serve",
            "small.toml",
            "--bind",
            head,
            "--keys",
            "head.toml",
            "--allow",
            "allow.toml",
            "--json",
            cwd=tmp_path,
        ) as serve,
        started("join", head, "--keys", "replica.toml", *security, cwd=tmp_path) as join,
    ):
        driven = subprocess.run(
            [
                *FLEET,
                "drive",
                "demo-surge",
                head,
                "--first-s",
                "2",
                "--speed",
                "2",
                "--json",
                "--keys",
                "client.toml",
                *security,
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        serve.send_signal(signal.SIGINT)
        out, err = serve.communicate(timeout=20)
        join.wait(timeout=20)
    assert driven.returncode == 0, driven.stderr
    summary = json.loads(driven.stdout)["summary"]
    assert summary["completed"] == summary["submitted"] > 0
    assert serve.returncode == 0, err
    assert json.loads(out)["outcomes"] == {"completed": summary["completed"]}
    assert join.returncode == 0


def _made_key(name: str, folder: Path) -> str:
    done = subprocess.run(
        [*FLEET, "keys", f"{name}.toml"], cwd=folder, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


@pytest.mark.live
def test_a_client_that_finds_no_head_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [*FLEET, "drive", "demo-surge", f"tcp://127.0.0.1:{free_port()}", "--first-s", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no head answered" in done.stderr
