"""The studies: one question of the field each, asked of simulated fleets and answered with numbers and a plot.

    fleet study                                                        # which there are
    fleet study continuous_batching --size small --out studies-out
    fleet study --all --size small --out studies-out

A study is a module with a `STUDY`, named in `catalogue`. What they share is in `study` (sizes, how one is run and
saved), `result` (numbers, statistics), `workloads` (device, model, traffic) and `charts`. `docs/findings.md` has what
they found.
"""
