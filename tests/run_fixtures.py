"""Fixtures for tests that run ``mmf_run`` in their own process; a conftest.py imports the ones it uses."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from mmf.common.registry import registry

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


def forget_data_sets() -> None:
    """Remove the registry entries of a data set, which the next run in this process must not use."""
    for key in [key for key in registry.mapping["state"] if key.startswith("clvqa_")]:
        registry.unregister(key)


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
    """Remove the handlers that MMF's logger adds in each run."""
    yield
    logging.captureWarnings(False)
    for name in ("mmf", "py.warnings"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            handler.close()
            logger.removeHandler(handler)
