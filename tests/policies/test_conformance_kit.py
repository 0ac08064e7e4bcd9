"""The kit catches those that break the contract, and says what they did.

Each violator is a class inside its test, so that it is gone when the test is.
"""

import asyncio
import contextlib
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, ClassVar

import pytest
from msgspec import Meta

from policies import (
    AdmissionPolicy,
    Admit,
    BatchingPolicy,
    Completion,
    Degrade,
    Dispatch,
    Failure,
    Fifo,
    FleetView,
    GiveUp,
    HealthPolicy,
    Hold,
    InFlightScorer,
    LeastOutstanding,
    MaxScorePicker,
    NotFullFilter,
    Policy,
    PolicyError,
    PoolView,
    Priority,
    ProbeOutcome,
    QueueView,
    Random,
    ReplicaView,
    Request,
    Retry,
    RetryPolicy,
    Route,
    RoutingPolicy,
    Scale,
    ScalingPolicy,
    Verdict,
    Wait,
    Window,
)
from policies.testing import check_policy, checks_for, parametrize_with_checks

Replicas = Sequence[ReplicaView]


def failed_checks(make: Callable[[], Policy]) -> dict[str, str]:
    failed = {}
    for name, check in checks_for(make):
        try:
            check()
        except PolicyError as error:
            failed[name] = str(error)
    return failed


def router(decide: Callable[[Any, Request, Replicas, float], object]) -> type[RoutingPolicy]:
    """A routing policy that decides like this."""

    class Sketch(RoutingPolicy):
        def reset(self, rng: random.Random) -> None:
            self.rng = rng

        def route(self, request: Request, replicas: Replicas, now_s: float) -> Any:
            return decide(self, request, replicas, now_s)

    return Sketch


def first(replicas: Replicas) -> Route:
    return Route(replicas[0].id)


# --- not pure ----------------------------------------------------------------------------------------------


def read_clock() -> object:
    return time.time()


def read_clock_imported_by_name() -> object:
    return monotonic()


def read_calendar() -> object:
    return datetime.now(UTC)


def draw_from_the_global_generator() -> object:
    return random.random()


IMPURE: list[tuple[Callable[[], object], str]] = [
    (read_clock, "reads the clock (time.time); time is an argument: use `now_s`"),
    (read_clock_imported_by_name, "reads the clock (time.monotonic)"),
    (read_calendar, "reads the clock (datetime.now)"),
    (lambda: time.sleep(0.0), "sleeps; a policy does no I/O and never waits"),
    (lambda: Path("/dev/null").open().close(), "opens a file (open: '/dev/null')"),
    (lambda: Path("/dev/null").read_text(), "opens a file (open: '/dev/null')"),
    (lambda: os.listdir("/"), "uses the operating system (os.listdir: '/')"),  # noqa: PTH208
    (lambda: os.scandir("/").close(), "uses the operating system (os.scandir: '/')"),
    (lambda: list(Path("/").iterdir()), "uses the operating system (os."),  # Python's version says which
    (lambda: socket.socket().close(), "uses a socket"),
    (lambda: threading.Thread(target=int).start(), "starts a thread"),
    (lambda: asyncio.new_event_loop().close(), "uses a socket"),
    (lambda: print("here"), "prints; give the decision a `reason`"),
    (lambda: hash("replica/1"), "calls hash() on a string"),
    (draw_from_the_global_generator, "uses the global random generator; use the `rng`"),
]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a violator is stopped half-way, with its file open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("act", "says"), IMPURE)
def test_what_is_not_pure_is_caught(act: Callable[[], object], says: str) -> None:
    def decide(policy: Any, request: Request, replicas: Replicas, now_s: float) -> Route:
        act()
        return first(replicas)

    assert says in failed_checks(router(decide))["is_pure"]


def test_a_policy_that_swallows_the_alarm_is_caught_all_the_same() -> None:
    def decide(policy: Any, request: Request, replicas: Replicas, now_s: float) -> Route:
        with contextlib.suppress(Exception):
            time.time()
        return first(replicas)

    assert "reads the clock" in failed_checks(router(decide))["is_pure"]


def test_the_guard_puts_everything_back() -> None:
    before = (time.time, monotonic, datetime, print, hash, random.getstate())
    failed_checks(router(lambda policy, request, replicas, now_s: Route(str(time.time()))))
    assert (time.time, monotonic, datetime, print, hash, random.getstate()) == before
    assert time.time() > 0
    assert datetime.now(UTC).year > 2000


