"""What random replay keeps is written down, with and without images."""

from __future__ import annotations

import pytest
from method_runs import Methods

WORDS = ("training.CL.use_replay=True", "training.CL.replay_method=random", "training.CL.replay_rate=0.25")


@pytest.mark.parametrize("withheld", [False, True])
def test_what_is_kept_is_written_down(methods: Methods, withheld: bool) -> None:
    methods.learn("object")
    words = (*WORDS, f"training.CL.replay_mask_img={withheld}", methods.resume_file("object"))
    methods.learn("attribute", *words)
    stored = methods.stored("attribute")
    regions = 4 * 16 * 64
    assert stored["records"] == 16 and (stored["bytes"] > 16 * regions) == (not withheld)
    assert methods.stored("object") == {"records": 0, "bytes": 0, "what": ""}
