"""`Trace`: requests in the order of their arrival, held as columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
from msgspec.structs import replace

from traces import assignment, closed_loop, length_scaling, transforms
from traces.assignment import Per
from traces.columns import absent, canonical, digest
from traces.entries import entries_of, table_of
from traces.errors import ReadReport
from traces.laws import Law
from traces.notebook import html_table
from traces.recipe import Recipe
from traces.schema import Header, TraceEntry, Transform


class Trace:
    """An immutable sequence of requests, sorted by arrival, with the header that says where they come from.

    Iterating builds one `TraceEntry` a row, lazily. Every transform returns a new trace and is written into
    its header, so a trace says how it came to be.

    Args:
        table: Columns as `traces.columns.COLUMNS` names them; `arrived_s` is required, `id` defaults to the
            row number. Sorted by arrival here, rows of one instant in the order given.
        header: Source, licence, citation, provenance, transforms.
        report: What became of the rows of the file that the trace was read from.
        recipe: How it came to be, call by call; whoever makes a trace of a table need not know.
        sha256: Of a table that another trace had, that trace's: nothing of it is checked or sorted again.

    Raises:
        TraceError: A value out of its bounds, an unknown column, two requests with one id.
    """

    __slots__ = ("_header", "_recipe", "_report", "_sha256", "_table")

    def __init__(
        self,
        table: pa.Table,
        header: Header,
        report: ReadReport | None = None,
        recipe: Recipe | None = None,
        *,
        sha256: str | None = None,
    ) -> None:
        self._table, reordered = canonical(table) if sha256 is None else (table, 0)
        self._header = header
        rows = self._table.num_rows
        self._report = report or ReadReport(rows_in=rows, rows_kept=rows, reordered=reordered)
        self._sha256 = sha256
        self._recipe = recipe

    @classmethod
    def from_entries(cls, entries: Iterable[TraceEntry], header: Header | None = None) -> Trace:
        """A trace of the given entries, which need not be sorted."""
        return cls(table_of(entries), header or Header(source="in memory", provenance="synthetic"))

    @property
    def table(self) -> pa.Table:
        """The columns that hold any value, in canonical order; a column that is absent has none."""
        return self._table

    @property
    def header(self) -> Header:
        """Where the trace comes from and what was done to it."""
        return self._header

    @property
    def report(self) -> ReadReport:
        """How the file was read that this trace, or the trace it was derived from, came out of."""
        return self._report

    @property
    def recipe(self) -> Recipe | None:
        """How it came to be, call by call: from a file, or a law and a seed. None where that is not on record."""
        return self._recipe

    @property
    def sha256(self) -> str:
        """Hash of every value (`traces.columns.digest`), not of the header: equal requests hash equally."""
        if self._sha256 is None:
            self._sha256 = digest(self._table)
        return self._sha256

    @property
    def duration_s(self) -> float:
        """Seconds from the start of the trace, time 0, to the last arrival; 0 for an empty trace."""
        return float(self._table["arrived_s"][-1].as_py()) if len(self) else 0.0

    @property
    def start_s(self) -> float:
        """The first arrival; 0 for an empty trace. What a reader shifted begins at 0."""
        return float(self._table["arrived_s"][0].as_py()) if len(self) else 0.0

    @property
    def rate_per_s(self) -> float | None:
        """Arrivals a second from the first to the last; None where all are one instant's: that has no rate."""
        span_s = self.duration_s - self.start_s
        return len(self) / span_s if span_s > 0 else None

    def column(self, name: str) -> pa.ChunkedArray:
        """One column, all nulls where the trace does not have it. `KeyError` if no trace does."""
        if name in self._table.column_names:
            return self._table[name]
        return pa.chunked_array([absent(name, len(self))])

    def entries(self) -> Iterator[TraceEntry]:
        """The rows in order of arrival, built lazily."""
        return entries_of(self._table)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[TraceEntry]:
        return entries_of(self._table)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Trace):
            return NotImplemented
        return self.sha256 == other.sha256 and self._header == other._header

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __repr__(self) -> str:
        return f"<Trace {self._header.source!r}: {len(self):,} requests in {self.duration_s:,.1f} s>"

    def _repr_html_(self) -> str:
        header, rate_per_s = self._header, self.rate_per_s
        return html_table(
            f"Trace {header.source}",
            [
                ("requests", f"{len(self):,}"),
                ("seconds", f"{self.duration_s:,.1f}"),
                ("requests a second", None if rate_per_s is None else f"{rate_per_s:,.3g}"),
                ("columns", ", ".join(self._table.column_names)),
                ("provenance", header.provenance),
                ("licence", header.licence),
                ("transforms", ", ".join(step.name for step in header.transforms) or None),
            ],
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (Trace, (self._table, self._header, self._report, self._recipe))

    def made_by(self, recipe: Recipe | None) -> Trace:
        """The same requests and header with this recipe."""
        return self._but(_recipe=recipe)

    def headed(self, header: Header) -> Trace:
        """The same requests, and the same recipe, under this header."""
        return self._but(_header=header)

    def _but(self, **changed: Header | ReadReport | Recipe | None) -> Trace:
        """A copy in which these are other ones; the table has been checked."""
        copy = object.__new__(Trace)
        for name in self.__slots__:
            setattr(copy, name, changed.get(name, getattr(self, name)))
        return copy

    def reported(self, report: ReadReport) -> Trace:
        """The same requests, with this account of how they were read."""
        return self._but(_report=report)

    def derived(self, table: pa.Table, step: Transform, *, moved_s: float = 0.0) -> Trace:
        """A trace of other rows: this one's header and one step more, time 0 `moved_s` later in the recording."""
        provenance = "derived" if self._header.provenance == "recorded" else self._header.provenance
        header = replace(
            self._header,
            provenance=provenance,
            offset_s=self._header.offset_s + moved_s,
            transforms=(*self._header.transforms, step),
        )
        return Trace(table, header, self._report)

    def first(self, *, seconds: float | None = None, requests: int | None = None) -> Trace:
        """The requests that arrive before `seconds`, at most `requests` of them."""
        return transforms.first(self, seconds=seconds, requests=requests)

    def slice(self, start_s: float, end_s: float, *, rebase: bool = True) -> Trace:
        """The requests with ``start_s <= arrived_s < end_s``; `rebase` moves `start_s` to time 0."""
        return transforms.slice(self, start_s, end_s, rebase=rebase)

    def scale_rate(self, factor: float) -> Trace:
        """`factor` times as many arrivals a second; durations, think times included, stay as they are."""
        return transforms.scale_rate(self, factor)

    def scale_time(self, factor: float) -> Trace:
        """The users' clock `factor` times as slow: arrivals and think times grow, deadlines do not."""
        return transforms.scale_time(self, factor)

    def filter(self, where: pa.compute.Expression) -> Trace:
        """The rows for which a pyarrow expression holds, such as ``pc.field("prompt_tokens") < 4096``."""
        return transforms.filter(self, where)

    def merge(self, *others: Trace, share_blocks: bool | None = None) -> Trace:
        """This trace and others on one time axis; see `traces.transforms.merge`."""
        return transforms.merge(self, *others, share_blocks=share_blocks)

    def upsample(self, factor: float, *, seed: int) -> Trace:
        """`factor` times the requests in the same time and shape; see `traces.transforms.upsample`."""
        return transforms.upsample(self, factor, seed=seed)

    def dequantise(self, *, tick_s: float, seed: int) -> Trace:
        """Requests of one instant spread over the tick of the clock that stamped them."""
        return transforms.dequantise(self, tick_s=tick_s, seed=seed)

    def scale_lengths(
        self,
        factor: float = 1.0,
        *,
        max_prompt_tokens: int | None = None,
        max_output_tokens: int | None = None,
        output_factor: float | None = None,
    ) -> Trace:
        """Prompts, their blocks and outputs `factor` times as long, then cut; see `traces.length_scaling`."""
        return length_scaling.scale_lengths(
            self, factor, max_prompt_tokens=max_prompt_tokens, max_output_tokens=max_output_tokens,
            output_factor=output_factor,
        )  # fmt: skip

    def assign(
        self, *, seed: int = 0, per: Per | None = None, overwrite: bool = False, **laws: Law | str | int
    ) -> Trace:
        """The same requests with a tenant, user, model, priority or capability drawn; see `traces.assignment`."""
        return assignment.assign(self, seed=seed, per=per, overwrite=overwrite, **laws)

    def sessions(self, *, infer: bool = False) -> Trace:
        """Requests that share a session follow each other, `think_s` after the answer; see `traces.closed_loop`."""
        return closed_loop.sessions(self, infer=infer)

    def with_slo(
        self, *, e2e_s: float | None = None, ttft_s: float | None = None, tpot_s: float | None = None
    ) -> Trace:
        """The same requests, all with this service-level objective."""
        return transforms.with_slo(self, e2e_s=e2e_s, ttft_s=ttft_s, tpot_s=tpot_s)

    def with_deadline(self, seconds: float) -> Trace:
        """The same requests, all with a deadline `seconds` after arrival."""
        return transforms.with_deadline(self, seconds)

    def with_work(self, ordinary_s: float) -> Trace:
        """Every request with the work that its recorded time says: `observed.e2e_s` over `ordinary_s`."""
        return transforms.with_work(self, ordinary_s)
