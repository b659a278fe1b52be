"""Input of a report: runs, with the files of their trainings and replays, and the chance and multitask bounds.

Curves, replay statistics and costs are optional. If they cannot be read, the HTML report leaves them out and says so.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from mmclvqa.clove import experiment_paths as experiments
from mmclvqa.clove.data_root import prompts_path
from mmclvqa.clove.errors import CloveError, DataError
from mmclvqa.clove.records import ITEM_END, load_records
from mmclvqa.clove.tasks import default_data_root
from mmclvqa.clove.text import one_line
from mmclvqa.evaluation.results import METRIC, SweepResult, read_sweep, setting_of_result, sweep_file
from mmclvqa.evaluation.sweep import changed_checkpoints
from mmclvqa.methods.base import COMBINED_BY
from mmclvqa.methods.combination import method_of_experiment
from mmclvqa.methods.symbolic_replay import replays_folder

STORED_FILE = "stored.json"
"""Written by the training of a method: ``{"records": n, "bytes": n, "what": text}``."""
SRM_LOG = "log_train.txt"
SAMPLES_PER_TASK = 2

_SEED_FOLDER = re.compile(rf"(?P<folder>.*)/seed_(?P<number>\d+)/{experiments.SAVE}/")
_LOG_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) (SRM )?")
_LOG_TIME = "%Y-%m-%d %H:%M:%S,%f"
_INVALID = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""Exceptions of reading a JSON file that is missing or has other content than expected."""


def method_label(experiment: str, short: bool = False) -> str:
    """Return the label of the method that an experiment's folder name encodes; an unknown name is its own label.

    Args:
        short: whether the label is shortened for titles and axes of figures.
    """
    method = method_of_experiment(experiment)
    if method is None:
        return experiment
    return method.short_label(experiment) if short else method.parse_experiment(experiment)


class Seed(NamedTuple):
    """The seed of a result, and the folder that contains the folders ``seed_<n>`` of the workflow."""

    number: int
    folder: str


def with_seeds(label: str, seeds: Sequence[Seed | None]) -> str:
    """Return the label of some runs with their seed, or with the number of their seeds."""
    if len(seeds) > 1:
        return f"{label}, {len(seeds)} seeds"
    return label if seeds[0] is None else f"{label}, seed {seeds[0].number}"


def with_model(model: str) -> str:
    """Return the part of a label that names the answer model, empty for UniVQA."""
    return "" if model == experiments.MODEL else f" with {model}"


@dataclass(frozen=True)
class TrainingCurve:
    """The losses of one training, and its evaluations on its own val split.

    Attributes:
        task: name of the task.
        updates: optimizer updates before each evaluation.
        accuracies: fractions in [0, 1].
        seconds: duration of the training; None where not available.
        losses: the mean training loss since the previous point, by number of updates.
    """

    task: str
    updates: tuple[int, ...]
    accuracies: tuple[float, ...]
    seconds: float | None
    losses: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """What a method stores of earlier tasks and how long it trains; None where not available.

    Attributes:
        records: number of stored real records.
        bytes: size of what is stored: records with their features, importances, or SRM's language model and prompts.
        seconds: training time of all tasks along the order, with the evaluations on the task's own val split and, for
            SRM, its own training and generation.
        everything: nothing is discarded, so that ``records`` and ``bytes`` do not apply.
    """

    records: int | None = None
    bytes: int | None = None
    seconds: float | None = None
    everything: bool = False


@dataclass(frozen=True)
class Run:
    """A sweep, and the results of its trainings and replays.

    Attributes:
        name: used in file names and anchors; unique in an HTML report.
        replays: statistics that SRM writes beside each replay file: ``prompts``, ``accepted``, ``acceptance`` and
            optional entries, with the replayed task ``past`` and the next task ``before``.
        samples: replays as text: the replayed task ``past``, ``prompt``, scene ``graph``, ``question`` and ``answer``.
        notes: sentences for the HTML report about what was not found.
        warnings: files that are damaged, or no longer belong to the sweep.
        seed: of a run below a folder ``seed_<n>``, None for other runs.
    """

    sweep: SweepResult
    name: str
    curves: list[TrainingCurve] = field(default_factory=list)
    replays: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    seed: Seed | None = None

    @property
    def label(self) -> str:
        """Method, answer model (if it is not UniVQA) and task order."""
        return f"{method_label(self.sweep.experiment)}{with_model(self.sweep.model)}, {self.sweep.order}"

    @property
    def short_label(self) -> str:
        """:attr:`label` for titles and axes of figures."""
        return f"{method_label(self.sweep.experiment, short=True)}{with_model(self.sweep.model)}, {self.sweep.order}"

    @property
    def heading(self) -> str:
        """:attr:`label` with the seed."""
        return with_seeds(self.label, [self.seed])


