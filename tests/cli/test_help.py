"""`fleet --help` is one screen: every command once, in its group, in a line."""

from __future__ import annotations

from collections import Counter
from itertools import chain

from fleet.cli.arguments import GROUPS, _parser
from tests.cli.conftest import Fleet

SCREEN_LINES, SCREEN_COLUMNS = 40, 80


def test_every_command_is_in_one_group() -> None:
    assert Counter(chain.from_iterable(GROUPS.values())) == Counter(_parser().commands.keys())


def test_help_fits_a_screen(fleet: Fleet) -> None:
    lines = fleet("--help").out.splitlines()
    assert len(lines) <= SCREEN_LINES
    assert [line for line in lines if len(line) > SCREEN_COLUMNS] == []


def test_each_command_has_its_line(fleet: Fleet) -> None:
    lines = fleet("--help").out.splitlines()
    for name, command in _parser().commands.items():
        assert any(f" {name} " in line and line.endswith(f" {command.summary}") for line in lines), name


def test_groups_are_named_once_in_front_of_their_first_command(fleet: Fleet) -> None:
    lines = fleet("--help").out.splitlines()
    for heading, (first, *_) in GROUPS.items():
        assert [line.split()[:2] for line in lines].count([heading, first]) == 1
