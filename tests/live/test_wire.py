"""The codec: what is sent arrives as it was, and nothing that arrives can do more than raise `WireError`."""

import contextlib
import struct
import time

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fleet.actor import FleetError
from fleet.messages import WIRE_MESSAGES, BatchFinished, Payload, Reply, RunBatch, Submit, Work
from fleet.runtime.wire import (
    CONTROL,
    NODE,
    ZERO_COPY_BYTES,
    Batch,
    Codec,
    Hello,
    Returned,
    TooLargeError,
    WireError,
    text_of,
)
from traces.schema import Request, Slo

LIMIT = 1 << 20


def encode(*messages, to="router", sender="client/0"):
    codec, batch = Codec(LIMIT), Batch()
    for message in messages:
        codec.append(batch, to, sender, message)
    return batch.seal()


def decode(frames):
    return Codec(LIMIT).decode(frames)


def with_tensor(tensor):
    return Reply("r", "completed", result=Payload(tensor=tensor))


numbers = hnp.arrays(
    dtype=st.sampled_from(["?", "i1", "u2", "<i4", "<f2", "<f4", "<f8", "<c8", ">f4"]),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)
requests = st.builds(
    Request,
    id=st.text(st.characters(exclude_categories=["Cs"])),
    arrived_s=st.floats(allow_nan=False),
    prompt_tokens=st.none() | st.integers(0, 2**63 - 1),
    blocks=st.none() | st.lists(st.integers(0, 2**64 - 1)).map(tuple),
    slo=st.none() | st.builds(Slo, e2e_s=st.none() | st.floats(min_value=0.0)),
    extra=st.none()
    | st.dictionaries(st.text("ab"), st.none() | st.booleans() | st.integers(-9, 9) | st.text("xy")),
)
payloads = st.none() | st.builds(Payload, data=st.none() | st.binary())
messages = st.one_of(
    st.builds(Submit, request=requests, reply_to=st.text("abc/"), payload=payloads),
    st.builds(
        RunBatch, batch=st.integers(0, 99), reply_to=st.just("b"), work=st.lists(st.builds(Work, requests, st.just(1)))
    ),
    st.builds(
        BatchFinished, replica=st.text("ab"), batch=st.just(1), service_s=st.floats(0, 9),
        results=st.none() | st.lists(payloads),
    ),
)  # fmt: skip


@given(st.lists(messages))
def test_messages_arrive_equal_and_in_order(sent):
    assert decode(encode(*sent)) == [("router", "client/0", message) for message in sent]


@given(st.lists(numbers, max_size=4))
def test_tensors_arrive_equal_in_frames_of_their_own(tensors):
    frames = encode(*map(with_tensor, tensors))
    assert len(frames) == 1 + len(tensors)
    for (_, _, message), tensor in zip(decode(frames), tensors, strict=True):
        arrived = message.result.tensor
        assert arrived.dtype == tensor.dtype.newbyteorder("<")
        np.testing.assert_array_equal(arrived, tensor)
        assert not arrived.flags.writeable


def test_a_large_tensor_is_not_copied_on_either_side():
    tensor = np.arange(ZERO_COPY_BYTES, dtype=np.uint8)
    frames = encode(with_tensor(tensor))
    assert np.shares_memory(np.frombuffer(frames[1], np.uint8), tensor)
    assert np.shares_memory(decode(frames)[0][2].result.tensor, tensor)


def test_a_strided_tensor_arrives_equal():
    tensor = np.arange(24.0).reshape(4, 6)[::2, ::-3].T
    np.testing.assert_array_equal(decode(encode(with_tensor(tensor)))[0][2].result.tensor, tensor)


@pytest.mark.parametrize("kind", [*WIRE_MESSAGES, *CONTROL])
def test_every_message_of_the_wire_has_a_tag_of_its_own(kind):
    assert sum(other.__name__ == kind.__name__ for other in (*WIRE_MESSAGES, *CONTROL)) == 1


def test_a_message_between_nodes_may_carry_one_that_came_back():
    lost = Returned("replica/9", "client/0", "unreachable", Submit(Request("r", 0.0), "client/0"))
    assert decode(encode(lost, to=NODE)) == [(NODE, "client/0", lost)]


# --- what cannot be sent --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        Reply("\ud800", "completed"),
        Reply("r", "completed", attempts=2**70),
        Reply("r", "completed", detail=object()),
        with_tensor(np.array([object()])),
        with_tensor(np.array(["text"])),
        with_tensor(np.zeros(2, dtype=[("a", "f4")])),
        with_tensor(np.array(["2020-01-01"], dtype="M8[s]")),
    ],
    ids=["surrogate", "huge integer", "object", "object array", "text array", "record array", "dates"],
)
def test_what_cannot_be_encoded_names_its_sender_and_leaves_the_batch_as_it_was(message):
    codec, batch = Codec(LIMIT), Batch()
    codec.append(batch, "router", "client/0", Reply("before", "completed"))
    with pytest.raises(FleetError, match="Reply from client/0 to router cannot be encoded"):
        codec.append(batch, "router", "client/0", message)
    codec.append(batch, "router", "client/0", Reply("after", "completed"))
    assert [message.request_id for _, _, message in codec.decode(batch.seal())] == ["before", "after"]