@dataclass(frozen=True)
class Bound:
    """A bound that methods are compared with: the chance level or the multitask model.

    Attributes:
        kind: ``chance`` or ``multitask``.
        accuracies: fractions in [0, 1] by task name.
        average: their average, weighted by val size.
        model: registered name of the answer model.
        warnings: see :class:`Run`.
    """

    kind: str
    setting: str
    accuracies: dict[str, float]
    average: float
    cost: Cost
    seed: Seed | None = None
    model: str = experiments.MODEL
    warnings: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Kind, answer model (if it is not UniVQA) and setting."""
        return f"{self.kind}{with_model(self.model)}, {self.setting} setting"

    @property
    def short_label(self) -> str:
        """Kind and answer model, for axes of figures."""
        return f"{self.kind}{with_model(self.model)}"


def read_all(paths: Sequence[str | Path], metric: str = METRIC) -> list[Run | Bound]:
    """Read runs and bounds, in the order given; a file that is given twice is read once.

    Raises:
        DataError: a file is missing, is neither a sweep nor a bound, or has no such metric.
    """
    entries: list[Run | Bound] = []
    for path in {sweep_file(path).resolve(): path for path in paths}.values():
        names = [entry.name for entry in entries if isinstance(entry, Run)]
        entries.append(read_bound(path, metric) or read_run(path, names, metric))
    return entries


def mean_cost(costs: Sequence[Cost]) -> Cost:
    """Return the mean over seeds; None where a run has no such number."""

    def mean(name: str) -> float | None:
        values = [getattr(cost, name) for cost in costs]
        return None if None in values else sum(values) / len(values)

    rounded = (None if value is None else round(value) for value in map(mean, ("records", "bytes")))
    return Cost(*rounded, mean("seconds"), costs[0].everything)


def grouped_by_seed(entries: Iterable[Run | Bound]) -> list[list[Run | Bound]]:
    """Group runs that differ only in their seed, in the order of their first entries.

    An entry without a seed and a run that is not complete are groups of their own: numbers after fewer tasks would
    distort the mean.
    """
    groups: dict[tuple[Any, ...], list[Run | Bound]] = {}
    for number, entry in enumerate(entries):
        data, setting = (entry.sweep.data, entry.sweep.setting) if isinstance(entry, Run) else ("", entry.setting)
        single = entry.seed is None or (isinstance(entry, Run) and entry.sweep.missing)
        key = (setting, entry.label, data, number if single else entry.seed.folder)
        groups.setdefault(key, []).append(entry)
    return list(groups.values())


def read_run(path: str | Path, used_names: Sequence[str] = (), metric: str = METRIC) -> Run:
    """Read a run from its sweep and from the folders of its trainings and replays.

    Args:
        used_names: names of other runs, which this run must not have.
        metric: name of the metric of the matrix and of the curves.

    Raises:
        DataError: there is no valid sweep, or it has no such metric.
    """
    path = Path(path).absolute()
    sweep = read_sweep(path, metric)
    folder = path if path.is_dir() else path.parent
    seed = _seed(path)
    expected_folder = experiments.evaluation_name(sweep.experiment, sweep.model)
    base = re.sub(r"[^A-Za-z0-9.]+", "_", f"{sweep.setting}_{sweep.order}_{expected_folder.removeprefix('val_')}")
    base += "" if seed is None else f"_seed_{seed.number}"
    name = next(n for n in (base, *(f"{base}_{i}" for i in range(2, len(used_names) + 3))) if n not in used_names)
    if folder.name != expected_folder or len(folder.parents) < 3:
        note = f"Trainings and replays are not shown: the sweep is not in its run's folder {expected_folder}."
        return Run(sweep, name, notes=[note], seed=seed)
    save, notes, warnings = str(folder.parents[2]), [], _stale(sweep_file(path))
    curves = _training_curves(sweep, save, warnings)
    tasks_without_curve = [task.name for task in sweep.tasks if task.name not in {curve.task for curve in curves}]
    if tasks_without_curve:
        notes.append(f"No validation results from training were found for: {', '.join(tasks_without_curve)}.")
    replays, samples = [], []
    if replay_folder := _replay_folder(sweep, folder):
        replays, samples = _replay_statistics(sweep, replay_folder), _replay_samples(sweep, replay_folder)
        expected = len(sweep.tasks) * (len(sweep.tasks) - 1) // 2
        if len(replays) < expected:
            notes.append(f"Statistics of {len(replays)} of {expected} replay files were found.")
    cost = _run_cost(sweep, save, curves, replay_folder)
    return Run(sweep, name, curves, replays, samples, notes, warnings, cost, seed)


def read_bound(path: str | Path, metric: str = METRIC) -> Bound | None:
    """Read the result of ``eval_os.py chance`` or ``multitask``; None where the file is something else.

    Raises:
        DataError: the file is one of them by its ``kind``, but damaged or without the metric.
    """
    path = sweep_file(Path(path).absolute())
    try:
        content = _read_json(path)
        kind = content["kind"]
    except _INVALID:
        return None
    if kind not in ("chance", "multitask"):
        return None
    if metric != METRIC and metric not in content.get("further", {}):
        raise DataError(f"{path}: has no metric {metric}; leave out this result of `eval_os.py {kind}`")
    try:
        warnings: list[str] = []
        values = content if metric == METRIC else content["further"][metric]
        if kind == "chance":
            accuracies = {task["name"]: float(task["accuracy"]) for task in content["tasks"]}
            cost = Cost(0, 0, 0.0)
        else:
            accuracies = {name: float(number) for name, number in values["accuracies"].items()}
            training = path.parent.with_name(path.parent.name.removeprefix("val_"))
            warnings = _stale(path)
            cost = Cost(seconds=_seconds(_read_results(training / experiments.RESULTS_FILE, warnings)), everything=True)
        average = float(values["weighted_average_accuracy"])
        model = str(content.get("model", experiments.MODEL))
        return Bound(kind, setting_of_result(content), accuracies, average, cost, _seed(path), model, warnings)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a valid result of `eval_os.py {kind}` ({one_line(error)})") from None


def total_acceptance(replays: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum up the statistics of all replay files.

    Returns:
        ``prompts``, ``accepted`` and their ratio ``acceptance``; ``truth``, the fraction of accepted replays whose
        answer follows from the prompt, None where no file has it.
    """
    prompts = sum(replay["prompts"] for replay in replays)
    accepted = sum(replay["accepted"] for replay in replays)
    judged = [replay for replay in replays if isinstance(replay.get("truth"), dict)]
    true = sum(replay["truth"]["true"] for replay in judged)
    judged_replays = sum(replay["accepted"] for replay in judged)
    return {
        "prompts": prompts,
        "accepted": accepted,
        "acceptance": accepted / prompts if prompts else math.nan,
        "truth": true / judged_replays if judged_replays else None,
    }


