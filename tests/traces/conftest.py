"""Reading bytes as a file."""

import itertools

import pytest

from traces import load_trace


@pytest.fixture(scope="session")
def reading(tmp_path_factory):
    """Write bytes to a file whose name says nothing, and load it with these options."""
    folder, numbers = tmp_path_factory.mktemp("reading"), itertools.count()

    def load(content, **options):
        path = folder / f"file{next(numbers)}"
        path.write_bytes(content)
        return load_trace(path, **options)

    return load
