"""Fixtures for folders whose tests run ``mmf_run`` in their own process; a conftest.py takes them by importing them."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the runs in processes of their own have; tiny models are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    """MMF's logger adds handlers for each run and never takes them away."""
    yield
    logging.captureWarnings(False)
    for name in ("mmf", "py.warnings"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            handler.close()
            logger.removeHandler(handler)
