"""What several test folders need: where the project is, its small world, real data where present."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests download nothing
os.environ.setdefault("PYTHONFAULTHANDLER", "1")  # processes that are aborted write their stacks
import mmclvqa  # noqa: E402, F401  (before any test module imports mmf)
from tests.process_limit import LIMIT, LONG_LIMIT, process_limit  # noqa: E402

PROJECT = Path(__file__).resolve().parent.parent
LASTING_STATE = {"imports_setup", "mmf_root", "pythia_path"}
"""Entries that importing MMF makes once."""


@pytest.fixture(autouse=True)
def _registry_as_it_was() -> Iterator[None]:
    """MMF's registry is one for the process: what a test puts there is gone after it."""
    module = sys.modules.get("mmf.common.registry")
    before = dict(module.registry.mapping["state"]) if module else {}
    yield
    module = sys.modules.get("mmf.common.registry")
    if module:
        state = module.registry.mapping["state"]
        for name in set(state) - set(before) - LASTING_STATE:
            del state[name]
        state.update(before)


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def coercions_said() -> Iterator[list[str]]:
    """What is logged about data that departs from the published form, whatever else configures logging."""
    from mmclvqa.clove.coercion import logger

    handler = _Lines()
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def _limited_processes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Processes that a test starts have a time limit."""
    with process_limit(LONG_LIMIT if request.node.get_closest_marker("long") else LIMIT):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what a failed process wrote to stderr where the test itself does not."""
    report = yield
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, subprocess.CalledProcessError | subprocess.TimeoutExpired) and error.stderr:
        text = error.stderr if isinstance(error.stderr, str) else error.stderr.decode(errors="replace")
        report.sections.append(("stderr of the process", text))
    return report


@pytest.fixture(scope="session")
def project() -> Path:
    """The repository's root."""
    return PROJECT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real published data, which lies beside a checkout on some machines."""
    folder = Path(os.environ.get("CLOVE_SHARED", PROJECT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip("the real published data is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def clove_mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small clove-mini, made once per test session."""
    root = tmp_path_factory.mktemp("data") / "clove-mini"
    subprocess.run(
        [sys.executable, "-m", "mmclvqa.clove", "mini", str(root), "--train", "64", "--val", "32"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
    )
    return root
