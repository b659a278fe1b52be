"""Each of the five language models is trained and sampled."""

from __future__ import annotations

import pytest
from srm_runs import Runs, read_json

from mmclvqa.clove.annotations import load_records
from SRM.model import KINDS


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_model_learns_and_writes_replays(srm: Runs, name: str) -> None:
    folder = srm(
        "--model_name", name, "--n_train_epochs", "25", "--max_length", "48", setting="scene", order="abcdef"
    )
    assert folder == srm.root / f"{name}_replay" / f"{name}_scene_abcdef"
    records = load_records(folder / "abcdef_REPLAY_AT[f].npy")
    figures = read_json(folder / "abcdef_REPLAY_AT[f].json")
    assert figures["acceptance"] > 0.5
    assert {record["anno_source"] for record in records} == {f"{name}_replay"}
    assert sum("color" in record["question"] for record in records) > len(records) / 2
