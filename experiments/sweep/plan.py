"""What a sweep is, in ``plan.json`` of its folder: who goes on with it must be the same sweep, and alone.

The one thing to know: two plans are one sweep if every run of theirs is the same. Constraints and objectives that only
say how the runs are read may change between them; those that steer a search may not.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

import msgspec
from msgspec import Struct

from experiments.saved_metrics import SavedMetric
from experiments.sweep.space import SweepError
from fleet.telemetry.documents import encoded
from traces.files import write_whole

PLAN, LOCK = "plan.json", "lock"
MOST_DIFFERENCES = 3
FORMAT = 1


class Plan(Struct, frozen=True, kw_only=True):
    """Everything that a sweep's runs depend on, and how they are read."""

    format: int = FORMAT
    traces: list[dict[str, Any]]  # Any: JSON values, here and below
    """By hash, with source and length: one for all seeds, or one for each."""
    spec: dict[str, Any]
    components: list[dict[str, Any]]
    """The code of the spec's components, by their places in it."""
    alternatives: list[dict[str, Any]]
    """Likewise of those that axes put in their place."""
    axes: list[dict[str, Any]]
    method: str
    search_seed: int
    seeds: list[int]
    metrics: list[SavedMetric]
    faults: list[str]
    """The hashes of the fault traces, as of `traces`."""
    sessions: bool
    keep_runs: bool
    versions: dict[str, str]
    objectives: list[str]
    where: list[str]
    files: dict[str, str] = {}
    """Where the files that the spec names were, by path within it: as this machine has them."""

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for this to be the same sweep."""
        document: dict[str, Any] = msgspec.json.decode(encoded(self))
        free = ("files",) if self.method.startswith("optuna") else ("files", "objectives", "where")
        return {name: value for name, value in document.items() if name not in free}


def load_plan(folder: Path) -> Plan:
    """The plan of a sweep's folder. Raises `SweepError` where there is none."""
    path = folder / PLAN
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except FileNotFoundError:
        raise SweepError(f"{folder}: holds no sweep (there is no {PLAN} in it)") from None
    except msgspec.MsgspecError as error:
        raise SweepError(f"{path}: is no plan of a sweep: {error}") from None


def settle(folder: Path, plan: Plan) -> None:
    """Write `plan`, or find that the one there is of the same sweep. Raises `SweepError` that names what differs."""
    if (folder / PLAN).exists():
        then, now = load_plan(folder).identity, plan.identity
        differences = [_in_words(*one) for one in _differences(then, now, "$")]
        if differences:
            more = len(differences) - MOST_DIFFERENCES
            said = "; ".join(differences[:MOST_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
            raise SweepError(f"{folder}: holds another sweep: {said}. Give another folder for this one")
    elif any(child.name != LOCK and not child.match(f".{PLAN}.*.part") for child in folder.iterdir()):
        raise SweepError(f"{folder}: holds other files, and no sweep; give a folder that is new or empty")
    write_whole(folder / PLAN, msgspec.json.format(encoded(plan)) + b"\n")


def sweep_up(folder: Path) -> None:
    """Remove what a process that was killed has left half written."""
    for left in list(folder.rglob(".*.part")):
        if left.is_dir():
            rmtree(left)
        else:
            left.unlink(missing_ok=True)


_Difference = tuple[str, object, object]
_NOTHING = object()


def _differences(then: Any, now: Any, path: str) -> Iterator[_Difference]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*then, *now]):
            yield from _differences(then.get(key, _NOTHING), now.get(key, _NOTHING), f"{path}.{key}")
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now) and path != "$.seeds":
        for number, (one, other) in enumerate(zip(then, now, strict=True)):
            yield from _differences(one, other, f"{path}[{number}]")
    elif then != now:
        yield path, then, now


def _in_words(path: str, then: object, now: object) -> str:
    said = ("nothing" if value is _NOTHING else msgspec.json.encode(value).decode() for value in (then, now))
    return "{} was {}, and is {} now".format(
        path, *(text if len(text) < 80 else f"{text[:77]}..." for text in said)
    )


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep every other sweep out of `folder`, which is made where it is missing, until the end of this process at most.

    Raises `SweepError` where one is under way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise SweepError(f"{folder}: is a file, not a folder") from None
    with (folder / LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SweepError(
                f"{folder}: another sweep is writing there; wait for it, or give another folder"
            ) from None
        yield
