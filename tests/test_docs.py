"""The documentation runs: every ```python block of README.md and docs/, and every console block marked `run`.

The blocks of one file run in order, in one namespace, in a fresh process whose folder is empty but for the
examples. An HTML comment on the line before a block changes that: `<!-- no-run -->` leaves it out, `<!-- file: x -->`
writes it to x in that folder, `<!-- run -->` runs the `$ fleet …` lines of a console block (exit status 0 is asked).
A file that replays live, or is marked `<!-- live -->` anywhere, is a test of the `live` kind.
"""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT

BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n+)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(?:#[^)]*)?\)")
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


class Block(NamedTuple):
    line: int
    language: str
    mark: str
    code: str


def blocks_of(path: Path) -> Iterator[Block]:
    text = path.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("code")) + 1
        yield Block(line, found["language"], found["mark"] or "", found["code"])


def runs(block: Block) -> bool:
    """Whether the block is executed, or is an input of one that is."""
    if block.mark == "no-run":
        return False
    return block.language == "python" or block.mark.startswith(("file:", "run"))


def is_live(path: Path) -> bool:
    blocks = [block for block in blocks_of(path) if runs(block)]
    return "<!-- live -->" in path.read_text(encoding="utf-8") or any(
        "replay(" in block.code for block in blocks
    )


def cases() -> Iterator[object]:
    for path in DOCUMENTS:
        if any(runs(block) for block in blocks_of(path)):
            marks = [pytest.mark.live] if is_live(path) else []
            yield pytest.param(path, id=path.relative_to(ROOT).as_posix(), marks=marks)


def script_of(path: Path, folder: Path) -> str:
    """One script whose lines are where they are in the document, so that a traceback points into it."""
    lines: list[str] = []
    for block in blocks_of(path):
        if not runs(block):
            continue
        if block.mark.startswith("file:"):
            (folder / block.mark.removeprefix("file:").strip()).write_text(block.code)
        elif block.language == "python":
            lines += [""] * (block.line - 1 - len(lines))
            lines += block.code.splitlines()
    return "\n".join(lines) + "\n"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", list(cases()))
def test_the_snippets_of_a_document_run(path: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    script = script_of(path, tmp_path)
    name = tmp_path / "the_snippets.py"  # a name that shadows no module
    name.write_text(script)
    if script.strip():
        run([sys.executable, name.name], tmp_path)
    for block in blocks_of(path):
        if block.mark == "run":
            for line in block.code.splitlines():
                if line.startswith("$ fleet "):
                    command = "import sys; from fleet.cli import main; sys.exit(main())"
                    run(
                        [
                            sys.executable,
                            "-c",
                            command,
                            *shlex.split(line.removeprefix("$ fleet "), comments=True),
                        ],
                        tmp_path,
                    )


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_within_the_tree_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{path.name} links to {target}, which is not there"


def test_the_index_names_every_document() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    for path in (ROOT / "docs").rglob("*.md"):
        if path.name != "README.md":
            assert path.relative_to(ROOT / "docs").as_posix() in index, (
                f"docs/README.md does not name {path.name}"
            )


def test_the_command_reference_names_every_command_and_flag() -> None:
    import argparse

    from fleet.cli.arguments import _parser

    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")

    def check(parser: argparse.ArgumentParser) -> None:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for command in action.choices.values():
                    assert command.prog in text or command.prog.split()[-1] in text, command.prog
                    check(command)
            elif action.help is not argparse.SUPPRESS:
                for flag in action.option_strings:
                    assert flag in {"-h", "--help"} or flag in text, f"{parser.prog} {flag}"

    check(_parser())
