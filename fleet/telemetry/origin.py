"""Where a run was made, and what it takes to make it again: what is beside its manifest, and in no digest.

The one thing to know: the same inputs give the same bytes wherever they are, so nothing here may count. Paths, the
command line and the commit are for whoever asks later where a result came from.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from msgspec import Struct

from fleet.telemetry.provenance import ComponentSource
from traces.recipe import Recipe

GIT_TIMEOUT_S = 5.0
_OURS = ("traces", "policies", "fleet", "experiments")
_INSTALLED = ("site-packages", "dist-packages")


class Commit(Struct, frozen=True):
    """What Git said of a repository when the first run of a process had ended."""

    repository: str
    commit: str
    changed: bool
    """Some file that Git tracks was not as committed. The sources of components have hashes of their own."""


class Origin(Struct, frozen=True, kw_only=True):
    """Where a run was made, by what command, and how its trace came to be."""

    recipe: Recipe | None = None
    """How to have its trace again. None: it was made of a table, or by a function, that is nowhere on record."""
    command: tuple[str, ...] = ()
    directory: str | None = None
    modules: dict[str, str] = {}
    """The files of those modules that are no part of fleetlab and have components in them."""
    commit: Commit | None = None
    """Of the repository that the first of these files is in, or else the directory."""


def origin_of(components: Iterable[ComponentSource], recipe: Recipe | None) -> Origin:
    """Of a run that has just ended in this process."""
    modules, directory = _modules(components), _directory()
    own = [Path(file).parent for file in modules.values() if not set(_INSTALLED) & set(Path(file).parts)]
    folder = own[0] if own else directory
    return Origin(
        recipe=recipe,
        command=tuple(sys.argv),
        directory=None if directory is None else str(directory),
        modules=modules,
        commit=None if folder is None else _commit_of(folder),
    )


def _modules(components: Iterable[ComponentSource]) -> dict[str, str]:
    names = dict.fromkeys(item.component.partition(":")[0] for item in components)
    files = {
        name: getattr(sys.modules.get(name), "__file__", None)
        for name in names
        if name.partition(".")[0] not in _OURS
    }
    return {name: str(Path(file).absolute()) for name, file in files.items() if file}


def _directory() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # somebody has removed it
        return None


@cache
def _commit_of(folder: Path) -> Commit | None:
    """Asked of Git once for each repository: what a process has imported does not change under it either."""
    repository = next((parent for parent in (folder, *folder.parents) if (parent / ".git").exists()), None)
    return None if repository is None else _asked(repository)


@cache
def _asked(repository: Path) -> Commit | None:
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(repository), "status",
               "--porcelain=v2", "--branch", "--untracked-files=no"]  # fmt: skip
    elsewhere = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=elsewhere, timeout=GIT_TIMEOUT_S, check=True
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):  # there is no Git, or it does not trust the folder
        return None
    lines = done.stdout.decode(errors="replace").splitlines()
    commits = [line.split()[-1] for line in lines if line.startswith("# branch.oid ")]
    if not commits or commits[0] == "(initial)":
        return None
    return Commit(str(repository), commits[0], any(not line.startswith("#") for line in lines))
