"""Giving the requests of a trace what it does not say of them: a tenant, a user, a model, a priority, a capability.

Each column is drawn by a law from a random stream of its own, which the seed and the column's name make: to assign one
more changes none of the others. The header says the laws and the seed.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from traces.errors import TraceError
from traces.laws import Law, is_whole, law_of
from traces.recipe import recorded
from traces.schema import Scalar
from traces.transforms import AnyTrace, derived, groups, with_column

ASSIGNABLE = ("model", "adapter", "tenant", "user", "priority", "capability")
PER_SESSION = ("model", "adapter", "tenant", "user")
"""What a session keeps, unless told otherwise."""
Per = Literal["request", "session", "user"]


@recorded("Trace.assign")
def assign(
    trace: AnyTrace,
    *,
    seed: int = 0,
    per: Per | None = None,
    overwrite: bool = False,
    **laws: Law | str | int,
) -> AnyTrace:
    """`trace` with these columns drawn by these laws, each request by itself or all of a session or a user alike.

    Shares are of what is drawn: with ``per="session"``, of sessions. A prefix of the trace is given the same as the
    whole is given there.

    Args:
        trace: Whose requests they are.
        seed: Of all columns.
        per: Who has one value of each column. None: a session, where the trace has any, of what a session keeps
            (model, adapter, tenant, user), and each request of the others. A request without a session, or a user, has
            a value of its own. With "user", users are drawn first, as by default.
        overwrite: Replace what the trace has; without it that is an error.
        laws: By column (`model`, `adapter`, `tenant`, `user`, `priority`, `capability`, which goes into `extra`), a law
            of `zipf`, `uniform` or `choice`, its text, or one value for all.

    Raises:
        TraceError: No law or no such column, a column that the trace has already, a law that is none, a priority that
            is no whole number, or a `per` of which the trace has none.
    """
    if not laws:
        raise TraceError("assign() needs a law", remedy="assign(tenant=zipf(20, 1.1))")
    if not is_whole(seed):
        raise TraceError(f"assign(seed={seed!r}) is not possible", remedy="give a whole number from 0 on")
    if per is not None and per not in get_args(Per):
        raise TraceError(f"assign(per={per!r}) is not possible", remedy=f"one of {', '.join(get_args(Per))}")
    known = {name: _law_for(name, said) for name, said in laws.items()}
    table = trace.table
    for name in sorted(known, key=lambda name: name != "user"):  # a user may be whom the others are drawn for
        if not overwrite and _has(table, name):
            remedy = "overwrite=True (--assign-overwrite) replaces it"
            raise TraceError(f"the trace has a column {name} already", remedy=remedy)
        table = _with_column(
            table, name, known[name].values_of(name), _drawn(table, name, known[name], seed, per)
        )
    given: dict[str, Scalar] = {name: law.text for name, law in known.items()}
    return derived(trace, table, "assign", seed, per=per, overwrite=overwrite or None, **given)


def _law_for(name: str, said: Law | str | int) -> Law:
    if name not in ASSIGNABLE:
        raise TraceError(f"assign({name}=...) is not possible", remedy=f"give one of {', '.join(ASSIGNABLE)}")
    return law_of(said)


# --- what is drawn -----------------------------------------------------------------------------------------------


def _drawn(table: pa.Table, name: str, law: Law, seed: int, per: Per | None) -> npt.NDArray[np.int64]:
    """For each request the number of its value."""
    bound = np.cumsum(law.shares)
    drawn = np.searchsorted(bound / bound[-1], _stream(seed, name).random(len(table)), side="right")
    one = _who(table, name, per)
    if one is not None:  # its first request draws for all
        _, first, member = np.unique(groups(table, one), return_index=True, return_inverse=True)
        drawn = drawn[first][member]
    return drawn.astype(np.int64)


def _stream(seed: int, name: str) -> np.random.Generator:
    """An independent generator for each column of one seed: PCG64, so the same on every machine."""
    digest = blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def _who(table: pa.Table, name: str, per: Per | None) -> str | None:
    """The column of those who have one value each; None: every request has its own."""
    if per is None or (per == name == "user"):
        return "session" if name in PER_SESSION and "session" in table.column_names else None
    if per == "request":
        return None
    if per not in table.column_names:
        raise TraceError(
            f"assign(per={per!r}) is not possible: the trace has no {per}s", remedy=_WITHOUT[per]
        )
    return per


_WITHOUT: dict[Per, str] = {
    "session": "leave per out, or link what its prefixes tell with sessions(infer=True)",
    "user": 'assign users too, as in assign(user=uniform(100), tenant=uniform(5), per="user")',
}


# --- where it goes -----------------------------------------------------------------------------------------------


def _has(table: pa.Table, name: str) -> bool:
    if name != "capability":
        return name in table.column_names and table[name].null_count < len(table)
    return any(extra.get("capability") is not None for extra in map(_fields, _extras(table)))


def _with_column(
    table: pa.Table, name: str, values: tuple[str | None, ...], drawn: npt.NDArray[np.int64]
) -> pa.Table:
    """The table with the drawn ones of these values."""
    if name == "priority":
        return with_column(table, name, _priorities(values).take(pa.array(drawn)))
    if name != "capability":
        return with_column(table, name, pa.array(values, pa.string()).take(pa.array(drawn)))
    extras = [
        _extra(text, values[number]) for text, number in zip(_extras(table), drawn.tolist(), strict=True)
    ]
    return with_column(table, "extra", pa.array(extras, pa.string()))


def _priorities(values: tuple[str | None, ...]) -> pa.Array:
    try:
        return pa.array([None if value is None else int(value) for value in values], pa.int64())
    except (ValueError, OverflowError):  # no number, or beyond 64 bits
        raise TraceError("a priority is a whole number", remedy="priority=choice({0: 0.9, 1: 0.1})") from None


def _extras(table: pa.Table) -> list[str | None]:
    return table["extra"].to_pylist() if "extra" in table.column_names else [None] * len(table)


def _fields(text: str | None) -> dict[str, Any]:  # Any: what JSON holds
    return {} if text is None else msgspec.json.decode(text, type=dict[str, Any])


def _extra(text: str | None, capability: str | None) -> str | None:
    """What there is, with this capability in place of the one that it may have had; None where nothing is left."""
    fields = _fields(text)
    fields.pop("capability", None)
    if capability is not None:
        fields["capability"] = capability
    return msgspec.json.encode(fields, order="sorted").decode() if fields else None