def test_a_lazy_import_of_the_standard_library_is_no_fault() -> None:
    def decide(policy: Any, request: Request, replicas: Replicas, now_s: float) -> Route:
        import colorsys

        return Route(replicas[int(colorsys.ONE_SIXTH * len(replicas))].id)

    check_policy(router(decide))


def test_other_threads_may_read_the_clock_meanwhile() -> None:
    read, stop = [], threading.Event()

    def other() -> None:
        while not stop.is_set():
            read.append(time.monotonic())

    thread = threading.Thread(target=other)
    thread.start()
    try:
        check_policy(Random)
    finally:
        stop.set()
        thread.join()
    assert read


def test_use_of_the_fleet_is_caught() -> None:
    class Reaching(RoutingPolicy):
        def route(self, request: Request, replicas: Replicas, now_s: float) -> Route:
            if now_s < 0:
                import fleet.messages  # noqa: F401
            return first(replicas)

    assert (
        "uses `fleet.messages` of `fleet` in `route`"
        in failed_checks(Reaching)["imports_nothing_of_the_fleet"]
    )


# --- chance and state --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        lambda: random.Random().random(),
        lambda: random.SystemRandom().random(),
        lambda: uuid.uuid4().int / 2**128,
        lambda: id(object()) / 16 % 97 / 97,
    ],
    ids=["unseeded", "system", "uuid", "id"],
)
def test_chance_that_is_not_from_reset_is_caught(draw: Callable[[], float]) -> None:
    kept = []  # so that no object takes the address of one before it

    def decide(policy: Any, request: Request, replicas: Replicas, now_s: float) -> Route:
        kept.append(object())
        return Route(replicas[int(draw() * len(replicas))].id)

    says = failed_checks(router(decide))["is_deterministic"]
    assert "decides differently when everything is the same" in says
    assert "chance that does not come from `reset`'s rng" in says


def test_state_on_the_class_is_caught() -> None:
    class Counting(RoutingPolicy):
        turns: ClassVar[list[int]] = [0]

        def route(self, request: Request, replicas: Replicas, now_s: float) -> Route:
            self.turns[0] += 1
            return Route(replicas[self.turns[0] % len(replicas)].id)

    failed = failed_checks(Counting)
    assert "state on the class or in the module" in failed["instances_share_nothing"]
    assert "an attribute that `reset` does not set again" in failed["reset_forgets"]


def test_state_that_reset_leaves_is_caught() -> None:
    class Remembering(RoutingPolicy):
        def __post_init__(self) -> None:
            self.turn = 0

        def route(self, request: Request, replicas: Replicas, now_s: float) -> Route:
            self.turn += 1
            return Route(replicas[self.turn % len(replicas)].id)

    assert failed_checks(Remembering).keys() == {"reset_forgets"}


def test_state_in_a_parameter_is_caught() -> None:
    class Drifting(RoutingPolicy):
        turn: int = 0

        def reset(self, rng: random.Random) -> None:
            self.turn = 0

        def route(self, request: Request, replicas: Replicas, now_s: float) -> Route:
            self.turn += 1
            return Route(replicas[self.turn % len(replicas)].id)

    says = failed_checks(Drifting)["parameters_stay"]
    assert says.startswith("Drifting changed its own parameters: Drifting(turn=0) became Drifting(turn=1")


def test_a_copy_with_state_is_caught() -> None:
    class Cloning(RoutingPolicy):
        def reset(self, rng: random.Random) -> None:
            self.turn = 0

        def __copy__(self) -> Any:
            twin = type(self)()
            vars(twin).update(vars(self))
            return twin

        def route(self, request: Request, replicas: Replicas, now_s: float) -> Route:
            return first(replicas)

    assert failed_checks(Cloning) == {
        "copies_are_fresh": "Cloning keeps state after copy: turn; do not override __copy__ or __reduce__"
    }


def test_one_that_changes_what_it_is_shown_is_caught() -> None:
    def decide(policy: Any, request: Request, replicas: Any, now_s: float) -> Route:
        replicas.sort(key=lambda replica: replica.in_flight)
        return first(replicas)

    says = "Sketch changed the list that `route` showed it; copy it first (`sorted`, `list`)"
    assert failed_checks(router(decide)) == {"leaves_views_alone": says}


def test_one_that_changes_a_request_is_caught() -> None:
    def decide(policy: Any, request: Request, replicas: Any, now_s: float) -> Route:
        if request.extra is not None:
            request.extra["seen"] = True
        return first(replicas)

    assert failed_checks(router(decide)).keys() == {"leaves_views_alone"}


