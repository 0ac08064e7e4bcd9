"""A command's parser: how it says what is wrong, and the arguments that commands of several modules share."""

from __future__ import annotations

import argparse
import re
from argparse import SUPPRESS
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

from fleet.cli.values import UsageError, endpoint, meant


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with what was probably meant."""

    summary = ""
    """What it does, in a line of its parent's help."""

    def __init__(self, **kwargs: Any) -> None:  # Any: handed on as they are
        super().__init__(**{**kwargs, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        invalid = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        hint = meant(invalid[1], re.findall(r"[\w-]+", invalid[2])) if invalid else ""
        raise UsageError(f"{self.prog.partition(' ')[2]}: {message}{hint}".removeprefix(": "))


def command(commands: Any, name: str, run: str, text: str) -> Parser:  # Any: argparse keeps its type private
    """A command that `run`, ``module:function`` of this package, answers."""
    parser: Parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("--debug", action="store_true", default=SUPPRESS, help=SUPPRESS)
    parser.set_defaults(run=run, parser=parser)
    parser.summary = text
    return parser


def group(commands: Any, name: str, text: str) -> Parser:
    """A command that has commands of its own."""
    parser: Parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.summary = text
    return parser


def help_by_groups(groups: Mapping[str, Sequence[str]], commands: Mapping[str, Parser]) -> list[str]:
    """A line for each of `commands`, in the order of `groups`, the first of a group with the group's name."""
    wide, long = max(map(len, groups)), max(map(len, commands))
    lines = []
    for name, members in groups.items():
        for heading, member in zip_longest((name,), members, fillvalue=""):
            lines.append(f"  {heading:{wide}}  {member:{long}}  {commands[member].summary}")
    return lines


def set_flag(
    parser: Parser, what: str = "the fleet", such: str = "routing=round-robin --set pools.large.replicas=8"
) -> None:
    """`what` is changed, with examples `such` as may be given."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", dest="changes",
        help=f"change {what}, as in --set {such} (repeatable, in order)",
    )  # fmt: skip


def key_flags(parser: Parser, *, head: bool) -> None:
    """Who this side is, and whom it believes."""
    parser.add_argument(
        "--keys", type=Path, metavar="FILE", help="this side's CURVE key pair (fleet keys FILE)"
    )
    if head:
        parser.add_argument(
            "--allow", type=Path, metavar="FILE", help="TOML list of the public keys that may connect"
        )
    else:
        parser.add_argument("--server-key", metavar="KEY", help="the head's public key")
    parser.add_argument(
        "--insecure", action="store_true", help="no keys beyond loopback: the network itself is trusted"
    )


def head_argument(parser: Parser) -> None:
    """The endpoint of a running head."""
    parser.add_argument("head", metavar="HEAD", type=endpoint, help="where the head listens: tcp://host:port")
