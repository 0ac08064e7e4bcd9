"""Giving the requests of a trace what it does not say of them: a tenant, a user, a model, a priority, a capability.

Each column is drawn by a law from a random stream of its own, which the seed and the column's name make: to assign one
more changes none of the others. The header says the laws and the seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import Struct

from traces.errors import TraceError
from traces.schema import Scalar
from traces.transforms import AnyTrace, derived, with_column

ASSIGNABLE = ("model", "adapter", "tenant", "user", "priority", "capability")
PER_SESSION = ("model", "adapter", "tenant", "user")
"""What a session keeps, unless told otherwise."""
Per = Literal["request", "session", "user"]


class Law(Struct, frozen=True):
    """Values and how likely each is."""

    name: str
    """As it is written on record: `zipf:20:1.1`."""
    values: tuple[str | int, ...]
    shares: tuple[float, ...]


def zipf(count: int, exponent: float = 1.0, prefix: str | None = None) -> Law:
    """`count` values, the k-th with a probability in proportion to k^-exponent; named `PREFIX-0`, `PREFIX-1`, ….

    Without `prefix` they are named by the column that they are for.
    """
    if count < 1 or not math.isfinite(exponent):
        raise TraceError(f"zipf({count}, {exponent}) is not possible", remedy="give a count of 1 or more")
    weights = [1.0 / rank**exponent for rank in range(1, count + 1)]
    named = "" if prefix is None else f":{prefix}"
    return Law(f"zipf:{count}:{exponent:g}{named}", _names(count, prefix), _shares(weights))


def uniform(count: int, prefix: str | None = None) -> Law:
    """`count` values, all as likely; named as those of `zipf`."""
    if count < 1:
        raise TraceError(f"uniform({count}) is not possible", remedy="give a count of 1 or more")
    named = "" if prefix is None else f":{prefix}"
    return Law(f"uniform:{count}{named}", _names(count, prefix), _shares([1.0] * count))


def choice(shares: Mapping[str, float] | Mapping[int, float]) -> Law:
    """These values, each with a probability in proportion to its share."""
    if not shares or any(not (math.isfinite(share) and share >= 0) for share in shares.values()):
        raise TraceError(f"choice({dict(shares)}) is not possible", remedy="give shares of 0 and more")
    if not sum(shares.values()):
        raise TraceError(f"choice({dict(shares)}) is not possible", remedy="some share must be above 0")
    written = ",".join(f"{value}={share:g}" for value, share in shares.items())
    return Law(f"choice:{written}", tuple(shares), _shares(list(shares.values())))


def law_of(text: str) -> Law:
    """A law as it is written: ``zipf:20:1.1``, ``uniform:8``, ``choice:chat=0.7,code=0.3``; else that value for all."""
    kind, _, rest = text.partition(":")
    parts = rest.split(":")
    try:
        if kind == "zipf":
            exponent = float(parts[1]) if len(parts) > 1 else 1.0
            return zipf(int(parts[0]), exponent, parts[2] if len(parts) > 2 else None)
        if kind == "uniform":
            return uniform(int(parts[0]), *parts[1:2])
        if kind == "choice":
            pairs = [pair.rpartition("=") for pair in rest.split(",")]
            return choice({value: float(share) for value, _, share in pairs})
    except (ValueError, TypeError):
        remedy = "write zipf:COUNT:EXPONENT, uniform:COUNT, or choice:VALUE=SHARE,VALUE=SHARE"
        raise TraceError(f"{text!r} is no law", remedy=remedy) from None
    return Law(text, (text,), (1.0,))


def assign(
    trace: AnyTrace,
    *,
    seed: int = 0,
    per: Per | None = None,
    overwrite: bool = False,
    **laws: Law | str | int,
) -> AnyTrace:
    """`trace` with these columns drawn by these laws, each request by itself or all of a session or a user alike.

    Args:
        trace: Whose requests they are.
        seed: Of all columns.
        per: Whose value is drawn; None: of a session what a session keeps (model, adapter, tenant, user), of a request
            the others. A request without a session, or a user, is drawn by itself.
        overwrite: Replace what the trace has; without it that is an error.
        laws: By column (`model`, `adapter`, `tenant`, `user`, `priority`, `capability`, which goes into `extra`), a law
            of `zipf`, `uniform` or `choice`, its text, or one value for all.

    Raises:
        TraceError: No such column, a column that the trace has already, or a law that is none.
    """
    table = trace.table
    given: dict[str, Scalar] = {}
    for name, said in laws.items():
        if name not in ASSIGNABLE:
            raise TraceError(
                f"assign({name}=...) is not possible", remedy=f"give one of {', '.join(ASSIGNABLE)}"
            )
        law = said if isinstance(said, Law) else law_of(str(said))
        if not overwrite and _has(table, name):
            raise TraceError(f"the trace has {name} already", remedy="overwrite=True replaces it")
        how: Per = per or ("session" if name in PER_SESSION else "request")
        values = _draw(table, name, law, seed, how)
        if name == "capability":
            table = _with_capability(table, values)
        else:
            table = with_column(table, name, _cells(name, values))
        given[name] = law.name
    return derived(trace, table, "assign", seed, per=per, overwrite=overwrite or None, **given)


def _draw(table: pa.Table, name: str, law: Law, seed: int, per: Per) -> list[str | int]:
    """One value for each request."""
    digest = blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    keys: list[Any] = [None] * len(table)  # Any: a session's or a user's name
    if per != "request" and per in table.column_names:
        keys = table[per].to_pylist()
    names = [str(value) if not isinstance(value, int) else value for value in law.values]
    numbered = [
        f"{name}{value}" if isinstance(value, str) and value.startswith("-") else value for value in names
    ]
    drawn = rng.choice(len(numbered), size=len(keys), p=law.shares).tolist()
    first: dict[Any, int] = {}
    return [
        numbered[number if key is None else first.setdefault(key, number)]
        for key, number in zip(keys, drawn, strict=True)
    ]


def _cells(name: str, values: list[str | int]) -> pa.Array:
    if name != "priority":
        return pa.array([str(value) for value in values], pa.string())
    try:
        return pa.array([int(value) for value in values], pa.int64())
    except ValueError:
        raise TraceError("a priority is a whole number", remedy="choice:0=0.9,1=0.1") from None


def _has(table: pa.Table, name: str) -> bool:
    if name == "capability":
        return any('"capability"' in (text or "") for text in _extras(table))
    return name in table.column_names and table[name].null_count < len(table)


def _extras(table: pa.Table) -> list[str | None]:
    return table["extra"].to_pylist() if "extra" in table.column_names else [None] * len(table)


def _with_capability(table: pa.Table, values: list[str | int]) -> pa.Table:
    cells = []
    for text, value in zip(_extras(table), values, strict=True):
        extra = {} if text is None else msgspec.json.decode(text)
        cells.append(msgspec.json.encode({**extra, "capability": str(value)}, order="sorted").decode())
    return with_column(table, "extra", pa.array(cells, pa.string()))


def _names(count: int, prefix: str | None) -> tuple[str, ...]:
    return tuple(f"{prefix or ''}-{number}" for number in range(count))


def _shares(weights: list[float]) -> tuple[float, ...]:
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)
