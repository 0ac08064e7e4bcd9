"""What reports are made of as HTML files that need no network: tables, plots, differences, facts to check."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import msgspec

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .25rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid #e5e5e5 }
th { border-bottom: 2px solid #888; vertical-align: bottom } td.number, th.number { text-align: right }
td.number, td.name { white-space: nowrap } ul { padding-left: 1.2rem }
tr.first td { border-top: 1px solid #888 } .better { color: #00664a; font-weight: 600 }
.worse { color: #a34700; font-weight: 600 } .scroll { overflow-x: auto }
figure { margin: 1rem 0 } figure svg { max-width: 100%; height: auto }
figcaption, .note { color: #555; font-size: .88rem }
.warning { color: #a00; font-weight: 600 }
code { font-size: .85rem; overflow-wrap: anywhere }
"""


def page(heading: str, parts: Iterable[str]) -> str:
    """A whole document; `heading` and `parts` are HTML."""
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{heading}</title>'
    )
    body = "\n".join(parts)
    head = f"<head>{head}<style>{STYLE}</style></head>"
    return f'<!doctype html>\n<html lang="en">{head}\n<body>\n{body}\n</body></html>\n'


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int = 10**6) -> str:
    """A plain table of text; columns from `numbers_from` on are aligned right."""

    def line(kind: str, values: Sequence[str]) -> str:
        marked = (' class="number"' if index >= numbers_from else "" for index in range(len(values)))
        return "".join(f"<{kind}{mark}>{escape(v)}</{kind}>" for v, mark in zip(values, marked, strict=True))

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{line("th", headings)}</tr>{body}</table></div>'


NO_PLOTS = '<p class="note">No plots: matplotlib is not installed (pip install "fleetlab[report]").</p>'


def figure(svg: str, caption: str) -> str:
    """A plot with what there is to say of it."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def differences(specs: dict[str, dict[str, Any]]) -> str:  # Any: JSON values
    """The fields in which the specs are not all equal."""
    flat = {name: dict(flatten(spec)) for name, spec in specs.items()}
    paths = list(dict.fromkeys(path for fields in flat.values() for path in fields))
    rows = []
    for path in paths:
        values = [fields.get(path, "–") for fields in flat.values()]
        if len(set(values)) > 1:
            rows.append((path, *values))
    if not rows:
        return "<p>Nothing: their specs are equal.</p>"
    return table(("field", *specs), rows)


def flatten(value: object, path: str = "") -> Iterable[tuple[str, str]]:
    """Leaves of nested mappings as (dotted path, JSON text)."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flatten(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, msgspec.json.encode(value).decode()
