"""The learning rate by examples seen."""

from __future__ import annotations

import pytest

from SRM.schedule import Schedule


@pytest.mark.parametrize(
    ("style", "middle", "end"),
    [
        ("linear", 0.5, 0.0),
        ("cos", 0.5, 0.0),
        ("const", 1.0, 1.0),
        ("None", 1.0, 1.0),
    ],
)
def test_rate_rises_to_its_peak_and_decays_in_its_style(style: str, middle: float, end: float) -> None:
    schedule = Schedule(peak=1.0, warm_up=100, total=1100, style=style)
    assert schedule.rate(50) == pytest.approx(0.5)
    assert schedule.rate(100) == pytest.approx(1.0)
    assert schedule.rate(600) == pytest.approx(middle)
    assert schedule.rate(1100) == pytest.approx(end)


def test_no_warm_up_begins_at_the_peak() -> None:
    assert Schedule(2.0, 0, 10, "linear").rate(0) == 2.0
