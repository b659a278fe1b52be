"""Evaluates every checkpoint of a run on every task, in one process; what has been evaluated is kept and not repeated.

Results lie in ``<save_dir>/<setting>/setting_<N>_<order>/val_<exp>/``: one folder for each pair, and ``sweep.json``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from mmclvqa.clove import experiments as places
from mmclvqa.clove.errors import CloveError, DataError, TaskError
from mmclvqa.clove.manifest import load_manifest
from mmclvqa.clove.tasks import Task, order_index, parse_order, tasks
from mmclvqa.evaluation.matrix import sweep_key, val_weights
from mmclvqa.evaluation.outcome import SWEEP_FILE, Multitask, Sweep
from mmclvqa.evaluation.pairs import METRIC, Pair
from mmclvqa.evaluation.setup import Setup

Say = Callable[[str], None]

PUBLISHED_DATA = "CLOVE"
"""What data without a manifest are."""


class UnfinishedError(CloveError):
    """A run does not have all the checkpoints that shall be evaluated."""


def say(line: str) -> None:
    """Progress goes to stderr, so that stdout holds results alone."""
    print(line, file=sys.stderr, flush=True)


def checkpoints(
    setting: str, order: str, experiment: str, save: str, stand_alone: bool = False, regularised: bool = False
) -> dict[str, Path]:
    """Where the six checkpoints of a run are or should be, by task letter along the order.

    Args:
        setting: ``functional`` or ``scene``.
        order: the task order.
        experiment: the method's folder.
        save: the save folder.
        stand_alone: all are those of the stand-alone models, unless ``regularised``.
        regularised: all are the run's own, the first task's too (EWC and MAS train it with their trainer); otherwise
            that is the stand-alone one.

    Raises:
        TaskError: no such setting, or an illegal task order.
    """
    alone = places.stand_alone_folder(setting, save)
    run = places.run_folder(setting, order, experiment, save)
    found = {}
    for number, task in enumerate(parse_order(setting, order)):
        folder = alone if (stand_alone or number == 0) and not regularised else run
        found[task.letter] = Path(places.final_weights(f"{folder}/{places.task_folder(task)}"))
    return found


def check_index(setting: str, index: int | None, order: str) -> int:
    """The index of a task order; one that is given must be it.

    Raises:
        TaskError: no such setting, an illegal task order, or another index.
    """
    right = order_index(setting, order)
    if index is not None and index != right:
        raise TaskError(f"setting_idx {index}: the index of task order {order} in the {setting} setting is {right}")
    return right


def sweep(
    setting: str,
    order: str,
    experiment: str,
    save: str,
    setup: Setup,
    stand_alone: bool = False,
    regularised: bool = False,
    partial: bool = False,
    tell: Say = say,
) -> Sweep:
    """Evaluate the checkpoints of a run on all val sets and write ``sweep.json``.

    Args:
        setting: ``functional`` or ``scene``.
        order: the task order.
        experiment: the method's folder. Results of stand-alone models are kept as those of ``stand_alone`` whatever it
            is, so that they never replace a method's.
        save: the save folder, ``$ROOT/exp/clvqa/save``.
        setup: configuration, words and device.
        stand_alone, regularised: see :func:`checkpoints`.
        partial: evaluate what there is of a run that is not finished.
        tell: takes lines that say what is going on.

    Raises:
        TaskError: no such setting, or an illegal task order.
        UnfinishedError: checkpoints are missing (with ``partial``: all of them).
        CloveError: a configuration, the data or a checkpoint cannot be used.
    """
    learned = parse_order(setting, order)
    stand_alone = stand_alone and not regularised
    if stand_alone:
        experiment = places.STAND_ALONE
    files = checkpoints(setting, order, experiment, save, stand_alone, regularised)
    missing = [task for task in learned if not files[task.letter].is_file()]
    if missing and (not partial or len(missing) == len(learned)):
        raise UnfinishedError(_unfinished(learned, missing, files, experiment, order, partial))
    for task in missing:
        tell(f"left out: task {task.name} has not been learned ({files[task.letter]} is missing)")
    folder = Path(places.run_folder(setting, order, f"val_{experiment}", save))
    pairs = [
        Pair(key, task.name, files[task.letter], tested, folder / key)
        for task in learned
        if task not in missing
        for tested in learned
        for key in [sweep_key(task, tested)]
    ]
    accuracies = evaluate_pairs(pairs, setup, tell)
    weights = val_weights(setup.data_root, setting, order)
    result = Sweep(
        setting=setting,
        order=order,
        experiment=experiment,
        accuracies={pair.key: accuracies[pair.key] for pair in pairs},
        weights=tuple(float(weight) for weight in weights),
        stand_alone=stand_alone,
        data=manifest.name if (manifest := load_manifest(setup.data_root)) else PUBLISHED_DATA,
    )
    result.write(folder / SWEEP_FILE)
    return result


def multitask(setting: str, save: str, setup: Setup, tell: Say = say) -> Multitask:
    """Evaluate the model that learned all tasks of a setting at once, on each of them.

    Raises:
        UnfinishedError: there is no such model.
        CloveError: as :func:`sweep`.
    """
    known = tasks(setting)
    folder = places.multitask_folder(setting, save)
    checkpoint = Path(places.final_weights(folder))
    if not checkpoint.is_file():
        raise UnfinishedError(
            f"{checkpoint} does not exist: the multitask model of the {setting} setting is not trained"
        )
    results = Path(folder).parent / f"val_{Path(folder).name}"
    pairs = []
    for tested in known.values():
        key = f"multitask2{tested.sweep_key}"
        pairs.append(Pair(key, "multitask", checkpoint, tested, results / key))
    accuracies = evaluate_pairs(pairs, setup, tell)
    weights = val_weights(setup.data_root, setting, "".join(known))
    result = Multitask(setting, tuple(accuracies[pair.key] for pair in pairs), tuple(map(float, weights)))
    result.write(results / SWEEP_FILE)
    return result


def evaluate_pairs(pairs: Iterable[Pair], setup: Setup, tell: Say = say) -> dict[str, float]:
    """The accuracy of every pair by its key: the kept one, or else evaluated now and kept.

    A val set's results are written as soon as it is done, so a run that was killed goes on from there.

    Raises:
        CloveError: a configuration, the data or a checkpoint cannot be used.
    """
    accuracies: dict[str, float] = {}
    waiting: dict[Task, list[tuple[Pair, dict[str, str]]]] = {}
    for pair in pairs:
        identity = pair.identity(setup)
        entry = pair.kept(identity)
        if entry is None:
            waiting.setdefault(pair.tested, []).append((pair, identity))
        else:
            accuracies[pair.key] = entry["metrics"][METRIC]
    count = sum(map(len, waiting.values()))
    tell(f"{count} pairs to evaluate, {len(accuracies)} kept from before")
    if not waiting:
        return accuracies
    engine = _engine(setup)
    start, done = time.monotonic(), 0
    for number, (tested, open_pairs) in enumerate(waiting.items(), start=1):
        evaluations = engine.evaluate(tested, {pair.key: pair.checkpoint for pair, _ in open_pairs})
        for pair, identity in open_pairs:
            entry = evaluations[pair.key].entry()
            if entry["metrics"].get(METRIC) is None:
                raise DataError(f"evaluation.metrics of {setup.config_file(tested)} does not have {METRIC}")
            pair.keep(identity, entry)
            accuracies[pair.key] = entry["metrics"][METRIC]
            records = entry["records"]
        done += len(open_pairs)
        seconds = time.monotonic() - start
        left = seconds / done * (count - done)
        tell(
            f"[{number}/{len(waiting)}] {tested.name}: {records} val records, {len(open_pairs)} checkpoint(s); "
            f"{clock(seconds)} so far, about {clock(left)} left"
        )
    return accuracies


def _engine(setup: Setup):  # noqa: ANN202  (its class comes with torch and MMF, which cost seconds to import)
    # Read by torch and tokenizers when they are imported; the same as mmf_run sets.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from mmclvqa.evaluation.engine import Engine

    return Engine(setup)


def clock(seconds: float) -> str:
    """``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _unfinished(
    learned: list[Task], missing: list[Task], files: dict[str, Path], experiment: str, order: str, partial: bool
) -> str:
    steps = ", ".join(f"{learned.index(task) + 1} {task.name}" for task in missing)
    where = files[missing[0].letter]
    if len(missing) == len(learned):
        return f"run {experiment} of task order {order} has no step finished (looked for {where})"
    advice = "finish the run" if partial else "finish the run, or give --partial to evaluate what there is"
    return f"run {experiment} of task order {order} is not finished: missing steps {steps} ({where}); {advice}"
