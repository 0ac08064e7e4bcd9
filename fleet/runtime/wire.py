"""The codec: many envelopes in one ZeroMQ message, and nothing that arrives can crash the process.

A *batch* is one multipart message. Its first frame is a msgpack array of envelopes ``[to, sender, message]``;
each tensor in them is a frame of its own, named in the first by (index, dtype, shape). Envelopes are encoded when
they are sent, straight into the batch's buffer: sizes are exact, and an encoding error points at its sender.

The address "" is the node itself: `Hello`, `Bye`, `Refused` and `Returned` go there, each alone in its batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Union, cast

import msgspec
import numpy as np
import zmq

from fleet.actor import FleetError
from fleet.messages import WIRE_MESSAGES, Message
from fleet.runtime.weighing import MOST_ITEMS, WEIGH_ABOVE_BYTES, is_heavy
from fleet.text import escaped

Frame: TypeAlias = zmq.Frame | bytes | bytearray | memoryview
Envelope: TypeAlias = tuple[str, str, Message]
"""(to, sender, message)"""

if TYPE_CHECKING:
    WireMessage: TypeAlias = Message
else:
    WireMessage = Union[WIRE_MESSAGES]  # noqa: UP007  # a tuple of types has no `|`

NODE = ""
"""The address of a node itself."""
ARRAY32 = b"\xdd\0\0\0\0"
"""A msgpack array header of fixed length; its count is filled in when the batch is sealed."""
ZERO_COPY_BYTES = 65_536
"""Below this a copy costs less than sharing a buffer with ZeroMQ's thread, and is aligned."""
MAX_DIMENSIONS = 32
FLUSH_BYTES = 65_536
"""A batch leaves when it has grown to this."""


# --- what nodes say to each other ----------------------------------------------------------------------


class Hello(Message, frozen=True, gc=False):
    """Who I am and whom I host. Repeated several times a lease; a new one replaces the last."""

    name: str
    incarnation: int
    """Of two processes with one name, the one with the larger number is the living one."""
    addresses: tuple[str, ...]
    groups: tuple[str, ...]
    lease_s: float
    """Silence for so long means that I am gone."""
    answer: bool = False
    """Say Hello back: I do not know you (any more)."""


class Bye(Message, frozen=True, gc=False):
    """I leave, and wait for no lease to run out."""

    reason: str
    in_order: bool = True
    """False: I failed."""


class Refused(Message, frozen=True, gc=False):
    """I will not talk to you."""

    reason: str


class Returned(Message, frozen=True, gc=False):
    """I could not hand this on."""

    to: str
    sender: str
    reason: str
    message: WireMessage


CONTROL = (Hello, Bye, Refused, Returned)
SENDABLE = frozenset(WIRE_MESSAGES)
"""The types that an actor may send to another process."""


