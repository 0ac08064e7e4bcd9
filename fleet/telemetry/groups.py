"""What the requests of a run can be told apart by: its columns, what served them, and fields of a user's own.

The one thing to know: a name is looked for among the columns of the records, then among what pools say of themselves,
then in the `extra` of the trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fleet.pools import DEFAULT, pool_of

OF_POOLS = ("pool", "model", "version", "variant", "device")
"""What pools say of themselves."""
OF_RUNS = (*OF_POOLS, "replica", "outcome", "attempts", "batch_size", "cold", "slo_met", "preemptions")
"""What a run can be grouped by whatever the trace has."""
Group: TypeAlias = tuple[Any, ...]  # Any: texts, numbers, or None
Values: TypeAlias = Any  # an Arrow array, whose stubs are partial


def groups_of(columns: Sequence[str], records: pa.Table, pools: pa.Table) -> dict[Group, pa.Array]:
    """The rows of each combination of values of `columns` that there is, in the order of the values, null last.

    Raises `ValueError` that says what there is to group by.
    """
    rows_of = rows_by_group(keys_of(columns, records, pools))
    return {group: rows_of[group] for group in sorted(rows_of, key=null_last)}


def group_label(columns: Sequence[str], group: Group) -> str:
    """A group in words: ``tenant=a``, ``tenant=a, priority=1``; ``no tenant`` for those without one."""
    return ", ".join(
        f"no {name}" if value is None else f"{name}={_word(value)}"
        for name, value in zip(columns, group, strict=True)
    )


def _word(value: object) -> str:
    """A value in a label; in quotes where it could be taken for two, so that no two groups have one label."""
    text = _text(value)
    return msgspec.json.encode(text).decode() if ", " in text or text.startswith('"') else text


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def keys_of(columns: Sequence[str], records: pa.Table, pools: pa.Table) -> dict[str, Values]:
    """What each request is grouped by, column by column. Raises `ValueError` that says what there is."""
    if not columns:
        raise ValueError(f"name at least one column; there are {', '.join(_known(records, pools))}")
    return {name: _key(name, records, pools) for name in columns}


def rows_by_group(keys: dict[str, Values]) -> dict[Group, pa.Array]:
    """The rows of each combination of values."""
    first = next(iter(keys.values()))
    numbered = pa.table({**keys, "row": pa.array(np.arange(len(first)))})
    grouped = numbered.group_by(list(keys), use_threads=False).aggregate([("row", "list")])
    groups = zip(*(grouped[name].to_pylist() for name in keys), strict=True)
    return {group: rows.values for group, rows in zip(groups, grouped["row_list"], strict=True)}


def null_last(group: Group) -> tuple[tuple[bool, Any], ...]:  # Any: see `Group`
    """To sort groups by: the order of their values, none last."""
    return tuple((value is None, "" if value is None else value) for value in group)


def _key(name: str, records: pa.Table, pools: pa.Table) -> Values:
    """What each request is grouped by."""
    if name == "model" and ("model" in records.column_names or len(pools)):
        return models_of(records, pools)
    if name == "pool":
        return _pool(records)
    if name in _columns(records):
        return records[name].combine_chunks()
    if name in OF_POOLS and len(pools):
        return _said(name, records, pools)
    own = _own(name, records)
    if own is None:
        known = ", ".join(_known(records, pools))
        raise ValueError(f"{name!r} is nothing to group requests by; there are {known}")
    return own


def _known(records: pa.Table, pools: pa.Table) -> list[str]:
    """What can be grouped by."""
    return list(dict.fromkeys([*grouping_columns(records), "pool", *(OF_POOLS if len(pools) else ())]))


def grouping_columns(table: pa.Table) -> list[str]:
    """What of these records, or of this trace, requests can be grouped by; fields of a user's own come last."""
    own = sorted({name for fields in _own_fields(table) for name in fields or ()})
    return [*_columns(table), *own]


def _columns(records: pa.Table) -> list[str]:
    """Those of the records that are no measurement and not of one request alone."""
    return [
        field.name
        for field in records.schema
        if not (pa.types.is_floating(field.type) or pa.types.is_nested(field.type))
        and field.name not in ("id", "detail", "extra")
    ]


def _own(name: str, records: pa.Table) -> Values | None:
    """A field of a user's own as text, from `extra`; None: no request has one of this name."""
    fields = _own_fields(records)
    found = [None if one is None else one.get(name) for one in fields]
    texts = [None if value is None else _text(value) for value in found]
    return pa.array(texts, pa.string()) if any(text is not None for text in texts) else None


def _own_fields(records: pa.Table) -> list[dict[str, Any] | None]:  # Any: JSON scalars
    if "extra" not in records.column_names:
        return []
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    return [None if text is None else decode(text) for text in records["extra"].to_pylist()]


def _pool(records: pa.Table) -> Values:
    """Which pool served each request, or was to; null: none."""
    if "pool" in records.column_names:
        return records["pool"].combine_chunks()
    replicas = records["replica"].combine_chunks().dictionary_encode()
    names = [pool_of(replica) for replica in replicas.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(replicas.indices)


def _said(name: str, records: pa.Table, pools: pa.Table) -> Values:
    """What the pool of each request says of itself; of several that had its name, the last."""
    last = {pool["pool"]: pool[name] for pool in pools.to_pylist()}
    values = pa.array(list(last.values()), pools[name].type)
    return values.take(pc.index_in(_pool(records), pa.array(list(last), pa.string())))


def models_of(records: pa.Table, pools: pa.Table) -> Values:
    """The model that served each request where its pool names one, else the one that was asked for."""
    asked: Values = pa.nulls(len(records), pa.string())
    if "model" in records.column_names:
        asked = records["model"].combine_chunks()
        if "pool" in records.column_names:  # a client may have asked for `model@version`
            asked = pc.list_element(pc.split_pattern(asked, "@", max_splits=1), 0)
    if not len(pools):
        return asked
    served = _said("model", records, pools)
    named = pc.if_else(pc.equal(served, DEFAULT), pa.scalar(None, pa.string()), served)
    return pc.coalesce(named, asked, served)
