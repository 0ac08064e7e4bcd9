# %% [markdown]
# # From an idea to a figure
#
# Open this file in an editor that knows `# %%` cells (VS Code, PyCharm, Spyder; `jupytext` makes a notebook of it), or
# run it as a script. It writes its results into the folder `idea`. The idea: a router should take the replica with the
# least expected wait, as far as that is known, and not the one with the fewest requests.

# %%
from experiments import compare, load_curve, load_report, power, sweep
from fleet import AffineLatency, EmulatedEngine, FleetSpec, PoolSpec
from policies import LeastOutstanding, Route, RoutingPolicy
from traces import load_trace, poisson, zipf


class LeastExpectedWait(RoutingPolicy):
    """Requests in flight, each for as long as this replica takes for one; chance breaks ties."""

    def reset(self, rng):
        self.rng = rng

    def route(self, request, replicas, now_s):
        def wait_s(replica):
            return (replica.in_flight + 1) * (replica.expected_service_s or 1.0)

        return Route(min(replicas, key=lambda replica: (wait_s(replica), self.rng.random())).id)


# %% [markdown]
# ## A trace and a fleet
#
# Two fast replicas and two that take twice as long. The trace gets tenants, of which the first is the largest.

# %%
trace = load_trace("demo-surge").scale_rate(1.4).assign(tenant=zipf(3, 1.2))


def engine(times):
    return EmulatedEngine(
        latency=AffineLatency(base_s=0.012 * times, per_item_s=0.008 * times, jitter_cv=0.3)
    )


pools = {
    "fast": PoolSpec(engine=engine(1.0), replicas=2),
    "slow": PoolSpec(engine=engine(2.0), replicas=2),
}
base = FleetSpec(pools=pools, batching={"policy": "no-batching"})
candidates = {
    "least outstanding": base.replace(routing=LeastOutstanding()),
    "expected wait": base.replace(routing=LeastExpectedWait()),
}

# %% [markdown]
# ## Is it better?
#
# Name what decides before looking. The verdict on p99 is corrected apart from everything else in the table.

# %%
report = compare(
    trace, candidates, seeds=range(5), primary="e2e_s.p99", by="tenant",
    metrics=["e2e_s.mean", "load_variation", "e2e_s.p99@tenant:max_min"], progress=False,
)  # fmt: skip
report

# %%
print(report.verdict_in_short)
print(power(report, effect=0.05))

# %% [markdown]
# ## At which load?


# %%
def steady(seed):
    return poisson(rate_per_s=60.0, duration_s=40.0, seed=seed)


curve = load_curve(
    steady, candidates, rates=[60, 100, 130], seeds=range(3), objective="e2e_s.p99<=0.2", progress=False
)
print(curve.verdict)

# %% [markdown]
# ## And with which knobs?

# %%
found = sweep(
    trace.first(requests=1000), candidates["expected wait"],
    {"pools.fast.replicas": [1, 2, 3], "pools.slow.replicas": [1, 2]}, seeds=range(2),
    objectives={"gpu_seconds": "min", "e2e_s.p99": "min"}, out="idea/sweep", progress=False,
)  # fmt: skip
found.pareto()

# %% [markdown]
# ## What others need to believe it

# %%
report.save("idea/report")
curve.save("idea/curve")
report.figures("idea/figures")
assert load_report("idea/report").rows == report.rows
