"""Fixtures for tests that run ``mmf_run`` in their own process; a conftest.py imports the ones it uses."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Set the number of torch's threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


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
