"""The kit on rollout policies: what it drives, and whom it catches."""

import pytest

from policies import Canary, Gates, PolicyError, Ramp, RolloutPolicy, Serve, Shadow
from policies._conformance.drive import answers
from policies.testing import check_policy


class LastVersion(RolloutPolicy):
    """Conforms."""

    def choose(self, request, versions, now_s):
        return Serve(versions[-1].version)


class Named(LastVersion):
    def choose(self, request, versions, now_s):
        return Serve("2")


class SelfShadow(LastVersion):
    def choose(self, request, versions, now_s):
        return Shadow(versions[0].version, versions[0].version)


class SecondShadow(LastVersion):
    def choose(self, request, versions, now_s):
        return Shadow(versions[0].version, versions[1].version)


class Wordless(LastVersion):
    def choose(self, request, versions, now_s):
        self.stage = 0.5
        return super().choose(request, versions, now_s)


class RaisesPromoted(LastVersion):
    def promote(self, now_s):
        raise KeyError("stage")


class WordlessWhenPromoted(LastVersion):
    def promote(self, now_s):
        self.stage = None


class ExpectsItsOwn(LastVersion):
    """Has no place for a request that it did not choose for."""

    def reset(self, rng):
        self.open = {}

    def choose(self, request, versions, now_s):
        self.open[request.id] = now_s
        return super().choose(request, versions, now_s)

    def on_request_ended(self, ending, now_s):
        del self.open[ending.request.id]


@pytest.mark.parametrize(
    ("cls", "says"),
    [
        (Named, "Named answered Serve\\(version='2'"),
        (SelfShadow, "the shadow must be another one of"),
        (SecondShadow, "SecondShadow raised IndexError in `choose`"),
        (Wordless, "has the stage 0.5; `stage` is text"),
        (RaisesPromoted, "RaisesPromoted raised KeyError in `promote`: 'stage'"),
        (WordlessWhenPromoted, "has the stage None after `promote`; `stage` is text"),
        (ExpectsItsOwn, "ExpectsItsOwn raised KeyError in `on_request_ended`"),
    ],
)
def test_what_breaks_the_contract_is_caught(cls, says):
    with pytest.raises(PolicyError, match=says):
        check_policy(cls)


def test_what_keeps_it_passes():
    check_policy(LastVersion)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Canary(share=0.5, bake_s=1.0, gates=Gates(min_requests=2, alpha=0.9, latency_factor=0.5)),
            {"canary", "canary 50 %", "rolled back"},
        ),
        (
            lambda: Canary(share=0.5, bake_s=1.0, gates=Gates(min_requests=2, latency_factor=50.0)),
            {"canary 50 %", "promoted"},
        ),
        (
            lambda: Ramp(stages=(0.3, 1.0), stage_s=0.1, gates=Gates(min_requests=2, latency_factor=50.0)),
            {"ramp", "ramp 30 %", "ramp 100 %"},
        ),
    ],
)
def test_the_kit_takes_rollouts_through_their_stages(make, words):
    """Else it would say nothing of what they do there."""
    seen = set()
    for seed in range(1, 9):
        policy = make()

        def told(policy, method, *arguments):
            answer = getattr(policy, method)(*arguments)
            seen.add(policy.stage.split(":")[0])
            return answer

        answers(policy, seed, told)
    assert words <= seen
