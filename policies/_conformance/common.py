"""The checks that every policy must pass, whatever its slot."""

from __future__ import annotations

import copy
import difflib
import dis
import importlib
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from itertools import zip_longest
from types import CodeType
from typing import Any

import msgspec

from policies._conformance.calls import ask, fail
from policies._conformance.drive import DRIVERS, answers, drive
from policies._conformance.guard import environment_with_hash_seed, functions, parts, pure
from policies.base import HOOKS, Policy, PolicyError, listeners, overrides, parts_of
from policies.building import build
from policies.registry import tag_field

Make = Callable[[], Policy]


def made(make: Make) -> Policy:
    """A new policy, or an error that says why there is none."""
    try:
        policy = make()
    except Exception as error:
        name = getattr(make, "__name__", repr(make))
        raise PolicyError(f"{name} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(policy, Policy):
        raise PolicyError(f"the factory made {policy!r}, which is not a policy")
    return policy


def check_can_be_made(make: Make) -> None:
    """It is a concrete policy of a known slot, and every call makes another one."""
    policy = made(make)
    if policy.slot not in DRIVERS:
        fail(policy, f"has slot {policy.slot!r}; derive it from one of {', '.join(DRIVERS)}")
    if make() is policy:
        fail(policy, "was made once and handed out twice; the factory must make a new one each time")


def check_parameters_are_valid(make: Make) -> None:
    """Its parameters have the types and lie within the bounds that its class declares."""
    policy = made(make)
    build(type(policy), policy)


def check_parameters_round_trip(make: Make) -> None:
    """Written as JSON and read back it is the same."""
    policy = made(make)
    try:
        text = msgspec.json.encode(policy)
    except (TypeError, msgspec.MsgspecError) as error:
        fail(policy, f"has a parameter that cannot be written as JSON: {error}")
    plain = msgspec.json.decode(text)
    del plain[tag_field(type(policy))]
    again = build(type(policy), plain)
    if again != policy:
        fail(policy, f"changes when written and read back: {policy} became {again}")


def check_copies_are_fresh(make: Make) -> None:
    """A copy, a deep copy and an unpickled one have the parameters and none of the state."""
    used = made(make)
    attributes = set(vars(used))
    answers(used, 1)
    ways: dict[str, Callable[[Policy], Policy]] = {"copy": copy.copy, "deepcopy": copy.deepcopy}
    if _importable(type(used)):
        ways["pickle"] = lambda policy: pickle.loads(pickle.dumps(policy))
    for way, duplicate in ways.items():
        try:
            twin = duplicate(used)
        except Exception as error:
            raise PolicyError(f"{type(used).__name__} cannot be copied by {way}: {error}") from error
        if twin != used:
            fail(used, f"has other parameters after {way}: {twin}")
        left = sorted(set(vars(twin)) - attributes)
        if left:
            fail(used, f"keeps state after {way}: {', '.join(left)}; do not override __copy__ or __reduce__")


def check_parameters_stay(make: Make) -> None:
    """Deciding changes state, never a parameter."""
    policy = made(make)
    before = repr(policy)  # a Struct shows its parameters, and only these
    answers(policy, 1)
    if repr(policy) != before:
        cause = "an annotated attribute of the class is a parameter, state is what `reset` sets"
        fail(policy, f"changed its own parameters: {before} became {policy!r}; {cause}")


def check_hooks_exist(make: Make) -> None:
    """Every `on_...` method is a hook that its slot gets, and `reveal` goes with `oracle = True`."""
    policy = made(make)
    for part in parts(policy):
        for name in dir(type(part)):
            if name.startswith("on_") and name not in part.__struct_fields__:
                _check_hook(part, name, policy)
    whole = len(list(parts(policy))) == 1  # one that has parts may pass `reveal` on to them
    if overrides(policy, "reveal") and whole and not policy.oracle:
        fail(policy, "defines `reveal` but is no oracle, so it is never called; declare `oracle = True`")


def _check_hook(part: Policy, name: str, whole: Policy) -> None:
    """`whole` is the policy that is asked, and whose hooks its parts hear."""
    if name not in HOOKS:
        begun = [hook for hook in HOOKS if hook.startswith(name)]
        meant = (begun or difflib.get_close_matches(name, HOOKS, 1, 0.0))[0]
        fail(part, f"defines `{name}`, which nothing calls; did you mean `{meant}`?")
    if overrides(part, name) and name not in whole.hears:
        gets = ", ".join(f"`{hook}`" for hook in whole.hears)
        fail(part, f"defines `{name}`, which a policy of slot {whole.slot!r} never gets; it gets {gets}")


def check_parts_hear(make: Make) -> None:
    """Policies in its fields are told what it is told, once, and reset with it."""
    for owner, part in enumerate(parts(made(make))):
        for number in range(len(list(parts_of(part)))):
            for method in ("reset", *made(make).hears):
                _check_part_hears(made(make), owner, number, method)


def _check_part_hears(whole: Policy, owner_number: int, part_number: int, method: str) -> None:
    owner = list(parts(whole))[owner_number]
    part = list(parts_of(owner))[part_number]
    listens = overrides(part, method) if method == "reset" else bool(listeners(part, method))
    if not overrides(owner, method) or not listens:
        return
    told = {"owner": 0, "part": 0}

    def counted(policy: Policy, who: str) -> None:
        original = getattr(policy, method)

        def count(*arguments: object) -> None:
            told[who] += 1
            original(*arguments)

        vars(policy)[method] = count

    counted(owner, "owner")
    counted(part, "part")
    answers(whole, 1)
    if told["owner"] and not told["part"]:
        what = f"defines `{method}` and does not pass it on to its part {part.name()}, which defines it too"
        fail(owner, f"{what}; call `super().{method}(...)`")
    if method != "reset" and told["part"] > told["owner"]:
        fail(owner, f"passes `{method}` on to its part {part.name()} more than once")


def check_imports_nothing_of_the_fleet(make: Make) -> None:
    """Its methods use nothing of `fleet` or `experiments`."""
    policy = made(make)
    for part in parts(policy):
        for function in functions(type(part)):
            for name, root in _roots(function.__code__, function.__globals__):
                if root in {"fleet", "experiments"}:
                    where = f"`{function.__name__}`"
                    fail(policy, f"uses `{name}` of `{root}` in {where}; a policy sees its arguments only")


def _roots(code: CodeType, namespace: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The global names that the code uses, each with the top-level package that its value comes from."""
    for instruction in dis.get_instructions(code):
        name = str(instruction.argval)
        if instruction.opname == "IMPORT_NAME":
            yield name, name.partition(".")[0]
        elif instruction.opname in {"LOAD_GLOBAL", "LOAD_NAME"} and name in namespace:
            value = namespace[name]
            home = getattr(value, "__module__", None) or getattr(value, "__name__", None) or ""
            yield name, str(home).partition(".")[0]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _roots(constant, namespace)


def check_is_pure(make: Make) -> None:
    """It reads no clock, does no I/O, starts no thread, and leaves the global random generator alone."""
    policy, before = made(make), random.getstate()
    with pure(policy):
        answers(policy, 1)
    if random.getstate() != before:
        random.setstate(before)
        fail(policy, "uses the global random generator; use the `rng` that `reset` gives it")


def check_leaves_views_alone(make: Make) -> None:
    """It changes nothing of what it is shown."""

    def watch(policy: Policy, method: str, *arguments: object) -> object:
        before = [_picture(argument) for argument in arguments]
        answer = ask(policy, method, *arguments)
        for argument, picture in zip(arguments, before, strict=True):
            if _picture(argument) != picture:
                what = type(argument).__name__
                fail(
                    policy,
                    f"changed the {what} that `{method}` showed it; copy it first (`sorted`, `list`)",
                )
        return answer

    answers(made(make), 1, watch)


def _picture(argument: object) -> object:
    if isinstance(argument, float | str) or callable(argument) or isinstance(argument, random.Random):
        return None
    return msgspec.json.encode(argument, enc_hook=list)


def check_is_deterministic(make: Make) -> None:
    """The same seed and the same calls give the same answers."""
    first, second = made(make), made(make)
    _compare(
        first,
        answers(first, 1),
        answers(second, 1),
        "decides differently when everything is the same",
        "the likely cause is chance that does not come from `reset`'s rng, `id()`, or the order of a set",
    )


def check_instances_share_nothing(make: Make) -> None:
    """Another policy of the same class, used at the same time, makes no difference."""
    alone, one, other = made(make), made(make), made(make)
    expected = answers(alone, 1)
    got = []
    for mine, _ in zip_longest(drive(one, 1), drive(other, 2)):
        if mine is not None:
            got.append((mine.question, mine.answer))
    _compare(
        alone,
        expected,
        got,
        "decides differently when another one is in use",
        "the likely cause is state on the class or in the module; set it in `reset`, on `self`",
    )


def check_reset_forgets(make: Make) -> None:
    """After `reset` it behaves like a new one."""
    new, used = made(make), made(make)
    answers(used, 2)
    _compare(
        new,
        answers(new, 1),
        answers(used, 1),
        "decides differently after a run and a `reset` than when new",
        "the likely cause is an attribute that `reset` does not set again",
    )


def check_hash_seed_makes_no_difference(make: Make) -> None:
    """Slow: two fresh processes under different PYTHONHASHSEEDs give the same answers."""
    policy = made(make)
    cls = type(policy)
    if not _importable(cls) or cls.__module__ == "__main__":
        return  # another process cannot find it
    # Imported by name: nothing in `policies` may start a process, except for this.
    run = importlib.import_module("subprocess").run
    command = [sys.executable, "-m", "policies._conformance.child", f"{cls.__module__}:{cls.__qualname__}"]
    digests = []
    for seed in (1, 2):
        env = environment_with_hash_seed(seed)
        child = run(command, input=msgspec.json.encode(policy), env=env, capture_output=True, timeout=60)
        if child.returncode:
            fail(policy, f"cannot be used in a fresh process:\n{child.stderr.decode()}")
        digests.append(child.stdout)
    if digests[0] != digests[1]:
        fail(policy, "answers differently under another PYTHONHASHSEED: it uses hash(), or a set's order")


def _importable(cls: type) -> bool:
    module = sys.modules.get(cls.__module__)
    return getattr(module, cls.__qualname__, None) is cls


def _compare(
    policy: Policy, expected: list[tuple[str, object]], got: list[tuple[str, object]], what: str, cause: str
) -> None:
    for (question, answer), (_, other) in zip(expected, got, strict=False):
        if answer != other:
            fail(policy, f"{what}: it answered {answer!r} and {other!r} to {question}; {cause}")
    if len(expected) != len(got):
        fail(policy, f"{what}; {cause}")


AT_REST: dict[str, Callable[[Make], None]] = {
    "parameters_are_valid": check_parameters_are_valid,
    "parameters_round_trip": check_parameters_round_trip,
    "hooks_exist": check_hooks_exist,
    "imports_nothing_of_the_fleet": check_imports_nothing_of_the_fleet,
}
IN_USE: dict[str, Callable[[Make], None]] = {
    "is_pure": check_is_pure,
    "leaves_views_alone": check_leaves_views_alone,
    "parameters_stay": check_parameters_stay,
    "is_deterministic": check_is_deterministic,
    "instances_share_nothing": check_instances_share_nothing,
    "reset_forgets": check_reset_forgets,
    "copies_are_fresh": check_copies_are_fresh,
    "parts_hear": check_parts_hear,
}
SLOW: dict[str, Callable[[Make], None]] = {
    "hash_seed_makes_no_difference": check_hash_seed_makes_no_difference,
}
