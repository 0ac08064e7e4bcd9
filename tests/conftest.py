"""What every test may use: the public traces, hypothesis profiles, and skips that say what is missing."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED_TRACES = ROOT.parent / "shared" / "traces"

# No deadline in either profile: a machine shared with other work makes one example slow now and then.
# The same examples each time, so that a red test is red again for whoever looks; HYPOTHESIS_PROFILE=explore searches.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.fixture(scope="session")
def shared_trace() -> Callable[[str], Path]:
    """Path of a public trace, as in `shared_trace("mooncake/conversation_trace.jsonl")`; skips if absent."""

    def find(name: str) -> Path:
        path = SHARED_TRACES / name
        if not path.exists():
            pytest.skip(f"../shared/traces/{name} is absent")
        return path

    return find


@functools.cache
def _has_gpu() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot run. Asked per test, so that torch loads only where a test needs it."""
    if item.get_closest_marker("traces") and not SHARED_TRACES.is_dir():
        pytest.skip("../shared/traces is absent")
    if item.get_closest_marker("gpu") and not _has_gpu():
        pytest.skip("torch finds no CUDA device")
