"""`fleet curve`: candidates as `fleet compare` takes them, at several loads."""

from __future__ import annotations

from argparse import Namespace

from fleet.cli import inputs, output
from fleet.cli.comparing import candidates_of, stretches_of
from fleet.cli.values import UsageError


def curve(arguments: Namespace) -> int:
    """Simulate every candidate at every rate with every seed; print what load each bears."""
    from experiments.curve import METRICS, load_curve

    candidates = candidates_of(arguments.specs, arguments.changes, arguments.vary, command="curve", least=1)
    inputs.say_odd(*candidates.values(), names=list(candidates))
    trace, out = inputs.trace_of(arguments), inputs.writable(arguments.out)
    try:
        found = load_curve(
            stretches_of(trace, arguments.stretch_s, arguments.seeds, command="curve"), candidates,
            rates=None if arguments.rates == "auto" else inputs.alternatives(arguments.rates),
            seeds=range(arguments.seeds), objective=arguments.objective, workers=arguments.workers,
            metrics=METRICS if arguments.metrics is None else inputs.alternatives(arguments.metrics),
        )  # fmt: skip
    except ValueError as error:
        raise UsageError(f"curve: {error}") from None
    output.stdout().print(found)
    if out is not None:
        found.save(out)
        output.note(f"saved in {out}")
    return 1 if found.failures else 0
