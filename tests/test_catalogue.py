"""docs/policies.md says what the code says, of everything that is shipped and of nothing else."""

import re

import pytest

from experiments import catalogue
from policies import Route, RoutingPolicy
from tests.conftest import ROOT
from tests.policies.makers import SHIPPED


class NotShippedButInATest(RoutingPolicy):
    """Takes the first."""

    def route(self, request, replicas, now_s):
        return Route(replicas[0].id)


@pytest.fixture(scope="module")
def page() -> str:
    return catalogue.page()


def test_the_page_is_what_the_command_prints(page):
    kept = (ROOT / catalogue.PAGE).read_text(encoding="utf-8")
    assert kept == page, f"{catalogue.PAGE} is not what the policies say now; run: {catalogue.COMMAND}"


def test_every_policy_that_is_shipped_has_a_row_with_its_parameters_and_what_shows_it(page):
    rows = {found[1]: line for line in page.splitlines() if (found := re.match(r"\| \[`([\w-]+)`\]", line))}
    assert sorted(rows) == sorted(cls.name() for cls in SHIPPED)
    for cls in SHIPPED:
        cells = re.split(r"(?<!\\)\|", rows[cls.name()])
        assert len(cells) == 6
        assert all(f"`{field}" in cells[3] for field in cls.__struct_fields__)
        assert cells[4].strip(), f"nothing shows {cls.name()}"


def test_what_is_not_of_the_library_is_not_on_the_page(page):
    assert NotShippedButInATest.name() not in page


def test_each_slot_says_which_policy_to_start_from_and_names_only_what_there_is(page):
    known = {cls.name() for cls in SHIPPED} | {field for cls in SHIPPED for field in cls.__struct_fields__}
    for slot, (_, text) in catalogue._guide().items():
        assert f"{text}\n\n| policy" in page
        assert "Start" in text, slot
        for name in re.findall(r"`([^`]+)`", text):
            assert name in known or name.startswith("fleet "), f"{slot} speaks of {name}, which is not there"


def test_a_slot_without_advice_is_told_of(monkeypatch):
    guide = catalogue._guide()
    guide.pop("hedge")
    monkeypatch.setattr(catalogue, "_guide", lambda: guide)
    with pytest.raises(ValueError, match="slots: hedge"):
        catalogue.page()


def test_the_command_prints_the_page(page, capsys):
    from fleet.cli.arguments import parse

    arguments = parse(["policies", "--markdown"])
    assert arguments.run(arguments) == 0
    assert capsys.readouterr().out == page
