"""What methods are for: on a stream of six small tasks, every one forgets less than fine-tuning.

Each task is eight records of clove-mini that the model learns by heart; accuracy is measured on these records.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mmclvqa import cli
from mmclvqa.clove.data_root import Manifest, save_manifest
from mmclvqa.clove.experiment_paths import SAVE, replay_file
from mmclvqa.clove.records import load_records, save_records
from mmclvqa.clove.tasks import GENERATED_SUFFIX, parse_order
from mmclvqa.evaluation.sweep import EvaluationConfig, evaluate_sweep
from mmclvqa.experiments.steps import Experiment, experiment_steps

# One parallel worker runs all of them, because they share what is trained first.
pytestmark = pytest.mark.xdist_group("stream")

ORDER = "oarlks"
RECORDS = 8
SIZES = (
    "model_config.unicl.text_bert.num_hidden_layers=1",
    "model_config.unicl.mmt.num_hidden_layers=1",
    "training.batch_size=8",
    "training.num_workers=0",
    "training.max_updates=35",
    "training.warmup_iterations=5",
    "training.lr_steps=[1000]",
    "training.checkpoint_interval=null",
    "training.evaluation_interval=null",
    "training.log_interval=null",
    "run_type=train",
)
METHODS = (
    "ewc:reg_lambda=3e8",
    "online_ewc:reg_lambda=3e8",
    "mas:reg_lambda=3e7",
    "gem:replay_rate=0.5",
    "agem:replay_rate=1",
    "random:replay_rate=1",
    "random:replay_rate=1,mask_images=true",
    "kmeans:replay_rate=1",
    "derpp:replay_rate=1",
    "srm:restore_rate=1",
)


@pytest.fixture(scope="module")
def stream(clove_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the first records of each task, which are its val records as well."""
    root = tmp_path_factory.mktemp("stream") / "data"
    shutil.copytree(clove_mini, root, ignore=shutil.ignore_patterns("fcl_*", "manifest.json"))
    for task in parse_order("functional", ORDER):
        records = load_records(clove_mini / task.annotation_path("train"))[:RECORDS]
        for split in ("train", "val"):
            save_records(root / task.annotation_path(split), records)
    sizes = {task.name: {"train": RECORDS, "val": RECORDS} for task in parse_order("functional", ORDER)}
    save_manifest(root, Manifest("stream", 0, {"functional": sizes}))
    return root


@pytest.fixture(scope="module")
def experiments(stream: Path) -> Path:
    """``ROOT``, shared so that the first task is trained once."""
    return stream.parent / "experiments"


def forgetting(method: str, stream: Path, root: Path) -> tuple[float, float]:
    """Learn the stream with a method; returns forgetting and learning accuracy, fractions in [0, 1]."""
    experiment = Experiment.of("functional", ORDER, method)
    for step in experiment_steps(experiment, str(root), "EXP_CONFIG/mini"):
        if step.kind == "train" and not Path(step.output).exists():
            cli.run([*step.arguments, *SIZES])
        elif step.kind == "srm" and not Path(step.output).exists():
            write_perfect_replays(stream, Path(step.output).parent)
    config = EvaluationConfig(Path("EXP_CONFIG/mini"), SIZES[:2], "cpu")
    result = evaluate_sweep("functional", ORDER, experiment.name, str(root / SAVE), config,
                            regularised=experiment.method.trains_first_task)  # fmt: skip
    summary = result.summary
    return summary.forgetting.average, summary.learning_accuracy.average


def write_perfect_replays(stream: Path, folder: Path) -> None:
    """Replay files with the true questions, answers and graphs of the earlier tasks, and no images."""
    order = parse_order("functional", ORDER)
    for index, current in enumerate(order):
        for past in order[:index]:
            records = load_records(stream / past.annotation_path("train"))
            generated = [record | {"stage": past.name + GENERATED_SUFFIX, "feature_path": None} for record in records]
            save_records(folder / replay_file(ORDER, past, current), generated)


@pytest.fixture(scope="module")
def fine_tuning(stream: Path, experiments: Path, project: Path) -> float:
    """The forgetting of fine-tuning."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setenv("CLOVE_ROOT", str(stream))
        forgotten, learned = forgetting("ft", stream, experiments)
    assert learned > 0.8 and forgotten > 0.4
    return forgotten


@pytest.mark.parametrize("method", METHODS)
def test_a_method_forgets_less_than_fine_tuning(
    method: str, fine_tuning: float, stream: Path, experiments: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("CLOVE_ROOT", str(stream))
    forgotten, learned = forgetting(method, stream, experiments)
    print(f"{method}: forgetting {forgotten:.3f} (fine-tuning {fine_tuning:.3f}), learning accuracy {learned:.3f}")
    assert forgotten < fine_tuning - 0.05
    assert learned > 0.25