def test_the_slow_check_catches_the_order_of_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unordered_policy.py").write_text(
        "from policies import Route, RoutingPolicy\n"
        "class Unordered(RoutingPolicy):\n"
        "    def route(self, request, replicas, now_s):\n"
        "        return Route(next(iter({replica.id for replica in replicas})))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from unordered_policy import Unordered  # type: ignore[import-not-found]

    check_policy(Unordered)  # within one process nothing shows
    with pytest.raises(PolicyError, match="differently under another PYTHONHASHSEED"):
        check_policy(Unordered, slow=True)


# --- made wrongly ------------------------------------------------------------------------------------------


def test_one_without_its_decision_is_caught() -> None:
    class Undecided(RoutingPolicy):
        def rout(self, request: Request, replicas: Replicas, now_s: float) -> Route:
            return first(replicas)

    assert (
        failed_checks(Undecided)
        == {
            "can_be_made": "Undecided cannot be made: TypeError: Can't instantiate abstract class Undecided "
            "without an implementation for abstract method 'route'"
        }
        or "abstract class Undecided" in failed_checks(Undecided)["can_be_made"]
    )


def test_a_factory_of_one_policy_is_caught() -> None:
    policy = Random()
    assert "was made once and handed out twice" in failed_checks(lambda: policy)["can_be_made"]


def test_a_factory_of_something_else_is_caught() -> None:
    assert "made 7, which is not a policy" in failed_checks(lambda: 7)["can_be_made"]  # type: ignore[arg-type, return-value]


def test_a_policy_without_a_slot_is_caught() -> None:
    class Adrift(Policy):
        pass

    assert "has slot ''; derive it from one of admission, routing" in failed_checks(Adrift)["can_be_made"]


def test_parameters_out_of_bounds_are_caught() -> None:
    class Bounded(LeastOutstanding):
        least: Annotated[int, Meta(ge=1)] = 0

    assert failed_checks(Bounded)["parameters_are_valid"] == "$.least: Expected `int` >= 1"


def test_a_parameter_that_json_cannot_hold_is_caught() -> None:
    class Opaque(LeastOutstanding):
        key: Any = object()

    assert "has a parameter that cannot be written as JSON" in failed_checks(Opaque)["parameters_round_trip"]


def test_a_misspelt_hook_is_caught() -> None:
    class Hopeful(LeastOutstanding):
        def on_complete(self, completion: Completion, now_s: float) -> None: ...

    assert failed_checks(Hopeful) == {
        "hooks_exist": "Hopeful defines `on_complete`, which nothing calls; did you mean `on_completed`?"
    }


def test_an_oracle_that_does_not_say_so_is_caught() -> None:
    class Cheat(LeastOutstanding):
        def reveal(self, output_tokens: Callable[[str], int | None]) -> None: ...

    assert "declare `oracle = True`" in failed_checks(Cheat)["hooks_exist"]


def test_only_an_oracle_is_shown_true_lengths() -> None:
    shown = []

    class Seeing(LeastOutstanding):
        oracle = True

        def reveal(self, output_tokens: Callable[[str], int | None]) -> None:
            shown.append(output_tokens("request-0"))

    class Blind(Seeing):
        oracle = False

    check_policy(Seeing)
    assert shown
    shown.clear()
    failed_checks(Blind)
    assert not shown


def test_an_exception_says_where_it_came_from() -> None:
    def decide(policy: Any, request: Request, replicas: Replicas, now_s: float) -> Route:
        raise ZeroDivisionError("division by zero")

    with pytest.raises(PolicyError, match="Sketch raised ZeroDivisionError in `route`: division by zero"):
        check_policy(router(decide))


# --- wrong answers: routing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda replicas, now_s: None, "a branch ends without `return`? Expected Route or Hold or Reject"),
        (lambda replicas, now_s: replicas[0].id, "answered 'replica/1' to route(request-0"),
        (lambda replicas, now_s: Route("replica/99"), "must name one of the replicas it was given"),
        (lambda replicas, now_s: Hold(now_s), "`until_s` must be a time after `now_s`"),
        (lambda replicas, now_s: Hold(float("inf")), "`until_s` must be a time after `now_s`"),
        (lambda replicas, now_s: Dispatch(1), "expected Route or Hold or Reject"),
    ],
)
def test_a_wrong_route_is_caught(answer: Callable[[Replicas, float], object], says: str) -> None:
    sketch = router(lambda policy, request, replicas, now_s: answer(replicas, now_s))
    assert says in failed_checks(sketch)["answers"]


def test_a_router_that_holds_for_ever_is_caught() -> None:
    sketch = router(lambda policy, request, replicas, now_s: Hold(now_s + 1.0))
    assert "still holds a request after 1000 tries" in failed_checks(sketch)["ends_holds"]


# --- wrong answers: queueing -------------------------------------------------------------------------------


