"""`fleet again`: a saved run made anew, and whether the bytes agree."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from fleet.cli import inputs, output

if TYPE_CHECKING:
    from fleet import Run

EXIT_DIFFERENT = 1


def again(arguments: Namespace) -> int:
    """Build it, run it, compare."""
    from fleet.runs.again import again as run_it

    then = inputs.run_of(arguments.run_folder)
    _say_where(then)
    out = inputs.writable(arguments.out)
    with output.progress("simulating", len(then.records)) as advance:
        now = run_it(
            then, trace=arguments.trace, allow_changed=arguments.allow_changed, check=not arguments.no_check,
            on_progress=advance,
        )  # fmt: skip
    same = now.digest == then.digest
    if same:
        print(f"{arguments.run_folder}: run anew, and every byte agrees: digest {now.digest}")
    else:
        _print_differences(arguments.run_folder, then, now)
    if out is not None:
        output.note(f"saved in {now.save(out)}")
    return 0 if same else EXIT_DIFFERENT


def _print_differences(name: object, then: Run, now: Run) -> None:
    from fleet.telemetry.differences import JUDGED, differences

    found = differences(then, now)
    told = {difference.part for difference in found}
    agree = [part for part in (*JUDGED, "summary") if part not in told]
    print(f"{name}: run anew, and it differs: digest {then.digest} then, {now.digest} now")
    facts = [(difference.part, difference.what) for difference in found]
    output.print_facts([*facts, ("the same", ", ".join(agree) or "nothing")])


def _say_where(run: Run) -> None:
    origin = run.origin
    if origin is not None and origin.commit is not None:
        commit = origin.commit
        changed = ", with changes that were not committed" if commit.changed else ""
        output.note(f"made at commit {commit.commit[:12]} of {commit.repository}{changed}")
