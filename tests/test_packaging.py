"""The distribution is what it says: its own four packages, light to import, nothing beneath its floor."""

import ast
import importlib
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Set
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import grimp  # what import-linter reads imports with
import pytest

from tests.conftest import ROOT

PACKAGES = ["experiments", "fleet", "policies", "traces"]
POLICY_FILES = sorted((ROOT / "policies").rglob("*.py"))
# In the standard library, but not for a decision: threads, processes, sockets, event loops.
NOT_FOR_POLICIES = {
    "asyncio", "concurrent", "multiprocessing", "selectors", "signal", "socket", "subprocess", "threading"
}  # fmt: skip
MAY_IMPORT = (set(sys.stdlib_module_names) - NOT_FOR_POLICIES) | {"msgspec", "policies", "traces"}


def modules_loaded_by(package: str) -> set[str]:
    """Top-level modules that `import package` adds to those of a bare interpreter, in a fresh process."""
    script = (
        "import sys; before = set(sys.modules)\n"
        f"import {package}\n"
        "import json; print(json.dumps(sorted({m.partition('.')[0] for m in set(sys.modules) - before})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def imported_roots(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("name", PACKAGES)
def test_each_package_is_ours_and_not_a_namesake(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None, f"{name} has no __init__.py"
    found = Path(module.__file__).resolve()
    installed = importlib.metadata.files("fleetlab") or []
    assert found in {ROOT / name / "__init__.py"} | {Path(file.locate()).resolve() for file in installed}


def test_the_command_is_fleet() -> None:
    scripts = importlib.metadata.distribution("fleetlab").entry_points.select(group="console_scripts")
    assert {script.name: script.value for script in scripts} == {"fleet": "fleet.cli:main"}
    assert callable(next(iter(scripts)).load())


def test_importing_policies_loads_no_event_loop_no_transport_and_no_arrays() -> None:
    loaded = modules_loaded_by("policies.registry as registry; registry.classes(registry.Policy)")
    assert {"policies", "msgspec"} <= loaded
    assert not loaded & {"asyncio", "zmq", "torch", "numpy", "pyarrow", "scipy", "anyio", "rich", "fleet"}


def test_importing_fleet_loads_no_torch() -> None:
    loaded = modules_loaded_by("fleet")
    assert "fleet" in loaded
    assert not loaded & {"torch", "transformers", "matplotlib", "experiments"}


def circle(imports: Mapping[str, Set[str]]) -> list[str]:
    """Modules that import each other in a circle, the first one again at the end; empty where there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def test_no_modules_import_each_other_in_a_circle() -> None:
    # Imports within functions and for type checkers alone count: who reads one module must read the other.
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    found = circle({module: graph.find_modules_directly_imported_by(module) for module in graph.modules})
    assert not found, " imports ".join(found)


def test_a_circle_of_imports_is_found_and_told_in_the_order_of_importing() -> None:
    found = circle({"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set()})
    assert sorted(found[:-1]) == ["a", "b", "c"]
    assert found[0] == found[-1]
    assert ("b", "c") in pairwise(found)


@pytest.mark.parametrize("path", POLICY_FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_policy_imports_the_standard_library_msgspec_and_traces_only(path: Path) -> None:
    # The conformance kit offers a pytest decorator; it imports pytest only when that is called.
    # What `policies` exports is loaded when it is first asked for.
    exceptions = {"testing.py": {"pytest"}, "__init__.py": {"lazy_loader"}}
    allowed = MAY_IMPORT | exceptions.get(path.name, set())
    assert set(imported_roots(path)) <= allowed
