"""The sweep: every checkpoint of an experiment is evaluated on every task, in one process.

Results are kept in ``<save>/<setting>/setting_<N>_<order>/val_<experiment>/`` (``val_<model>_<experiment>/`` of another
model than UniVQA): ``<learned>2<tested>/results.json`` for each pair, and ``sweep.json``. A pair is evaluated again
only when its checkpoint or its inputs change, so that an interrupted sweep resumes when it is re-run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from mmclvqa.answer_models import check_model
from mmclvqa.clove import experiment_paths as experiments
from mmclvqa.clove.data_root import VOCABULARY, annotation_file, load_manifest
from mmclvqa.clove.errors import DataError, TaskError
from mmclvqa.clove.experiment_paths import RESULTS_FILE
from mmclvqa.clove.files import read_yaml, write_json
from mmclvqa.clove.settings import order_text
from mmclvqa.clove.tasks import Task, default_data_root, find_setting, order_index, parse_order, setting_names
from mmclvqa.clove.text import clock, counted, did_you_mean, first_of
from mmclvqa.configuration import CONFIG_DIR, PluginConfiguration
from mmclvqa.evaluation.matrix import is_fraction, sweep_key, val_weights
from mmclvqa.evaluation.results import METRIC, PARTIAL_FILE, SWEEP_FILE, MultitaskResult, SweepResult
from mmclvqa.lazy import prepare_libraries
from mmclvqa.methods.base import Method
from mmclvqa.methods.combination import method_of_experiment
from mmclvqa.user_code import import_user_code, user_code_files

SPLIT = "val"
DATASET = "clvqa"
DEFAULT_CONFIG = "EXP_CONFIG"
PUBLISHED_DATA = "CLOVE"
"""Name of the data set of this package's settings if it has no manifest."""
FIXED_KEYS = ("config", "model", "dataset", "datasets", "run_type", "env.save_dir", "training.device")
"""Configuration keys that the evaluation sets itself, so that they cannot be overridden."""
DATA_OVERRIDE = "env.clove_root="
WITHOUT_EFFECT = (DATA_OVERRIDE, "training.CL.restore_", "training.CL.previous_dir=", "training.CL.replay_dir=")
"""Overrides that do not change an evaluation: the content of the data counts, not its folder, and only training reads
files of earlier tasks."""
CODE_OVERRIDE = "env.user_dir="
METRICS_OVERRIDE = "evaluation.metrics="
DEVICES = ("auto", "cpu", "cuda")
SAVE_MARK = f"/{Path(experiments.SAVE).name}/"
"""What the paths of all checkpoints and results contain before the part that does not depend on ``save_dir``."""
LISTED = 5
"""Number of existing folders that the message about a missing one lists."""


