"""`fleet study`: the studies of docs/findings.md, one, several or all of them."""

from __future__ import annotations

from argparse import Namespace

from fleet.cli import inputs, output
from fleet.cli.values import UsageError, meant


def study(arguments: Namespace) -> int:
    """Run the studies that are named; without a name, say which there are."""
    from experiments.studies.catalogue import NAMES, studies
    from experiments.studies.study import Options

    names: list[str] = list(NAMES) if arguments.all else [name.replace("-", "_") for name in arguments.names]
    for name in names:
        if name not in NAMES:
            raise UsageError(
                f"study: there is no study {name!r}{meant(name, NAMES)}; `fleet study` lists them"
            )
    if not names:
        table = output.table("study", "question", left=2)
        for one in studies():
            table.add_row(one.name, one.title)
        output.stdout().print(table)
        return 0
    options = Options(trace=arguments.trace, workers=arguments.workers, progress=True)
    out = inputs.writable(arguments.out)
    refused = []
    for one in studies(names):
        try:
            one.publish(arguments.size, options, out)
        except (OSError, ValueError) as error:  # what one cannot do, the others do all the same
            refused.append(f"study {one.name}: {error}")
    if refused:
        raise UsageError("\n".join(refused))
    return 0
