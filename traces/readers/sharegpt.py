"""Conversations as ShareGPT has them, a JSON list or one object a line: texts, no token counts and no times.

Each answer is a request. Its prompt is all that was said before it, so that prompts grow along a conversation; the
turns are a session, each following the one before at once, as the file knows no pause. Texts do not say how many
tokens they are: the caller says how many characters make one (``chars_per_token``), and the count is rounded up. When
conversations begin is drawn by the law that the caller names. Both are steps in the header. The texts are not kept.

Format: ``conversations``, a list of ``from`` (``human`` and ``gpt`` above all) and ``value``, with an ``id``, as
src/aiperf/dataset/loader/sharegpt.py of ai-dynamo/aiperf reads the published file, commit 2980cd9e7b1a. ``messages`` of
``role`` and ``content``, as OpenAI's chat has them, are read alike.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from traces.errors import TraceError
from traces.published import header_of
from traces.readers import arrivals
from traces.readers.documents import Decoded, decode, fields, first_keys, objects
from traces.readers.found import Found, rows_of
from traces.readers.json_rows import others
from traces.readers.options import ReadOptions
from traces.readers.rows import Rows
from traces.schema import Header, Transform
from traces.source import Source

NAME = "sharegpt"
TAKES = frozenset({"arrivals", "chars_per_token"})
ANSWERS = frozenset({"gpt", "chatgpt", "bing", "bard", "assistant", "model"})
"""Who answers; everybody else asks, or sets the scene."""


class _Message(msgspec.Struct):
    sender: str | None = msgspec.field(name="from", default=None)
    role: str | None = None
    value: str | None = None
    content: Any = None  # text; or parts, of which those with text count

    def is_answer(self) -> bool:
        """Whether it is the model's."""
        return (self.sender or self.role or "").lower() in ANSWERS

    def chars(self) -> int:
        """Its length."""
        said = self.content if self.value is None else self.value
        parts = said if isinstance(said, list) else [said]
        texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
        return sum(len(text) for text in texts if isinstance(text, str))


class _Conversation(msgspec.Struct):
    id: str | int | None = None
    conversations: list[_Message] | None = None
    messages: list[_Message] | None = None

    def said(self) -> list[_Message]:
        """Its messages in order."""
        return self.conversations or self.messages or []


def sniff(source: Source) -> bool:
    """By the list of turns of the first conversation."""
    keys = first_keys(source)
    return "conversations" in keys or keys in ({"messages"}, {"id", "messages"})


def read(source: Source, options: ReadOptions) -> tuple[Rows, Header]:
    """Every answer of every conversation.

    Raises:
        TraceError: No law of arrivals is told, or not how many characters make a token.
    """
    per_token = options.chars_per_token
    if per_token is None:
        remedy = "say how to count them: chars_per_token=4 (--chars-per-token 4) is usual for English"
        raise TraceError("has texts and no counts of tokens", remedy=remedy, file=source.path)
    talks = decode(objects(source), _Conversation, source.path)
    found = [request for of in range(len(talks.values)) for request in _requests(of, talks, per_token)]
    rows = rows_of(found, talks.rows, {})
    begins_s, step = arrivals.drawn(len(talks.values), options, source.path, what="conversations")
    rows.put_arrivals(begins_s[np.array([request.of for request in found], dtype=int)], "s", "arrivals")
    _account(rows, talks)
    counting = Transform("count_tokens", {"chars_per_token": per_token})
    return rows, arrivals.derived(header_of(source, "ShareGPT"), counting, step)


def _requests(of: int, talks: Decoded[_Conversation], per_token: float) -> list[Found]:
    talk = talks.values[of]
    name = str(of) if talk.id is None else str(talk.id)
    asked, found = 0, list[Found]()
    for message in talk.said():
        if message.is_answer() and asked:
            turn = len(found)
            found.append(
                Found(
                    of=of,
                    id=f"{name}/{turn}",
                    session=name,
                    turn=turn,
                    parent=f"{name}/{turn - 1}" if turn else None,
                    think_s=0.0 if turn else None,
                    prompt_tokens=math.ceil(asked / per_token),
                    output_tokens=math.ceil(message.chars() / per_token),
                    others=others(fields(talks.texts[of]), _Conversation.__struct_fields__),
                )
            )
        asked += message.chars()
    return found


def _account(rows: Rows, talks: Decoded[_Conversation]) -> None:
    """Count what is no request: conversations without an answer, answers to nothing, what nobody answered."""
    to_nothing, unanswered = 0, 0
    for talk in talks.values:
        answers = [message.is_answer() for message in talk.said()]
        to_nothing += bool(answers) and answers[0]
        unanswered += bool(answers) and not answers[-1]
        if not any(answers[1:]):
            rows.without_request("conversation without an answer")
    rows.leave_out("texts", len(rows))
    rows.leave_out("answers to nothing (as context)", to_nothing)
    rows.leave_out("last messages that nobody answered", unanswered)