class WireError(FleetError):
    """What arrived is not a batch. `reason` is one of a few words, for counting; the text says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


HEAVY = "heavy"
"""The reason of a `WireError`: so many items that no honest node sends them."""


class TooLargeError(FleetError):
    """One message is larger than a peer would accept."""


# --- batches --------------------------------------------------------------------------------------------


class Batch:
    """Envelopes on their way to one peer. Once sealed it is never changed again: ZeroMQ may share its memory."""

    __slots__ = ("buffer", "count", "spared", "tensor_bytes", "tensors")

    def __init__(self) -> None:
        self.buffer = bytearray(ARRAY32)
        self.count = 0
        self.tensors: list[np.ndarray] = []
        self.tensor_bytes = 0
        self.spared = False
        """An injected fault has let it pass, and is not asked again when it could not leave at once."""

    @property
    def size_bytes(self) -> int:
        """All its frames together."""
        return len(self.buffer) + self.tensor_bytes

    def seal(self) -> list[bytes | bytearray | memoryview]:
        """Its frames, ready to send."""
        self.buffer[1:5] = self.count.to_bytes(4, "big")
        return [self.buffer, *map(_as_frame, self.tensors)]


def _as_frame(array: np.ndarray) -> bytes | memoryview:
    if array.nbytes < ZERO_COPY_BYTES:
        return array.tobytes()
    return array.reshape(-1).view(np.uint8).data


_DTYPES = {np.dtype(code).str: np.dtype(code) for code in "?bBhHiIlLqQefdFD"}
"""What may travel: numbers of fixed size, little-endian. An object array would be code execution."""

_TensorReference = tuple[int, str, tuple[int, ...]]


class Codec:
    """Encodes and decodes batches; one per node (it keeps state during a call, and is not for threads)."""

    def __init__(self, max_message_bytes: int) -> None:
        self.max_message_bytes = max_message_bytes
        self._look_above_bytes = min(max_message_bytes, WEIGH_ABOVE_BYTES)
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._tensor_out)
        envelope = tuple[str, str, Union[(*WIRE_MESSAGES, *CONTROL)]]  # type: ignore[valid-type]  # built at run time
        self._decoder = msgspec.msgpack.Decoder(list[envelope], dec_hook=self._tensor_in)
        self._outgoing = Batch()
        self._incoming: Sequence[Frame] = ()
        self._used: set[int] = set()

    def append(self, batch: Batch, to: str, sender: str, message: Message) -> None:
        """Encode one more envelope into `batch`, or raise and leave `batch` as it was."""
        buffer, start, tensors, tensor_bytes = (
            batch.buffer,
            len(batch.buffer),
            len(batch.tensors),
            batch.tensor_bytes,
        )
        self._outgoing = batch
        try:
            self._encoder.encode_into((to, sender, message), buffer, -1)
            if len(buffer) - start > self._look_above_bytes:
                self._demand_acceptable(buffer[start:], message)
        except Exception as error:
            del buffer[start:], batch.tensors[tensors:]
            batch.tensor_bytes = tensor_bytes
            if isinstance(error, FleetError):
                raise
            raise FleetError(
                f"{type(message).__name__} from {sender} to {to} cannot be encoded: {error}"
            ) from error
        batch.count += 1

    def _demand_acceptable(self, encoded: bytearray, message: Message) -> None:
        kind, size, most = type(message).__name__, len(encoded), self.max_message_bytes
        if size > most:
            raise TooLargeError(f"a {kind} of {size:,} bytes; a message may have {most:,}")
        # What else is in its batch has room too.
        if is_heavy(encoded, MOST_ITEMS - FLUSH_BYTES):
            raise TooLargeError(f"a {kind} of more than {MOST_ITEMS - FLUSH_BYTES:,} items")

    def decode(self, frames: Sequence[Frame]) -> list[Envelope]:
        """The envelopes of a batch; `WireError` for anything that is not one."""
        if not frames:
            raise WireError("empty", "a message without a body")
        if len(frames[0]) > WEIGH_ABOVE_BYTES and is_heavy(_buffer(frames[0])):
            raise WireError(HEAVY, f"{len(frames[0]):,} bytes of more than {MOST_ITEMS:,} items")
        self._incoming = frames
        self._used.clear()
        try:
            envelopes: list[Envelope] = self._decoder.decode(cast(bytes, frames[0]))  # any buffer
        except msgspec.ValidationError as error:
            raise WireError("invalid", str(error)) from None
        except (msgspec.DecodeError, ValueError, RecursionError, OverflowError, MemoryError) as error:
            raise WireError("malformed", str(error)) from None
        finally:
            self._incoming = ()
        if len(self._used) != len(frames) - 1:
            raise WireError(
                "invalid", f"{len(frames) - 1 - len(self._used)} tensor frames that nothing refers to"
            )
        return envelopes

    def _tensor_out(self, value: object) -> _TensorReference:
        if not isinstance(value, np.ndarray):
            raise TypeError(
                f"a {type(value).__name__} is not a message, a number, text, bytes or an array of numbers"
            )
        array = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<")).reshape(value.shape)
        if array.dtype.str not in _DTYPES:
            raise TypeError(f"an array of {array.dtype} is not an array of plain numbers")
        if array.nbytes > self.max_message_bytes:
            raise TooLargeError(
                f"a tensor of {array.nbytes:,} bytes; a message may have {self.max_message_bytes:,}"
            )
        batch = self._outgoing
        batch.tensors.append(array)
        batch.tensor_bytes += array.nbytes
        return len(batch.tensors), array.dtype.str, array.shape

    def _tensor_in(self, kind: type, value: object) -> np.ndarray:
        """Called by the decoder where a tensor is expected; what it raises becomes a `ValidationError`."""
        del kind
        index, code, shape = msgspec.convert(value, _TensorReference)
        if not 0 < index < len(self._incoming):
            raise ValueError(f"there is no tensor frame {index}")
        dtype = _DTYPES.get(code)
        if dtype is None:
            raise ValueError(f"unknown dtype {code[:16]!r}")
        frame = self._incoming[index]
        if len(shape) > MAX_DIMENSIONS or min(shape, default=0) < 0:
            raise ValueError("impossible tensor shape")
        if math.prod(shape) * dtype.itemsize != len(frame):
            raise ValueError(f"a tensor of shape {shape} and dtype {code} does not fit {len(frame)} bytes")
        self._used.add(index)
        small = len(frame) < ZERO_COPY_BYTES
        array = np.frombuffer(bytes(frame) if small else memoryview(frame), dtype=dtype).reshape(shape)
        array.flags.writeable = False
        return array


def _buffer(frame: Frame) -> bytes | bytearray | memoryview:
    return frame.buffer if isinstance(frame, zmq.Frame) else frame


def text_of(value: Any, most: int = 80) -> str:  # Any: it is for logs, and takes what there is
    """At most so many characters of anything, for a log line: what would break the line is escaped."""
    text = value[: most + 1] if isinstance(value, str) else repr(value)
    text = escaped(text)
    return text if len(text) <= most else f"{text[: most - 3]}..."
