"""What `traces` exports, what importing it costs, and that its documentation runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import traces

ROOT = Path(__file__).resolve().parents[2]


def test_everything_named_is_there_and_nothing_else_is_promised():
    assert traces.__all__ == sorted(set(traces.__all__), key=lambda name: (name.islower(), name))
    for name in traces.__all__:
        assert getattr(traces, name).__module__.startswith("traces.")
    assert set(traces.__all__) == {name for names in traces._HOMES.values() for name in names}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        traces.nothing  # noqa: B018


def test_importing_the_schema_loads_nothing_heavy():
    heavy = {"numpy", "pyarrow", "asyncio", "scipy", "traces.trace"}
    code = "import sys, traces; from traces import Request, Fault; print(*sys.modules)"

    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())

    assert "traces.schema" in loaded
    assert not loaded & heavy


def test_each_export_can_be_the_first_thing_imported():
    code = """
import importlib, sys
for home in sys.argv[1:]:
    for loaded in [name for name in sys.modules if name.split(".")[0] == "traces"]:
        del sys.modules[loaded]
    importlib.import_module(home)
"""
    subprocess.run([sys.executable, "-c", code, *traces._HOMES], cwd=ROOT, check=True)


def test_the_snippets_of_the_documentation_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "traces.md").read_text(), re.M | re.S)

    assert snippets
    scope = {}
    for snippet in snippets:
        exec(snippet, scope)
