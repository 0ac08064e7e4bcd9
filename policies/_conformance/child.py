"""A fresh process of the conformance kit: named a class and given parameters as JSON, it prints a digest."""

from __future__ import annotations

import sys

import msgspec

from policies._conformance.drive import answers
from policies.base import Policy
from policies.building import build
from policies.registry import resolve, tag_field


def main(name: str) -> None:
    """Print the digest of every answer of one drive."""
    from hashlib import sha256

    cls = resolve(Policy, name)
    policy = build(cls, {**msgspec.json.decode(sys.stdin.buffer.read()), tag_field(cls): name})
    print(sha256(repr(answers(policy, 1)).encode()).hexdigest())


if __name__ == "__main__":
    main(sys.argv[1])
