"""Recorded sessions become closed-loop ones: who follows whom, and how long they thought."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.traces import strategies
from tests.traces.test_trace import of
from traces import Observed, Request, Trace, TraceEntry, TraceError, Transform, load_trace, merge, sessions


def linked(trace, **options):
    """`{id: (parent, turn, think_s)}`."""
    return {
        entry.request.id: (entry.request.parent, entry.request.turn, entry.think_s)
        for entry in trace.sessions(**options)
    }


def recorded(id, arrived_s, session=None, *, e2e_s=None, think_s=None, **request):
    observed = None if e2e_s is None else Observed(e2e_s=e2e_s)
    return TraceEntry(Request(id, arrived_s, session=session, **request), None, observed, think_s)


@st.composite
def visits(draw):
    """Requests of a few sessions and of none, with or without an observed end, turns, parents."""
    entries = []
    for number in range(draw(st.integers(0, 12))):
        maybe = st.none() | st.sampled_from([f"r{other}" for other in range(12)])
        entries.append(
            recorded(
                f"r{number}",
                draw(st.floats(0, 100)),
                draw(st.sampled_from([None, "a", "b", "c"])),
                e2e_s=draw(st.none() | st.floats(0, 50)),
                turn=draw(st.none() | st.integers(0, 5)),
                parent=draw(maybe),
                think_s=draw(st.none() | st.floats(0, 50)),
            )
        )
    return Trace.from_entries(entries)


@given(visits())
def test_each_session_is_a_tree_and_all_of_it_is_in_the_trace(trace):
    entries = {entry.request.id: entry.request for entry in trace.sessions()}

    roots = set()
    for request in entries.values():
        if request.session is None:
            continue
        above, passed = request, set()
        while above.parent is not None:
            assert above.id not in passed, "a circle"
            passed.add(above.id)
            above = entries[above.parent]
            assert above.session == request.session
        roots.add((request.session, above.id))
    assert len(roots) == len({session for session, _ in roots})


@given(visits())
def test_think_times_are_never_negative_and_stand_before_every_turn_but_the_first(trace):
    for entry in trace.sessions():
        if entry.request.session is not None:
            assert (entry.think_s is None) == (entry.request.parent is None)
            assert entry.think_s is None or entry.think_s >= 0


@given(visits())
def test_arrivals_and_requests_without_a_session_stay_what_they_are(trace):
    for before, after in zip(trace, trace.sessions(), strict=True):
        assert after.request.arrived_s == before.request.arrived_s
        assert after == before or after.request.session is not None


@given(visits())
def test_linking_twice_is_linking_once(trace):
    once = trace.sessions()

    assert once.sessions().sha256 == once.sha256


@strategies.few
@given(st.integers(0, 99))
def test_sessions_that_are_closed_loop_stay_what_they_are(seed):
    trace = sessions(1.0, 30, seed=seed, think_s=3)

    assert trace.sessions().sha256 == trace.sha256


def test_a_turn_follows_the_one_before_and_its_user_thought_from_the_end_of_the_answer():
    trace = Trace.from_entries(
        [
            recorded("a", 0.0, "s", e2e_s=4.0),
            recorded("x", 1.0),
            recorded("b", 10.0, "s", e2e_s=9.0),
            recorded("c", 15.0, "s"),
            recorded("d", 18.0, "s"),
        ]
    )

    assert linked(trace) == {
        "a": (None, 0, None),
        "x": (None, None, None),
        "b": ("a", 1, 6.0),
        "c": ("b", 2, 0.0),  # it came before the answer
        "d": ("c", 3, 3.0),  # no end on record: the whole gap
    }


def test_recorded_turns_say_the_order_and_are_kept_where_all_are_there():
    entries = [
        recorded("a", 0.0, "s", turn=7),
        recorded("b", 1.0, "s", turn=3),
        recorded("c", 9.0, "s", turn=9),
    ]

    assert linked(Trace.from_entries(entries)) == {
        "b": (None, 3, None),
        "a": ("b", 7, 0.0),
        "c": ("a", 9, 9.0),
    }
    assert [turn for _, turn, _ in linked(Trace.from_entries([*entries, recorded("d", 5.0, "s")])).values()] == [
        0, 1, 2, 3,
    ]  # fmt: skip


def test_a_recorded_parent_stays_if_it_is_an_earlier_turn_of_the_session():
    trace = Trace.from_entries(
        [
            recorded("a", 0.0, "s"),
            recorded("b", 1.0, "s", parent="a"),
            recorded("again", 3.0, "s", parent="a", think_s=0.5),
            recorded("lost", 4.0, "s", parent="cut off"),
        ]
    )

    assert linked(trace) == {
        "a": (None, 0, None),
        "b": ("a", 1, 1.0),
        "again": ("a", 2, 0.5),
        "lost": ("again", 3, 1.0),
    }


def test_the_later_part_of_a_session_begins_anew():
    trace = sessions(0.5, 60, seed=3, turns=5, turns_law="fixed", think_s=10)

    rest = trace.slice(40, 1e9)

    ids = {entry.request.id for entry in rest}
    assert any(entry.request.parent not in {None, *ids} for entry in rest)
    assert {entry.request.parent for entry in rest.sessions()} <= {None, *ids}


def test_the_header_says_that_sessions_were_linked():
    trace = of(0.0, 1.0, session=["s", "s"])

    assert trace.sessions().header.transforms == (Transform("sessions", {"infer": False}),)
    assert trace.sessions().header.provenance == "derived"


# --- told from prefix blocks --------------------------------------------------------------------------------


def said(id, arrived_s, prompt, blocks, output=10):
    return TraceEntry(Request(id, arrived_s, prompt, tuple(blocks), 16), output)


def test_a_prompt_that_begins_with_all_of_an_earlier_one_continues_it():
    trace = Trace.from_entries(
        [
            said("a", 0.0, 40, [0, 1, 2]),
            said("b", 5.0, 70, [0, 1, 3, 4, 5]),
            said("stranger", 6.0, 80, [0, 11, 12, 13, 14]),  # it shares only what many prompts begin with
            said("c", 9.0, 95, [0, 1, 3, 4, 6, 7]),
            said("edited", 11.0, 60, [0, 1, 3, 8]),  # too short to hold b
        ]
    )

    found = trace.sessions(infer=True)

    assert [entry.request.session for entry in found] == ["a", "a", None, "a", "a"]
    assert linked(trace, infer=True) == {
        "a": (None, 0, None),
        "b": ("a", 1, 5.0),
        "stranger": (None, None, None),
        "c": ("b", 2, 4.0),
        "edited": ("a", 1, 11.0),
    }


def test_a_short_turn_that_fills_no_block_is_continued_all_the_same():
    trace = Trace.from_entries(
        [said("a", 0.0, 20, [0, 1], 2), said("b", 1.0, 25, [0, 2], 2), said("c", 2.0, 30, [0, 3], 2)]
    )

    assert [parent for parent, _, _ in linked(trace, infer=True).values()] == [None, "a", "b"]


def test_a_prompt_that_is_nothing_but_a_common_beginning_is_continued_by_nobody():
    trace = Trace.from_entries(
        [
            said("first", 0.0, 50, [0, 1, 2, 3]),
            said("bare", 1.0, 16, [0], 1),
            said("other", 2.0, 60, [0, 6, 7, 8]),
        ]
    )

    assert {parent for parent, _, _ in linked(trace, infer=True).values()} == {None}


def test_what_arrives_with_a_prompt_does_not_continue_it():
    trace = Trace.from_entries([said("a", 0.0, 20, [0, 1]), said("b", 0.0, 40, [0, 2, 3])])

    assert {parent for parent, _, _ in linked(trace, infer=True).values()} == {None}


def test_inference_finds_the_sessions_of_chat_that_forgot_them():
    chat = load_trace("chat-small")
    bare = Trace(chat.table.drop_columns(["session", "turn", "parent", "think_s"]), chat.header)

    guess = {id: parent for id, (parent, _, _) in linked(bare, infer=True).items()}

    # A parent that adds no full block of its own to the system prompt of 4 blocks cannot be told from any other.
    tells = {entry.request.id for entry in chat if entry.request.prompt_tokens >= 5 * 64}
    truth = {entry.request.id: entry.request.parent for entry in chat if entry.request.parent in tells}
    assert len(truth) > 1000
    assert {id: guess[id] for id in truth} == truth
    assert {parent for id, parent in guess.items() if id not in truth} == {None}


@pytest.mark.parametrize(
    ("trace", "message"),
    [
        (
            of(0.0, session=["s"], prompt_tokens=[20], blocks=[[0]], block_tokens=[16]),
            "the trace records some",
        ),
        (of(0.0, prompt_tokens=[20]), "has no prefix blocks"),
        (merge(of(0.0)), "has no prefix blocks"),
    ],
)
def test_there_must_be_something_to_infer_from_and_reason_to(trace, message):
    with pytest.raises(TraceError, match=message):
        trace.sessions(infer=True)