def srm_seconds(log: Path) -> float | None:
    """Return the time SRM ran, from the first to the last time stamp of each start in its log, over all starts.

    None where there is no such log.
    """
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    starts: list[list[datetime]] = []
    for match in filter(None, map(_LOG_LINE.match, lines)):
        timestamp = datetime.strptime(match[1], _LOG_TIME)
        if match[2]:
            starts.append([timestamp])
        elif starts:
            starts[-1].append(timestamp)
    return sum((times[-1] - times[0]).total_seconds() for times in starts) if starts else None


def _seed(path: Path) -> Seed | None:
    match = _SEED_FOLDER.match(str(path))
    return Seed(int(match["number"]), match["folder"]) if match else None


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _stale(result: Path) -> list[str]:
    """Return a warning if checkpoints have changed since they were evaluated."""
    changed = ", ".join(str(path.parent) for path in changed_checkpoints(result))
    problem = f"{result}: these models have changed since their evaluation: {changed}; run `python eval_os.py` again"
    return [problem] if changed else []


def _read_results(file: Path, warnings: list[str]) -> dict[str, Any]:
    """Read the ``results.json`` of a training; empty if there is none or, with a warning, if it is damaged."""
    try:
        results = _read_json(file)
        _ = results["run"], results["evaluations"]
        return results
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except _INVALID as error:
        effect = "the report omits the curve and the duration of this training"
        warnings.append(f"{file}: is empty or damaged ({one_line(error)}); {effect}; restore it or train again")
        return {}


def _training_curves(sweep: SweepResult, save: str, warnings: list[str]) -> list[TrainingCurve]:
    """Read the training of each task along the order; tasks without a valid ``results.json`` are absent."""
    single_task = experiments.stand_alone_folder(sweep.setting, save)
    run = experiments.run_folder(sweep.setting, sweep.order, sweep.experiment, save)
    curves = []
    for position, task in enumerate(sweep.tasks):
        folders = [single_task if sweep.stand_alone else run]
        if position == 0 and not sweep.stand_alone:
            folders.append(single_task)  # most methods do not train the first task themselves
        files = (
            Path(folder, experiments.task_folder(task, sweep.model), experiments.RESULTS_FILE) for folder in folders
        )
        curves_found = (_training_curve(task.name, _read_results(file, warnings), sweep.metric) for file in files)
        curve = next(filter(None, curves_found), None)
        if curve:
            curves.append(curve)
    return curves


