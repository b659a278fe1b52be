"""Fixtures for tests that run ``mmf_run`` in their own process; a conftest.py imports the ones it uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from mmclvqa import cli


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Set the number of torch's threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_line_error(opts: list[str]) -> str:
    """Run an ``mmf_run`` that must fail in this process, and return its error, which must be one line."""
    with pytest.raises(SystemExit) as stopped:
        cli.run(opts)
    line = str(stopped.value.code)
    assert line.startswith("error: ") and "\n" not in line
    return line


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread, as in separate processes; tiny models are slower with more."""
    with torch_threads(1):
        yield


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    """Close the logs of runs in this process, whose standard output ends with the test."""
    yield
    cli.forget_earlier_run()
