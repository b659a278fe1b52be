"""UniVQA really learns a CLOVE task, and really looks at the picture."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import lmdb
import pytest

from mmclvqa import cli
from mmclvqa.clove.__main__ import main as make_data
from mmclvqa.clove.data_root import GQA_FEATURES
from mmclvqa.clove.features import open_lmdb
from mmclvqa.clove.records import load_records
from tests.plugin.conftest import OBJECT_TASK
from tests.run_fixtures import fresh_logging, torch_threads  # noqa: F401

# One parallel worker runs all of them, because they share what is trained first.
pytestmark = pytest.mark.xdist_group("object_task")

PROJECT = Path(__file__).resolve().parents[2]


@dataclass
class ObjectTask:
    """Runs of the demo's object task in this process."""

    data: Path
    folder: Path

    def accuracy(self, *words: str, save_dir: Path) -> float:
        """Run ``mmf_run`` with further overrides and return the last accuracy on the val split."""
        names = ("model=unicl", "dataset=clvqa", f"env.clove_root={self.data}", f"env.root={self.folder}")
        cli.run([f"config={PROJECT / OBJECT_TASK}", *names, f"env.save_dir={save_dir}", *words])
        return json.loads((save_dir / "results.json").read_text())["evaluations"][-1]["metrics"]["textvqa_accuracy"]


@pytest.fixture(scope="module")
def object_task(tmp_path_factory: pytest.TempPathFactory) -> ObjectTask:
    """clove-mini at its default size."""
    data = tmp_path_factory.mktemp("clove") / "clove-mini"
    assert make_data(["mini", str(data)]) == 0
    return ObjectTask(data, tmp_path_factory.mktemp("experiments"))


@pytest.fixture(scope="module")
def accuracy(object_task: ObjectTask) -> float:
    """The accuracy of the demo's own training."""
    with torch_threads(1):
        return object_task.accuracy("run_type=train_val", save_dir=object_task.folder / "object")


def test_the_object_task_is_learned(accuracy: float) -> None:
    assert accuracy >= 0.50


def test_the_most_frequent_answer_is_rarely_right(object_task: ObjectTask) -> None:
    answers = Counter(r["answer"] for r in load_records(object_task.data / "functional" / "fcl_mmf_object_val.npy"))
    assert answers.most_common(1)[0][1] / answers.total() <= 0.25


def test_other_records_features_lower_the_accuracy_clearly(
    object_task: ObjectTask, accuracy: float, tmp_path: Path
) -> None:
    shuffled = tmp_path / "shuffled.lmdb"
    with open_lmdb(object_task.data / GQA_FEATURES) as database, database.begin() as reading:
        keys = pickle.loads(reading.get(b"keys"))
        with lmdb.open(str(shuffled), map_size=2**30) as copy, copy.begin(write=True) as writing:
            writing.put(b"keys", pickle.dumps(keys))
            for key, other in zip(keys, keys[1:] + keys[:1], strict=True):
                writing.put(key, reading.get(other))
    words = (
        "run_type=val",
        f"checkpoint.resume_file={object_task.folder / 'object' / 'unicl_final.pth'}",
        f"dataset_config.clvqa.features.gqa={shuffled}",
    )
    assert object_task.accuracy(*words, save_dir=tmp_path / "save") <= accuracy - 0.10