def _training_curve(task: str, results: Mapping[str, Any], metric: str) -> TrainingCurve | None:
    try:
        points = sorted(
            (int(entry["update"]), float(entry["metrics"][metric]))
            for entry in results["evaluations"]
            if entry["weights"] == "training" and entry["split"] == "val"
        )
        updates, accuracies = zip(*points, strict=True)
        losses = {int(update): float(loss) for update, loss in results.get("training_losses", []) if loss is not None}
    except _INVALID:  # without points, unpacking raises ValueError
        return None
    return TrainingCurve(task, updates, accuracies, _seconds(results), losses)


def _seconds(results: Mapping[str, Any]) -> float | None:
    try:
        return float(results["run"]["training"]["seconds"])
    except _INVALID:
        return None


def _replay_folder(sweep: SweepResult, folder: Path) -> Path | None:
    """Return the folder of SRM's replays for a run whose sweep is in ``folder``; None for other methods."""
    if len(folder.parents) < 6:
        return None
    replays = replays_folder(sweep.experiment, sweep.setting, sweep.order, str(folder.parents[5]))
    return None if replays is None else Path(replays)


def _replay_files(sweep: SweepResult, folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield replayed task, next task and path of every replay file, in the order of learning."""
    for position, current in enumerate(sweep.tasks):
        for past in sweep.tasks[:position]:
            yield past.name, current.name, folder / experiments.replay_file(sweep.order, past, current)


def _replay_statistics(sweep: SweepResult, folder: Path) -> list[dict[str, Any]]:
    statistics = []
    for past, current, path in _replay_files(sweep, folder):
        try:
            values = _read_json(path.with_suffix(".json"))
        except _INVALID:
            continue
        if isinstance(values, dict) and {"prompts", "accepted", "acceptance"} <= values.keys():
            statistics.append(values | {"past": past, "before": current})
    return statistics


def _replay_samples(sweep: SweepResult, folder: Path) -> list[dict[str, str]]:
    """Read some replays of each task from its latest file, spread evenly over the file."""
    latest = {past: path for past, _, path in _replay_files(sweep, folder) if path.is_file()}
    samples = []
    for past, path in latest.items():
        try:
            records = load_records(path)
        except CloveError:
            continue
        chosen = {len(records) * number // SAMPLES_PER_TASK for number in range(SAMPLES_PER_TASK)} if records else ()
        for record in (records[index] for index in sorted(chosen)):
            items = [item.removesuffix(ITEM_END) for item in record["gt_scene_graph_seq"]]
            prompted = itertools.compress(items, record["gt_scene_graph_mask"])
            texts = {"past": past, "prompt": "; ".join(prompted), "graph": "; ".join(items)}
            samples.append(texts | {name: record[name] for name in ("question", "answer")})
    return samples


def _run_cost(sweep: SweepResult, save: str, curves: Sequence[TrainingCurve], replay_folder: Path | None) -> Cost:
    seconds_by_task = {curve.task: curve.seconds for curve in curves}
    parts = [seconds_by_task.get(task.name) for task in sweep.tasks]
    is_srm_alone = replay_folder is not None and COMBINED_BY not in sweep.experiment
    stores_nothing = sweep.stand_alone or sweep.experiment == experiments.FINE_TUNING or is_srm_alone
    records, size = (0, 0) if stores_nothing else _stored(sweep, save)
    if replay_folder is not None:
        parts.append(srm_seconds(replay_folder / SRM_LOG))
        srm_bytes = _srm_bytes(sweep, replay_folder)
        size = None if None in (size, srm_bytes) else size + srm_bytes
    return Cost(records, size, None if None in parts else sum(parts))


def _srm_bytes(sweep: SweepResult, replay_folder: Path) -> int | None:
    """Return the size of SRM's language model before the last task and of its prompts."""
    model = replay_folder / "models" / sweep.tasks[-2].name
    prompts = default_data_root() / prompts_path(sweep.setting)
    if not model.is_dir() or not prompts.is_file():
        return None
    return prompts.stat().st_size + sum(file.stat().st_size for file in model.rglob("*") if file.is_file())


def _stored(sweep: SweepResult, save: str) -> tuple[int | None, int | None]:
    """Return the records and bytes that the training of the last task reports as stored."""
    run = experiments.run_folder(sweep.setting, sweep.order, sweep.experiment, save)
    try:
        content = _read_json(Path(run, experiments.task_folder(sweep.tasks[-1], sweep.model), STORED_FILE))
        return int(content["records"]), int(content["bytes"])
    except _INVALID:
        return None, None
