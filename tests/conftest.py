"""Fixtures of several test folders: the project's folder, clove-mini, and real data if present."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests download nothing
os.environ.setdefault("PYTHONFAULTHANDLER", "1")  # aborted processes write their stacks
import mmclvqa  # noqa: E402, F401  (before any test module imports mmf)
from tests.process_limit import LIMIT, LONG_LIMIT, process_limit  # noqa: E402

PROJECT = Path(__file__).resolve().parent.parent
LASTING_STATE = {"imports_setup", "mmf_root", "pythia_path"}
"""Registry entries that importing MMF makes once."""
EXPENSIVE = {"trained"}
"""Fixtures for the whole session that only one parallel worker should make."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the groups that share an expensive fixture first: parallel workers then finish at about the same time."""
    for item in items:
        shared = EXPENSIVE.intersection(getattr(item, "fixturenames", ()))
        if shared and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(*shared))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


@pytest.fixture(autouse=True)
def _registry_as_it_was() -> Iterator[None]:
    """Restore MMF's registry, which is shared in the process, after each test."""
    module = sys.modules.get("mmf.common.registry")
    before = dict(module.registry.mapping["state"]) if module else {}
    yield
    module = sys.modules.get("mmf.common.registry")
    if module:
        state = module.registry.mapping["state"]
        for name in set(state) - set(before) - LASTING_STATE:
            del state[name]
        state.update(before)


@pytest.fixture(autouse=True)
def _settings_as_they_were() -> Iterator[None]:
    """Forget the settings outside of the package after each test, because they are known by name in the process."""
    from mmclvqa.clove import tasks

    tables = (tasks._files, tasks._given, tasks.IMAGE_SOURCES)
    copies = [dict(table) for table in tables]
    yield
    for table, before in zip(tables, copies, strict=True):
        table.clear()
        table.update(before)


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def coercions_said() -> Iterator[list[str]]:
    """Return the log lines about data that departs from the published form, independent of the logging setup."""
    from mmclvqa.clove.records import logger

    handler = _Lines()
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def _limited_processes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Limit the time of the processes that a test starts."""
    with process_limit(LONG_LIMIT if request.node.get_closest_marker("long") else LIMIT):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the stderr of a failed process to the report of the test."""
    report = yield
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, subprocess.CalledProcessError | subprocess.TimeoutExpired) and error.stderr:
        text = error.stderr if isinstance(error.stderr, str) else error.stderr.decode(errors="replace")
        report.sections.append(("stderr of the process", text))
    return report


@pytest.fixture(scope="session")
def project() -> Path:
    """Return the root of the repository."""
    return PROJECT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real published data, which some machines have beside the checkout."""
    folder = Path(os.environ.get("CLOVE_SHARED", PROJECT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip("the real published data is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def clove_mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small clove-mini, generated once per test session."""
    root = tmp_path_factory.mktemp("data") / "clove-mini"
    from mmclvqa.clove.__main__ import main

    assert main(["mini", str(root), "--train", "64", "--val", "32"]) == 0
    return root
