"""Reading a fleet's file: TOML, or JSON where its suffix says so, as plain values that nobody has checked yet.

The one thing to know: a name that is written twice is an error, in both. TOML says so itself; most readers of JSON keep
the last of two pools of one name and drop the other without a word.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any, NoReturn

from policies.base import PolicyError

Table = dict[str, Any]  # Any: whatever TOML and JSON hold


def read_table(path: str | Path) -> Table:
    """The file's values. Raises `PolicyError` that names the file, and the line where there is one."""
    file = Path(path)
    try:
        text = file.read_bytes().decode()
        values = _json(text) if file.suffix == ".json" else _toml(text)
    except OSError as error:
        raise PolicyError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PolicyError(f"{file}: is not text; a fleet is written in TOML or JSON") from None
    except RecursionError:
        raise PolicyError(f"{file}: is nested too deeply to be a fleet") from None
    except (PolicyError, ValueError) as error:  # both decoders' own errors are of ValueError
        raise PolicyError(f"{file}: {error}") from None
    if not isinstance(values, dict):
        raise PolicyError(f"{file}: expected a table of a fleet's fields, got {_called(values)}")
    return values


def _called(value: object) -> str:
    return {list: "an array", str: "a string", type(None): "null"}.get(type(value), repr(value))


# --- TOML ----------------------------------------------------------------------------------------------------

_TABLE_TWICE = re.compile(r"Cannot declare \((.+?),?\) twice \(at (line \d+)")
_CLOSED = re.compile(r"Cannot mutate immutable namespace \((.+?),?\) \(at (line \d+)")
_KEY_TWICE = re.compile(r"Cannot overwrite a value \(at line (\d+)")
_KEY = re.compile(r"\s*([\w.\"'-]+?)\s*=")


def _toml(text: str) -> Table:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(_twice(str(error), text.splitlines()) or str(error)) from None


def _twice(message: str, lines: list[str]) -> str | None:
    """What the decoder says of a name that is there twice, with the name in it; None: it says something else."""
    if (table := _TABLE_TWICE.match(message)) is not None:
        return f"$.{_dotted(table[1])}: written twice, the second time at {table[2]}; {_REMEDY}"
    if (closed := _CLOSED.match(message)) is not None:
        return f"{closed[2]}: `{_dotted(closed[1])}` is written already, in braces that end there; {_REMEDY}"
    if (key := _KEY_TWICE.match(message)) is not None:
        number = int(key[1])  # tomllib counts from the end of the value
        found = _KEY.match(lines[number - 1]) if number <= len(lines) else None
        if found is not None:
            return f"line {number}: `{found[1]}` is written twice in one table; {_REMEDY}"
    return None


def _dotted(names: str) -> str:
    """`'pools', 'large'` -> `pools.large`."""
    return ".".join(name.strip().strip("'\"") for name in names.split(","))


_REMEDY = "say it once, or under another name"


# --- JSON ----------------------------------------------------------------------------------------------------


class _Object(list[tuple[str, Any]]):
    """The members of a JSON object as they are written; the decoder does not know yet where in the file it is."""


def _json(text: str) -> Any:  # Any: JSON values, here and below
    return _unfolded(json.loads(text, object_pairs_hook=_Object, parse_constant=_demand_number), "$")


def _demand_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON; a number must be finite")


def _unfolded(value: Any, path: str) -> Any:
    if isinstance(value, _Object):
        made: Table = {}
        for name, item in value:
            if name in made:
                raise PolicyError(f"{path}.{name}: written twice in one object; {_REMEDY}")
            made[name] = _unfolded(item, f"{path}.{name}")
        return made
    if isinstance(value, list):
        return [_unfolded(item, f"{path}[{index}]") for index, item in enumerate(value)]
    return value
