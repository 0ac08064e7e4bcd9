"""A value as a small table of HTML: what a notebook shows of it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def html_table(caption: str, rows: Iterable[tuple[str, object]]) -> str:
    """Names and values, as they are; a row whose value is None is left out."""
    body = "".join(
        f'<tr><th style="text-align: left">{escape(name)}</th>'
        f'<td style="text-align: left">{escape(str(value))}</td></tr>'
        for name, value in rows
        if value is not None
    )
    head = f'<caption style="text-align: left; font-weight: bold">{escape(caption)}</caption>'
    return f"<table>{head}<tbody>{body}</tbody></table>"
