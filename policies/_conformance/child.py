"""A fresh process of the conformance kit: `python -m policies._conformance.child module:Class < parameters.json`."""

from __future__ import annotations

import sys

import msgspec

from policies._conformance.drive import answers
from policies.base import Policy
from policies.registry import build, resolve


def main(name: str) -> None:
    """Print the digest of every answer of one drive."""
    from hashlib import sha256

    cls = resolve(Policy, name)
    policy = build(cls, {**msgspec.json.decode(sys.stdin.buffer.read()), "policy": name})
    print(sha256(repr(answers(policy, 1)).encode()).hexdigest())


if __name__ == "__main__":
    main(sys.argv[1])