@dataclass(frozen=True)
class EvaluationConfig:
    """The configuration, data and device of an evaluation.

    Attributes:
        config_dir: folder of the configuration files, see :func:`mmclvqa.clove.experiment_paths.task_configuration`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.
        model: registered name of the answer model.
    """

    config_dir: Path
    overrides: tuple[str, ...] = ()
    device: str = "auto"
    model: str = experiments.MODEL

    @classmethod
    def from_environment(
        cls, device: str | int | None = None, overrides: tuple[str, ...] = (), model: str = experiments.MODEL
    ) -> EvaluationConfig:
        """Use the configuration files in ``$CONFIG`` (default ``EXP_CONFIG``).

        Args:
            device: as above, or the number of a GPU as ``CUDA_VISIBLE_DEVICES`` counts (the first of a list); None
                means ``auto``.
            overrides: configuration overrides; ``env.user_dir`` is imported if the model is not UniVQA, and for
                experiments of methods that are not part of this package.

        Raises:
            ConfigError: no such model is registered.
            DataError: the device is unknown, or an override is malformed or not allowed.
        """
        for override in overrides:
            key, separator, _ = override.partition("=")
            if not separator:
                raise DataError(f"{override!r} is not of the form key=value")
            if key in FIXED_KEYS:
                raise DataError(f"{override}: the evaluation sets {key} itself; leave it out")
        folder = Path(os.environ.get("CONFIG") or DEFAULT_CONFIG)
        config = cls(folder, tuple(overrides), _parse_device(device), model)
        if model != experiments.MODEL and (path := config.user_dir):
            prepare_libraries()
            import_user_code(path)
        check_model(model)
        setting_names(config.data_root)
        return config

    @property
    def data_root(self) -> Path:
        """The data root of the last override that sets it, else ``$CLOVE_ROOT``, else ``data/clove``."""
        root = self._last_override(DATA_OVERRIDE)
        return Path(root) if root else default_data_root()

    @property
    def user_dir(self) -> str:
        """The user's own code: that of the last override, else ``$MMF_USER_DIR``; empty if there is none."""
        return self._last_override(CODE_OVERRIDE) or os.environ.get("MMF_USER_DIR", "")

    def _last_override(self, start: str) -> str:
        return next((override.partition("=")[2] for override in self.overrides[::-1] if override.startswith(start)), "")

    def task_overrides(self, task: Task) -> tuple[str, ...]:
        """Return the overrides that select the configuration of a task."""
        return experiments.task_configuration(task.setting, str(self.config_dir), task)

    def config_file(self, task: Task) -> Path:
        """Return the configuration file of a task."""
        return Path(self.task_overrides(task)[0].partition("=")[2])

    def configuration(self, task: Task, device: str = "auto") -> PluginConfiguration:
        """Return the configuration of an evaluation on ``task``.

        Raises:
            ConfigError: the configuration file or an override is invalid.
        """
        overrides = [*self.task_overrides(task), f"model={self.model}", f"dataset={DATASET}"]
        overrides += [f"run_type={SPLIT}", f"training.device={device}", *self.overrides]
        return PluginConfiguration(argparse.Namespace(opts=overrides, config_override=None))

    def inputs_sha256(self, task: Task) -> str:
        """Hash everything but the checkpoint that an evaluation on ``task`` depends on.

        These are the val records, the vocabulary, the task's configuration file with everything it includes, the
        plugin's default configuration, the user's code of another model than UniVQA or of metrics, and the overrides.
        Feature databases are not hashed.

        Raises:
            DataError: a configuration file is missing or broken.
        """
        digest = hashlib.sha256()
        records = annotation_file(self.data_root, task, "val")
        files = [*_with_includes(self.config_file(task)), *sorted(CONFIG_DIR.rglob("*.yaml"))]
        setting = find_setting(task.setting)
        files += [] if setting.task_configs else [setting.file]  # which names the feature databases
        vocabulary = self.data_root / VOCABULARY
        files += [vocabulary] if vocabulary.is_file() else []
        own_metrics = any(override.startswith(METRICS_OVERRIDE) for override in self.overrides)
        if self.user_dir and (own_metrics or self.model != experiments.MODEL):
            files += user_code_files(self.user_dir)
        for path in [*files, *([records] if records else [])]:
            digest.update(f"{path.name} {file_sha256(path)}\n".encode())
        digest.update("\0".join(o for o in self.overrides if not o.startswith(WITHOUT_EFFECT)).encode())
        return digest.hexdigest()


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file, computed once per process for a file that does not change."""
    state = os.stat(path)
    return _sha256(os.fspath(path), state.st_mtime_ns, state.st_size, state.st_ino)


@cache
def _sha256(path: str, modified: int, size: int, inode: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _with_includes(path: Path, including: tuple[Path, ...] = ()) -> list[Path]:
    """Return a configuration file and, recursively, the files that its ``includes`` name.

    A file that includes itself is not followed; loading the configuration refuses it.
    """
    if not path.exists():
        raise DataError(f"config file {path} does not exist; CONFIG names the folder of these files")
    if path.resolve() in including:
        return []
    including += (path.resolve(),)
    content = read_yaml(path)
    names = (content.get("includes") or []) if isinstance(content, dict) else []
    return [path, *(file for name in names for file in _with_includes(path.parent / name, including))]


def _parse_device(device: str | int | None) -> str:
    name = "" if device is None else str(device).strip()
    first = name.split(",")[0]
    if first.lower() in ("cpu", "-1"):  # run scripts set CUDA_VISIBLE_DEVICES to the same value
        return "cpu"
    # torch numbers only the GPUs that CUDA_VISIBLE_DEVICES lists, by number or by UUID, from 0.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if first and first in visible:
        return f"cuda:{visible.index(first)}"
    if first.isdigit():
        return f"cuda:{first}"
    name = name.lower() or "auto"
    kind, _, number = name.partition(":")
    if kind not in DEVICES or (":" in name and (kind != "cuda" or not number.isdigit())):
        raise DataError(f"device {device}: expected one of: {', '.join(DEVICES)}, cuda:<n>, or the number of a GPU")
    return name


@dataclass(frozen=True)
class Pair:
    """One checkpoint to be evaluated on one task.

    Attributes:
        learned: name of the checkpoint: the task learned last, or ``multitask``.
        tested: the task on whose val split the checkpoint is evaluated.
        folder: where the result is kept.
    """

    key: str
    learned: str
    checkpoint: Path
    tested: Task
    folder: Path

    def identity(self, config: EvaluationConfig) -> dict[str, str]:
        """Return hashes of everything the result depends on.

        Raises:
            DataError: a configuration file is missing or broken.
            OSError: the checkpoint cannot be read.
        """
        return {"checkpoint_sha256": file_sha256(self.checkpoint), "inputs_sha256": config.inputs_sha256(self.tested)}

    def read(self, identity: Mapping[str, str]) -> dict[str, Any] | None:
        """Return the kept result entry, None where there is none with this identity."""
        try:
            content = json.loads((self.folder / RESULTS_FILE).read_text(encoding="utf-8"))
            entry = content["evaluations"][-1]
            current = all(content["run"][name] == value for name, value in identity.items())
            accuracy = entry["metrics"][METRIC]
            return entry if current and is_fraction(accuracy) else None
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            # The file is missing, incomplete or of another program, so the pair is evaluated.
            return None

    def write(self, identity: Mapping[str, str], entry: Mapping[str, Any]) -> None:
        """Keep a result entry, in the format of a training's ``results.json``.

        Raises:
            OSError: the folder cannot be written.
        """
        run = {"learned": self.learned, "tested": self.tested.name, **identity}
        write_json(self.folder / RESULTS_FILE, {"run": run, "evaluations": [entry]})


def changed_checkpoints(result: Path) -> list[Path]:
    """Return the checkpoints that have changed since a result file was written, from the pairs beside it.

    A checkpoint is read only if its time of modification is later than that of the result.
    """
    evaluated = result.stat().st_mtime
    save, mark, _ = str(result.absolute()).rpartition(SAVE_MARK)
    changed: dict[Path, None] = {}
    for file in sorted(result.parent.glob(f"*2*/{RESULTS_FILE}")):
        with suppress(OSError, ValueError, KeyError, TypeError, IndexError):  # as in Pair.read
            content = json.loads(file.read_text(encoding="utf-8"))
            weights = f"/{content['evaluations'][-1]['weights']}"  # may be relative to the folder of another process
            path = Path(save + mark + weights.rpartition(SAVE_MARK)[2])
            is_newer = path.stat().st_mtime > evaluated
            if is_newer and file_sha256(path) != content["run"]["checkpoint_sha256"]:
                changed[path] = None
    return list(changed)


def checkpoints(
    setting: str,
    order: str,
    experiment: str,
    save: str,
    stand_alone: bool = False,
    regularised: bool = False,
    model: str = experiments.MODEL,
) -> dict[str, Path]:
    """Return the paths of an experiment's checkpoints by task letter, along the order, whether they exist or not.

    Args:
        stand_alone: use the single-task model of every task, unless ``regularised``.
        regularised: use the experiment's own model of the first task too, for methods with ``trains_first_task``;
            otherwise that is the single-task model.

    Raises:
        TaskError: no such setting, or an illegal task order.
    """
    single_task = experiments.stand_alone_folder(setting, save)
    run = experiments.run_folder(setting, order, experiment, save)
    paths = {}
    for position, task in enumerate(parse_order(setting, order)):
        folder = single_task if (stand_alone or position == 0) and not regularised else run
        paths[task.letter] = Path(experiments.final_weights(f"{folder}/{experiments.task_folder(task, model)}", model))
    return paths


def check_index(setting: str, index: int | None, order: str) -> None:
    """Check the index of a task order, where one is given.

    Raises:
        TaskError: no such setting, an illegal task order, or the index of another order.
    """
    expected = order_index(setting, order)
    if index is not None and index != expected:
        problem = f"the index of task order {order} in the {setting} setting is {expected}"
        raise TaskError(f"setting_idx {index}: {problem}; correct the index or the order")


def print_progress(line: str) -> None:
    """Print a line of progress to stderr, so that stdout contains results only."""
    print(line, file=sys.stderr, flush=True)


def _method(experiment: str, config: EvaluationConfig) -> type[Method] | None:
    """Return the method that an experiment's folder names; the user's own code is imported if no other has the name."""
    if method_of_experiment(experiment) is None and config.user_dir:
        prepare_libraries()
        import_user_code(config.user_dir)
    return method_of_experiment(experiment)


def evaluate_sweep(
    setting: str,
    order: str,
    experiment: str,
    save: str,
    config: EvaluationConfig,
    stand_alone: bool = False,
    regularised: bool = False,
    partial: bool = False,
    progress: Callable[[str], None] = print_progress,
) -> SweepResult:
    """Evaluate the checkpoints of an experiment on all val splits and write ``sweep.json``, or ``partial.json``.

    Args:
        experiment: name of the experiment's folder. Results of single-task models are kept as those of
            ``stand_alone`` whatever its value, so that they never replace the results of a method.
        save: the save folder, ``$ROOT/exp/clvqa/save``.
        stand_alone: see :func:`checkpoints`.
        regularised: see :func:`checkpoints`; always true for methods with evaluation overrides.

    Raises:
        TaskError: no such setting, or an illegal task order.
        DataError: checkpoints are missing (with ``partial``: all of them).
        CloveError: a configuration, the data or a checkpoint cannot be used.
    """
    order_tasks = parse_order(setting, order)
    found = find_setting(setting)
    setting, order = found.name, order_text(order_tasks)
    method = _method(experiment, config)
    method_overrides = [] if method is None else method.evaluation_overrides(method.Settings(), config.model)
    # A method's evaluation overrides, such as use_cls, change the model, so that a single-task checkpoint does not fit.
    regularised = regularised or (bool(method_overrides) and not stand_alone)
    stand_alone = stand_alone and not regularised
    if stand_alone:
        experiment, method_overrides = experiments.STAND_ALONE, []
    paths = checkpoints(setting, order, experiment, save, stand_alone, regularised, config.model)
    missing = [task for task in order_tasks if not paths[task.letter].is_file()]
    if missing and (not partial or len(missing) == len(order_tasks)):
        raise DataError(_unfinished(order_tasks, missing, paths, experiment, order, partial))
    for task in missing:
        progress(f"skipped: task {task.name} is not trained ({paths[task.letter]} is missing)")
    folder = Path(experiments.evaluation_folder(setting, order, experiment, save, config.model))
    config = replace(config, overrides=(*method_overrides, *config.overrides))
    pairs = []
    for learned in order_tasks:
        for tested in order_tasks if learned not in missing else ():
            key = sweep_key(learned, tested)
            pairs.append(Pair(key, learned.name, paths[learned.letter], tested, folder / key))
    accuracies, further = evaluate_pairs(pairs, config, progress)
    manifest = load_manifest(config.data_root)
    result = SweepResult(
        setting=setting,
        order=order,
        experiment=experiment,
        accuracies=accuracies,
        weights=tuple(map(float, val_weights(config.data_root, setting, order))),
        stand_alone=stand_alone,
        data=manifest.name if manifest else PUBLISHED_DATA if found.in_package else found.name,
        model=config.model,
        further=further,
    )
    result.write(folder / (PARTIAL_FILE if missing else SWEEP_FILE))
    if not missing:
        (folder / PARTIAL_FILE).unlink(missing_ok=True)
    return result


def evaluate_multitask(
    setting: str, save: str, config: EvaluationConfig, progress: Callable[[str], None] = print_progress
) -> MultitaskResult:
    """Evaluate the multitask model of a setting on each of its tasks; arguments as for :func:`evaluate_sweep`.

    Raises:
        DataError: the model does not exist.
        CloveError: as for :func:`evaluate_sweep`.
    """
    found = find_setting(setting)
    setting, tested_tasks = found.name, list(found.tasks.values())
    folder = experiments.multitask_folder(setting, save, config.model)
    checkpoint = Path(experiments.final_weights(folder, config.model))
    if not checkpoint.is_file():
        problem = f"the multitask model of the {setting} setting is not trained"
        raise DataError(f"{checkpoint} does not exist: {problem}{_missing_folder(Path(folder).absolute().parent)}")
    results = Path(experiments.multitask_evaluation_folder(setting, save, config.model))
    pairs = []
    for tested in tested_tasks:
        key = f"multitask2{tested.sweep_key}"
        pairs.append(Pair(key, "multitask", checkpoint, tested, results / key))
    accuracies, further = evaluate_pairs(pairs, config, progress)
    weights = val_weights(config.data_root, setting, order_text(tested_tasks))
    others = {name: tuple(values.values()) for name, values in further.items()}
    result = MultitaskResult(setting, tuple(accuracies.values()), tuple(map(float, weights)), config.model, others)
    result.write(results / SWEEP_FILE)
    return result


def evaluate_pairs(
    pairs: Iterable[Pair], config: EvaluationConfig, progress: Callable[[str], None] = print_progress
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the accuracy of every pair by its key; pairs without a current result are evaluated.

    The results of a val split are written as soon as it is done, so that an interrupted sweep resumes from there.

    Returns:
        Accuracies by key, and the values of other metrics by name and key. A metric of which a value is not a number
        in [0, 1] is left out, with a line of progress.

    Raises:
        CloveError: a configuration, the data or a checkpoint cannot be used.
    """
    pairs = list(pairs)
    metrics_by_key: dict[str, dict[str, Any]] = {}
    pairs_by_task: dict[Task, list[tuple[Pair, dict[str, str]]]] = {}
    for pair in pairs:
        identity = pair.identity(config)
        entry = pair.read(identity)
        if entry is None:
            pairs_by_task.setdefault(pair.tested, []).append((pair, identity))
        else:
            metrics_by_key[pair.key] = entry["metrics"]
    count = sum(map(len, pairs_by_task.values()))
    progress(f"{counted(count, 'pair')} to evaluate, {len(metrics_by_key)} reused from an earlier run")
    if pairs_by_task:
        metrics_by_key |= _evaluate(pairs_by_task, config, progress)
    values: dict[str, dict[str, float]] = {}
    for name in metrics_by_key[pairs[0].key]:
        by_key = {pair.key: metrics_by_key[pair.key].get(name) for pair in pairs}
        if all(map(is_fraction, by_key.values())):
            values[name] = by_key
        else:
            progress(f"{name} gets no matrix: some of its values are not numbers from 0 to 1")
    return values.pop(METRIC), values


