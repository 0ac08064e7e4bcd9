"""What others said, for a log or a terminal: a policy, an engine, a file or a peer may say anything."""

from __future__ import annotations


def escaped(text: str) -> str:
    """What cannot be printed, as Python writes it: it could end the line, or be an order to the terminal."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def one_line(text: str) -> str:
    """For one line: white space is a space, what cannot be printed is escaped."""
    return escaped(" ".join(text.split()))
