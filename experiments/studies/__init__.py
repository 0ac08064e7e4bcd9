"""The studies: one question of the field each, asked of simulated fleets and answered with numbers and a plot.

    python -m experiments.studies.continuous_batching --size small --out studies-out
    python -m experiments.studies --size small --out studies-out        # all of them

A study is a module with a `STUDY`. What they share is in `study` (the command, sizes), `result` (numbers, statistics),
`workloads` (device, model, traffic) and `charts`. `docs/findings.md` has what they found.
"""