@pytest.mark.parametrize("payload", [Payload(b"x" * LIMIT), Payload(tensor=np.zeros(LIMIT + 1, np.uint8))])
def test_a_message_larger_than_the_bound_is_refused_at_the_sender(payload):
    codec, batch = Codec(LIMIT), Batch()
    with pytest.raises(TooLargeError):
        codec.append(batch, "router", "client/0", Reply("r", "completed", result=payload))
    assert (batch.count, batch.tensors, batch.size_bytes) == (0, [], 5)


# --- what must not be believed --------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_random_frames_never_do_more_than_raise(frames):
    with contextlib.suppress(WireError):
        decode(frames)


@given(st.lists(messages, min_size=1, max_size=3), st.data())
def test_truncated_or_altered_batches_never_do_more_than_raise(sent, data):
    body = bytearray(encode(*sent, with_tensor(np.zeros(3)))[0])
    cut = data.draw(st.integers(0, len(body)))
    for position in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=8)):
        body[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        decode([body[:cut], bytes(24)])


@given(
    st.recursive(
        st.none() | st.integers().filter(lambda i: abs(i) < 2**63) | st.text("ab") | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text("ab"), inner),
    )
)
def test_well_formed_msgpack_of_the_wrong_shape_never_does_more_than_raise(value):
    with contextlib.suppress(WireError):
        decode([msgspec.msgpack.encode([["router", "client/0", value]])])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "malformed"),
        (b"\xc1", "malformed"),
        (b"\xdd\xff\xff\xff\xff", "malformed"),
        (b"\x91" * 100_000, "invalid"),
        (msgspec.msgpack.encode([["a", "b", ["NoSuchMessage", 1]]]), "invalid"),
        (msgspec.msgpack.encode([["a", "b", ["Undeliverable", "x", "unreachable", None]]]), "invalid"),
        (msgspec.msgpack.encode([["a", "b", ["Reply", 7, "completed"]]]), "invalid"),
        (msgspec.msgpack.encode([["a", "b", ["Reply", "r", "nonsense"]]]), "invalid"),
        (msgspec.msgpack.encode([["a", "b"]]), "invalid"),
        (encode(Reply("r", "completed"))[0][:-3], "malformed"),
        (bytes(encode(Reply("r", "completed"))[0]) + b"\0", "malformed"),
    ],
)
def test_each_way_of_being_wrong_has_its_reason(body, reason):
    with pytest.raises(WireError) as raised:
        decode([body])
    assert raised.value.reason == reason


@pytest.mark.parametrize(
    "reference",
    [
        [1, "<f8", [4]],
        [1, "<f8", [-3]],
        [1, "<f8", [-1, -3]],
        [1, "|O", [3]],
        [1, "<M8[s]", [3]],
        [1, "V24", [1]],
        [0, "<f8", [3]],
        [2, "<f8", [3]],
        [-1, "<f8", [3]],
        [1, "<f8", [2**62, 2**62, 2**62]],
        [1, "<f8", [1] * 40],
        [1, "<f8", 3],
        "tensor",
        {},
    ],
)
def test_a_tensor_reference_that_does_not_fit_its_frame_is_refused(reference):
    body = msgspec.msgpack.encode(
        [["a", "b", ["Reply", "r", "completed", 1, None, 1, None, False, None, [None, reference]]]]
    )
    with pytest.raises(WireError, match="invalid"):
        decode([body, bytes(24)])
    good = body.replace(msgspec.msgpack.encode(reference), msgspec.msgpack.encode([1, "<f8", [3]]))
    assert decode([good, bytes(24)])[0][2].result.tensor.shape == (3,)


def test_a_tensor_frame_that_nothing_refers_to_is_refused():
    with pytest.raises(WireError, match="nothing refers to"):
        decode([*encode(Reply("r", "completed")), b"extra"])


def test_an_announced_length_is_not_allocated():
    began = time.perf_counter()
    for head in (b"\xdd", b"\xc6", b"\xdb", b"\xdf"):
        with pytest.raises(WireError):
            decode([b"\x91\x93" + head + struct.pack(">I", 2**32 - 1)])
    assert time.perf_counter() - began < 1.0


def test_decoding_hello_keeps_its_fields():
    hello = Hello("host-a", 7, ("replica/0", "replica/1"), ("observers",), 3.0, True)
    assert decode(encode(hello, to=NODE)) == [(NODE, "client/0", hello)]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("client/näme ☃", "client/näme ☃"),
        ("a\nfleet: lost head", r"a\nfleet: lost head"),
        ("\x1b[31m", r"\x1b[31m"),
        ("x" * 100, "x" * 77 + "..."),
        ("\n" * 100, r"\n" * 38 + "\\..."),
        (b"\n", r"b'\n'"),
    ],
)
def test_what_a_peer_says_stays_on_one_line_of_the_log(value, says):
    assert text_of(value) == says