class TestQueues:
    def test_one_that_loses_a_request_is_caught(self) -> None:
        class Leaky(Fifo):
            def push(self, request: Request, now_s: float) -> None:
                if request.id != "request-3":
                    super().push(request, now_s)

        assert "to len() after push(request-3);" in failed_checks(Leaky)["conserves"]

    def test_one_that_pops_twice_is_caught(self) -> None:
        class Sticky(Fifo):
            def pop(self, now_s: float) -> Request:
                return next(iter(self.waiting.values()))

        assert "conserves" in failed_checks(Sticky)

    def test_one_that_invents_a_request_is_caught(self) -> None:
        class Inventive(Fifo):
            def pop(self, now_s: float) -> Request:
                super().pop(now_s)
                return Request("made-up", now_s)

        says = failed_checks(Inventive)["conserves"]
        assert "expected one of the waiting requests, as it was pushed" in says

    def test_one_that_does_not_remove_is_caught(self) -> None:
        class Clinging(Fifo):
            def remove(self, request_id: str) -> bool:
                return request_id in self.waiting

        assert "to len() after remove(" in failed_checks(Clinging)["conserves"]

    def test_one_that_claims_to_remove_what_is_not_there_is_caught(self) -> None:
        class Boasting(Fifo):
            def remove(self, request_id: str) -> bool:
                super().remove(request_id)
                return True

        assert "answered True to remove('nobody'); expected False" in failed_checks(Boasting)["conserves"]

    def test_one_that_pops_what_was_removed_is_caught(self) -> None:
        class Ghostly(Priority):
            def pop(self, now_s: float) -> Request:
                request = self.heap.pop(0)[2]
                self.waiting.pop(request.id, None)
                return request

        assert "conserves" in failed_checks(Ghostly)


# --- wrong answers: batching -------------------------------------------------------------------------------


def batcher(decide: Callable[[QueueView, Replicas, float], Any]) -> type[BatchingPolicy]:
    class Sketch(BatchingPolicy):
        max_batch: int = 4

        def next_batch(self, queue: QueueView, idle: Replicas, now_s: float) -> Any:
            return decide(queue, idle, now_s)

    return Sketch


@pytest.mark.parametrize(
    ("decide", "says"),
    [
        (lambda queue, idle, now_s: Dispatch(0), "`size` must be 1 to"),
        (lambda queue, idle, now_s: Dispatch(len(queue) + 1), "as many as wait"),
        (lambda queue, idle, now_s: Dispatch(len(queue)), "that is above max_batch=4"),
        (lambda queue, idle, now_s: Dispatch(1, "replica/77"), "one of the idle ones"),
        (lambda queue, idle, now_s: Dispatch(1, ids=("nobody",)), "`ids` must be of waiting requests"),
        (lambda queue, idle, now_s: Dispatch(1, ids=()), "`ids` must be `size` different ones"),
        (lambda queue, idle, now_s: Wait(now_s), "`until_s` must be a time after `now_s`"),
        (lambda queue, idle, now_s: None, "a branch ends without `return`?"),
    ],
)
def test_a_wrong_batch_is_caught(decide: Callable[[QueueView, Replicas, float], object], says: str) -> None:
    assert says in failed_checks(batcher(decide))["answers"]


@pytest.mark.parametrize("until", [lambda now_s: None, lambda now_s: now_s + 0.01], ids=["change", "time"])
def test_a_batcher_that_waits_for_ever_is_caught(until: Callable[[float], float | None]) -> None:
    sketch = batcher(lambda queue, idle, now_s: Wait(until(now_s)))
    assert "never runs a batch" in failed_checks(sketch)["conserves_work"]


def test_a_batcher_that_waits_for_a_full_batch_is_none_of_these() -> None:
    check_policy(batcher(lambda queue, idle, now_s: Dispatch(4) if len(queue) >= 4 else Wait()))


def test_a_window_that_forgets_what_time_it_is_is_caught() -> None:
    class Late(Window):
        def next_batch(self, queue: QueueView, idle: Replicas, now_s: float) -> Dispatch | Wait:
            return Wait(queue.oldest_s + self.window_s)

    assert "`until_s` must be a time after `now_s`" in failed_checks(Late)["answers"]


# --- wrong answers: the other slots ------------------------------------------------------------------------


@pytest.mark.parametrize("count", [-1, 1.5, True, None, 10**9])
def test_a_wrong_number_of_replicas_is_caught(count: Any) -> None:
    class Sketch(ScalingPolicy):
        def desired(self, pool: PoolView, now_s: float) -> Scale:
            return Scale(count)

    assert "`replicas` must be" in failed_checks(Sketch)["answers"]


