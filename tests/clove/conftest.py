"""Fixtures: a tiny data root in CLOVE's formats, and the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from clove_builders import make_features, make_record, write_lmdb

from mmclvqa.clove.__main__ import main
from mmclvqa.clove.data_root import (
    GQA_FEATURES,
    SPECIALS,
    TEXTVQA_FEATURES,
    TEXTVQA_OCR_FEATURES,
    VOCABULARY,
    Manifest,
    prompts_path,
    save_manifest,
    save_vocabulary,
)
from mmclvqa.clove.prompts import save_prompts
from mmclvqa.clove.records import save_records
from mmclvqa.clove.tasks import tasks


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """Return a valid data root of the functional setting with three train records and one val record per task."""
    root = tmp_path / "clove"
    sizes = {"train": 3, "val": 1}
    known = tasks("functional").values()
    for task in known:
        for split, count in sizes.items():
            records = [make_record(task.name, number) for number in range(count)]
            save_records(root / task.annotation_path(split), records)
    save_manifest(root, Manifest("tiny", 7, {"functional": {task.name: sizes for task in known}}))
    save_vocabulary(root / VOCABULARY, [*SPECIALS, "dog", "yes"])
    save_prompts(root / prompts_path("functional"), {task.name: [["dog"]] for task in known})
    write_lmdb(root / GQA_FEATURES, {str(number).encode(): make_features() for number in range(3)})
    for database in (TEXTVQA_FEATURES, TEXTVQA_OCR_FEATURES):
        write_lmdb(root / database, {f"train/{number}".encode(): make_features() for number in range(3)})
    return root


@pytest.fixture
def run_clove(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run ``python -m mmclvqa.clove ARGUMENTS`` in this process and return exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