def _evaluate(
    pairs_by_task: Mapping[Task, Sequence[tuple[Pair, dict[str, str]]]],
    config: EvaluationConfig,
    progress: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """Evaluate pairs with their identity, grouped by the tested task, and return the metrics of each by its key."""
    metrics = config.configuration(next(iter(pairs_by_task))).config.evaluation.metrics  # before torch is imported
    if METRIC not in (metric if isinstance(metric, str) else metric.get("type") for metric in metrics):
        names = ",".join(map(str, [METRIC, *metrics]))
        raise DataError(f"the accuracy matrix is computed from {METRIC}; set evaluation.metrics=[{names}]")
    prepare_libraries()
    from mmclvqa.evaluation.engine import Engine  # torch and MMF take seconds to import

    engine = Engine(config)
    start, done, count = time.monotonic(), 0, sum(map(len, pairs_by_task.values()))
    metrics_by_key = {}
    for number, (tested, task_pairs) in enumerate(pairs_by_task.items(), start=1):
        evaluations = engine.evaluate(tested, {pair.key: pair.checkpoint for pair, _ in task_pairs})
        for pair, identity in task_pairs:
            entry = evaluations[pair.key].entry()
            if entry["metrics"].get(METRIC) is None:
                raise DataError(f"{tested.name}: the batches lack a field that {METRIC} needs")
            pair.write(identity, entry)
            metrics_by_key[pair.key] = entry["metrics"]
        done += len(task_pairs)
        seconds = time.monotonic() - start
        progress(
            f"[{number}/{len(pairs_by_task)}] {tested.name}: {counted(entry['records'], 'val record')}, "
            f"{counted(len(task_pairs), 'checkpoint')}; {clock(seconds)} so far, "
            f"about {clock(seconds / done * (count - done))} left"
        )
    return metrics_by_key


def _missing_folder(folder: Path) -> str:
    """Return a hint that names the first missing folder of a path and those beside it; empty if none is missing."""
    missing = next((path for path in (*reversed(folder.parents), folder) if not path.is_dir()), None)
    if missing is None:
        return ""
    names = sorted(path.name for path in missing.parent.glob("[!.]*") if path.is_dir())
    names = [name for name in names if not name.startswith("val_")]
    listed = f"; {missing.parent} has {first_of(names, LISTED)}" if names else ""
    return f"; there is no folder {missing}{did_you_mean(missing.name, names) or listed}"


def _unfinished(
    order_tasks: list[Task], missing: list[Task], paths: dict[str, Path], experiment: str, order: str, partial: bool
) -> str:
    steps = ", ".join(f"{order_tasks.index(task) + 1} {task.name}" for task in missing)
    path = paths[missing[0].letter]
    hint = _missing_folder(path.absolute().parents[1])
    if len(missing) == len(order_tasks):
        return f"run {experiment} of task order {order} has no checkpoint yet ({path} is missing){hint}"
    advice = "finish the run" if partial else "finish the run, or give --partial to evaluate the existing checkpoints"
    return f"run {experiment} of task order {order} is not finished: missing steps {steps} ({path}); {advice}{hint}"
