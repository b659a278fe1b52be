"""UniVQA really learns a CLOVE task, and really looks at the picture."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import lmdb
import pytest

from mmclvqa.clove.data_root import GQA_FEATURES
from mmclvqa.clove.features import open_lmdb
from mmclvqa.clove.records import load_records
from tests.plugin.conftest import Runner

# One parallel worker runs all of them, because they share what is trained first.
pytestmark = pytest.mark.xdist_group("object_task")

ACCURACY = "textvqa_accuracy"


@pytest.fixture(scope="module")
def trained(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """The demo's own run: clove-mini at its default size, the object task."""
    root = tmp_path_factory.mktemp("clove") / "clove-mini"
    subprocess.run([sys.executable, "-m", "mmclvqa.clove", "mini", str(root)], cwd=project, check=True)
    runner = Runner(project, root, tmp_path_factory.mktemp("experiments"))
    done = runner("run_type=train_val", f"env.save_dir={runner.folder / 'object'}", tiny=False)
    assert done.returncode == 0, done.stderr
    return runner


def test_the_object_task_is_learned(trained: Runner) -> None:
    assert trained.results(trained.folder / "object")[-1]["metrics"][ACCURACY] >= 0.50


def test_the_most_frequent_answer_is_rarely_right(trained: Runner) -> None:
    root = Path(trained.environment["CLOVE_ROOT"])
    answers = Counter(r["answer"] for r in load_records(root / "functional" / "fcl_mmf_object_val.npy"))
    assert answers.most_common(1)[0][1] / answers.total() <= 0.25


def test_other_records_features_lower_the_accuracy_clearly(trained: Runner, tmp_path: Path) -> None:
    shuffled = tmp_path / "shuffled.lmdb"
    source = Path(trained.environment["CLOVE_ROOT"]) / GQA_FEATURES
    with open_lmdb(source) as database, database.begin() as reading:
        keys = pickle.loads(reading.get(b"keys"))
        with lmdb.open(str(shuffled), map_size=2**30) as copy, copy.begin(write=True) as writing:
            writing.put(b"keys", pickle.dumps(keys))
            for key, other in zip(keys, keys[1:] + keys[:1], strict=True):
                writing.put(key, reading.get(other))
    done = trained(
        "run_type=val",
        f"checkpoint.resume_file={trained.folder / 'object' / 'unicl_final.pth'}",
        f"dataset_config.clvqa.features.gqa={shuffled}",
        f"env.save_dir={tmp_path / 'save'}",
        tiny=False,
    )
    assert done.returncode == 0, done.stderr
    right = trained.results(trained.folder / "object")[-1]["metrics"][ACCURACY]
    assert trained.results(tmp_path / "save")[-1]["metrics"][ACCURACY] <= right - 0.10
