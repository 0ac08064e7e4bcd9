"""One trace for many processes: an Arrow file that each of them maps into its memory, in place of a copy for each.

The one thing to know: `SharedTrace` is small and goes to the others in the trace's place. What is in the file was
checked when the trace was made, and is not checked again.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pyarrow as pa
from msgspec import Struct

from traces.files import replacing
from traces.recipe import Recipe
from traces.schema import Header
from traces.trace import Trace

KEPT_OPEN = 64
"""Files of a process: where arrivals are drawn anew, there is one for each seed."""


class SharedTrace(Struct, frozen=True):
    """Where the columns of a trace lie, and what else it is."""

    path: str
    header: Header
    sha256: str
    recipe: Recipe | None

    def open(self) -> Trace:
        """The trace; its columns are the file's own pages."""
        return Trace(_mapped(self.path), self.header, recipe=self.recipe, sha256=self.sha256)


def share(trace: Trace, folder: Path) -> SharedTrace:
    """Write the columns of `trace` into `folder`, in a file named by their hash, unless it is there already."""
    path = folder / f"{trace.sha256}.arrow"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as sink, pa.ipc.new_file(sink, trace.table.schema) as file:
            file.write_table(trace.table)
    return SharedTrace(str(path.absolute()), trace.header, trace.sha256, trace.recipe)


@lru_cache(KEPT_OPEN)
def _mapped(path: str) -> pa.Table:
    with pa.memory_map(path) as source:
        return pa.ipc.open_file(source).read_all()
