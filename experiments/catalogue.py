"""`fleet policies --markdown`: docs/policies.md, every policy of the library by slot, with what was tried of it.

All of it comes from the classes (law, parameters, source), from `experiments.effects` (what was tried of each) and from
`catalogue.toml` beside this file (which one to start from). A test holds the page to them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.effects.found import all_effects
from experiments.effects.studies import BASELINES, SHOWN_BY
from policies import describe
from policies.registry import ComponentInfo

PAGE = Path("docs/policies.md")
COMMAND = f"fleet policies --markdown > {PAGE}"
_HEAD = f"""# The policies

<!-- Written by `{COMMAND}`; what to start from stands in experiments/catalogue.toml. -->

Every policy that is shipped, under the name that goes into a file or on the command line. `fleet policies NAME`
says more of one: bounds of its parameters, what a decision costs, its class. *Tried by* names what was tried of the
claims of its source: a study of [findings.md](findings.md), or a pair of small fleets of `experiments/effects`, all
of which `fleet study published_effects` runs and judges. One of your own is as good as these:
[write-a-policy.md](write-a-policy.md).
"""


def page() -> str:
    """The whole page."""
    shipped = [info for info in describe() if info.location.startswith("policies.")]
    guide = _guide()
    missing = {info.slot for info in shipped} ^ set(guide)
    if missing:
        raise ValueError(f"catalogue.toml and the policies differ in slots: {', '.join(sorted(missing))}")
    parts = [_HEAD, _contents(guide, shipped)]
    for slot, (title, text) in guide.items():
        parts.append(_section(title, text, [info for info in shipped if info.slot == slot]))
    return "\n".join(parts)


def _guide() -> dict[str, tuple[str, str]]:
    """Title and advice by slot, in the order of the page."""
    with (Path(__file__).parent / "catalogue.toml").open("rb") as file:
        return {slot: (one["title"], one["text"].strip()) for slot, one in tomllib.load(file).items()}


def _contents(guide: dict[str, tuple[str, str]], shipped: Sequence[ComponentInfo]) -> str:
    lines = []
    for slot, (title, _) in guide.items():
        anchor = re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        lines.append(f"- [{title}](#{anchor}): {sum(info.slot == slot for info in shipped)}")
    return "\n".join(lines) + "\n"


def _section(title: str, text: str, listed: Sequence[ComponentInfo]) -> str:
    lines = [f"## {title}\n", f"{text}\n", "| policy | law | parameters | tried by |", "|---|---|---|---|"]
    lines += [_row(info) for info in listed]
    lines += ["", *(f"- `{info.name}`: {info.source or 'not given'}" for info in listed), ""]
    return "\n".join(lines)


def _row(info: ComponentInfo) -> str:
    module, _, name = info.location.partition(":")
    law = f"{info.law} Oracle: sees true output lengths, simulation only." if info.oracle else info.law
    parameters = ", ".join(f"`{one.in_short()}`" for one in info.parameters)
    cells = (f"[`{info.name}`](../{module.replace('.', '/')}.py)", law, parameters, "; ".join(tried_by(name)))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def tried_by(name: str) -> Iterator[str]:
    """What was tried of the policy with this class name."""
    if name in SHOWN_BY:
        yield f"study [{SHOWN_BY[name]}](../experiments/studies/{SHOWN_BY[name]}.py)"
    for effect in all_effects():
        if effect.policy == name:
            note = "" if effect.note is None else f": {effect.note}"
            yield f"{effect.claim} ({effect.figure}, against {effect.against}){note}"
    if name in BASELINES:
        yield f"baseline: {BASELINES[name]}"
