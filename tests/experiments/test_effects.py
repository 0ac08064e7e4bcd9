"""Published effects: every policy has one, and what a study of them all says of a claim follows from its pairs."""

import json
import math
import pickle
import re
from importlib import import_module
from inspect import getsource

import pytest
from msgspec import to_builtins

from experiments.effects.effect import Effect, difference_of
from experiments.effects.found import all_effects
from experiments.effects.studies import BASELINES, SHOWN_BY
from experiments.findings import LEVEL
from experiments.studies.published_effects import (
    EffectFound,
    EffectsFound,
    Options,
    Plan,
    draw,
    judged,
    ratios,
    run,
)
from experiments.studies.result import StudyResult
from tests.policies.makers import SHIPPED

NAMES = {cls.__name__: cls for cls in SHIPPED}
EFFECTS = [pytest.param(effect, id=f"{index}-{effect.policy}") for index, effect in enumerate(all_effects())]


# --- every policy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", SHIPPED, ids=lambda cls: cls.__name__)
def test_what_is_claimed_of_every_policy_is_tried_or_it_claims_nothing(cls):
    name = cls.__name__
    tried = name in {effect.policy for effect in all_effects()} or name in SHOWN_BY
    assert tried or name in BASELINES, (
        f"nothing tries what the source of {name} says: add an Effect to experiments/effects/{cls.slot}.py, "
        "or name the study that shows it in experiments/effects/studies.py"
    )
    assert not (tried and name in BASELINES), f"{name} is called a baseline, and something is claimed of it"


def test_nothing_is_said_of_a_policy_that_is_not_there():
    assert {effect.policy for effect in all_effects()} | set(SHOWN_BY) | set(BASELINES) <= set(NAMES)


@pytest.mark.parametrize(("name", "study"), SHOWN_BY.items())
def test_a_study_that_is_said_to_show_a_policy_runs_it(name, study):
    module = import_module(f"experiments.studies.{study}")
    assert module.STUDY.name == study
    own = getsource(module)
    imported = set(re.findall(r"^from (experiments[.\w]+) import", own, re.MULTILINE))
    source = own + "".join(getsource(import_module(one)) for one in imported)
    assert name in source or f'"{NAMES[name].name()}"' in source


# --- every effect ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", EFFECTS)
def test_the_candidate_has_the_policy_and_differs_from_the_baseline(effect: Effect):
    def named(spec):
        return json.dumps(to_builtins(spec.to_dict()))

    assert f'"{NAMES[effect.policy].name()}"' in named(effect.candidate)
    assert named(effect.candidate) != named(effect.baseline)


@pytest.mark.parametrize("effect", EFFECTS)
def test_an_effect_that_was_sent_to_another_process_has_figures(effect: Effect):
    sent = pickle.loads(pickle.dumps(effect))
    assert all(math.isfinite(figure) for figure in sent.job(0).run())


# --- what is said of a claim -------------------------------------------------------------------------------


def an_effect(better: str = "lower", **fields) -> Effect:
    (first, *_) = all_effects()
    given = {key: getattr(first, key) for key in first.__struct_fields__}
    return Effect(**(given | {"better": better, "note": None} | fields))


CLEAR = [(1.0, 2.0), (1.1, 1.9), (0.9, 2.5), (1.0, 1.6), (1.2, 2.2)]
NOISE = [(1.0, 1.1), (1.2, 1.0), (0.9, 1.0), (1.3, 1.1), (1.0, 1.2)]


@pytest.mark.parametrize(
    ("pairs", "better", "shown"),
    [
        (CLEAR, "lower", "as published"),
        (CLEAR, "higher", "the other way"),
        (NOISE, "lower", "not shown"),
        ([(1.0, 2.0)] * 5, "lower", "as published"),  # exact: the same in every pair
        ([(1.0, 2.0)] * 5, "higher", "the other way"),
        ([(1.0, 1.0)] * 5, "lower", "not shown"),
    ],
)
def test_a_claim_is_shown_where_the_difference_stands_out_and_goes_its_way(pairs, better, shown):
    (found,) = judged([an_effect(better)], [pairs])
    assert found.shown == shown


def test_the_more_is_claimed_the_more_each_has_to_show():
    p_value = difference_of(CLEAR).p_value
    many = math.ceil(LEVEL / p_value) + 1
    alone, *_ = judged([an_effect()], [CLEAR])
    one_of_many, *_ = judged([an_effect()] * many, [CLEAR] * many)

    assert alone.shown == "as published"
    assert one_of_many.p_adjusted == pytest.approx(min(1.0, many * p_value))
    assert one_of_many.shown == "not shown"


def an_outcome(candidate, baseline, better="lower") -> EffectFound:
    pairs = list(zip(candidate, baseline, strict=True))
    return judged([an_effect(better)], [pairs])[0]


def test_ratios_are_below_one_where_it_goes_as_claimed_and_nothing_is_divided_by_zero():
    assert ratios(an_outcome((1.0, 1.0), (2.0, 4.0))) == [0.5, 0.25]
    assert ratios(an_outcome((4.0, 2.0), (2.0, 2.0), "higher")) == [0.5, 1.0]
    assert ratios(an_outcome((0.0, 1.0), (0.0, 0.0))) == [1.0, 100.0]
    assert ratios(an_outcome((0.0, 1.0), (1.0, 1e9))) == [0.01, 0.01]


def test_the_study_runs_the_effects_that_are_asked_for_and_prints_and_keeps_every_claim(capsys):
    found = run(Plan(seeds=2, policies=("Greedy", "NotFullFilter")), Options())

    assert isinstance(found, StudyResult)
    assert {one.policy for one in found.effects} == {"Greedy", "NotFullFilter"}
    for one in found.effects:
        assert len(one.candidate) == len(one.baseline) == 2
        assert one.difference.mean == pytest.approx((sum(one.candidate) - sum(one.baseline)) / 2)
    kept = json.loads(found.to_json())
    assert [one["policy"] for one in kept["effects"]] == [one.policy for one in found.effects]
    assert "Greedy: throughput (1/s)" in draw(found)
    assert isinstance(found, EffectsFound)

    from rich.console import Console

    Console(width=200).print(found.table("claims"))
    assert "batches multiply throughput" in " ".join(capsys.readouterr().out.split())


def test_a_study_of_effects_takes_no_other_traffic():
    with pytest.raises(ValueError, match="leave --trace out"):
        run(Plan(seeds=1), Options(trace="chat-small"))