def test_a_degraded_request_under_another_id_is_caught() -> None:
    class Renaming(AdmissionPolicy):
        def admit(self, request: Request, fleet: FleetView, now_s: float) -> Admit | Degrade:
            return Degrade(Request("other", request.arrived_s))

    assert "a degraded request keeps its id and arrival" in failed_checks(Renaming)["answers"]


def test_a_retry_without_end_is_caught() -> None:
    class Stubborn(RetryPolicy):
        def after_failure(self, request: Request, failure: Failure, now_s: float) -> Retry:
            return Retry(0.1)

    assert failed_checks(Stubborn) == {
        "terminates": "Stubborn never gives up: it retried a request 1000 times; "
        "bound the attempts (`failure.attempt`)"
    }


@pytest.mark.parametrize(
    ("retry", "says"),
    [
        (Retry(-0.1), "0 or more"),
        (Retry(float("inf")), "a finite number of seconds"),
        (Retry(0.1, exclude="replica/0"), "`exclude` must be a tuple of replica ids"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_retry_is_caught(retry: Retry, says: str) -> None:
    class Sketch(RetryPolicy):
        def after_failure(self, request: Request, failure: Failure, now_s: float) -> Retry | GiveUp:
            return retry if failure.attempt == 1 else GiveUp()

    assert says in failed_checks(Sketch)["answers"]


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        (lambda probe: Verdict(probe.replica, "suspect"), "it was suspect already; answer None"),
        (lambda probe: Verdict("replica/99", "failed"), "it judges a replica that was never probed"),
        (lambda probe: Verdict(probe.replica, "unwell"), "`trust` must be one of healthy, suspect, failed"),
        (lambda probe: True, "expected Verdict or None"),
    ],
)
def test_a_wrong_verdict_is_caught(verdict: Callable[[ProbeOutcome], Any], says: str) -> None:
    class Sketch(HealthPolicy):
        def observe(self, probe: ProbeOutcome, now_s: float) -> Verdict | None:
            return verdict(probe)  # type: ignore[no-any-return]

    assert says in failed_checks(Sketch)["answers"]


def test_trust_that_a_failed_probe_wins_back_is_caught() -> None:
    class Backward(HealthPolicy):
        def reset(self, rng: random.Random) -> None:
            self.suspects: set[str] = set()

        def observe(self, probe: ProbeOutcome, now_s: float) -> Verdict | None:
            known = probe.replica in self.suspects
            self.suspects ^= {probe.replica}
            return Verdict(probe.replica, "healthy" if known else "suspect")

    assert "cannot make it better than suspect" in failed_checks(Backward)["answers"]


def test_a_suspicion_that_never_ends_is_caught() -> None:
    class Grudge(HealthPolicy):
        def reset(self, rng: random.Random) -> None:
            self.suspects: set[str] = set()

        def observe(self, probe: ProbeOutcome, now_s: float) -> Verdict | None:
            if probe.status == "ok" or probe.replica in self.suspects:
                return None
            self.suspects.add(probe.replica)
            return Verdict(probe.replica, "suspect")

    assert failed_checks(Grudge).keys() == {"recovers"}


def test_wrong_parts_of_a_composed_router_are_caught() -> None:
    class Reversing(NotFullFilter):
        def keep(self, request: Request, replicas: Replicas, now_s: float) -> list[ReplicaView]:
            return list(reversed(replicas))

    class Loud(InFlightScorer):
        def scores(self, request: Request, replicas: Replicas, now_s: float) -> list[float]:
            return [2.0 for _ in replicas]

    class Short(InFlightScorer):
        def scores(self, request: Request, replicas: Replicas, now_s: float) -> list[float]:
            return []

    class Beyond(MaxScorePicker):
        def pick(self, replicas: Replicas, scores: Sequence[float]) -> int:
            return len(replicas)

    assert "in the same order" in failed_checks(Reversing)["answers"]
    assert "a score lies in 0..1" in failed_checks(Loud)["answers"]
    assert "one for each candidate" in failed_checks(Short)["answers"]
    assert "expected an index below" in failed_checks(Beyond)["answers"]


# --- the kit's own manners ---------------------------------------------------------------------------------


def test_the_first_failure_is_raised() -> None:
    with pytest.raises(PolicyError, match="must name one of the replicas"):
        check_policy(router(lambda policy, request, replicas, now_s: Route("nobody")))


def test_cases_are_named_after_policy_and_check() -> None:
    names = [case.id for case in parametrize_with_checks([Random]).args[1]]
    assert names[0] == "random-can_be_made"
    assert "random-is_pure" in names
