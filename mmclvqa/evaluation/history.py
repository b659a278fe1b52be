"""What a run has left besides its sweep: results of each training, SRM's replays and their figures."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmclvqa.clove import experiments as places
from mmclvqa.clove.annotations import ITEM_END, load_records
from mmclvqa.clove.errors import CloveError
from mmclvqa.evaluation.outcome import Sweep
from mmclvqa.evaluation.pairs import METRIC, RESULTS

SAMPLES_PER_TASK = 2

_SRM = re.compile(r"(?P<model>.+)_replay_qag_seq_(?P<gt>not_use_gt|use_gt)_(?P<token>task_token|wo_token)_(?P<rate>.+)")
_SAMPLES = re.compile(r"(?P<gt>gtsg_)?(?P<mask>maskimg_)?(?P<kind>rnd|kmeans)_replay_(?P<rate>[0-9.]+)")
_NAMES = {
    places.FINE_TUNING: "fine-tuning",
    places.STAND_ALONE: "stand-alone models",
    "ewc": "EWC",
    "mas": "MAS",
    "gem": "GEM",
    "agem": "A-GEM",
}
_TRAINING = "training"


@dataclass(frozen=True)
class Curve:
    """One training's evaluations on its own val split.

    Attributes:
        task: name of the task.
        updates: when.
        accuracies: fractions of 1.
        seconds: the training took; None where that is not known.
    """

    task: str
    updates: tuple[int, ...]
    accuracies: tuple[float, ...]
    seconds: float | None


@dataclass(frozen=True)
class Replays:
    """One replay file.

    Attributes:
        past: the replayed task.
        before: the task about to be learned.
        figures: of its sidecar.
    """

    past: str
    before: str
    figures: dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """One replay, as texts."""

    past: str
    prompt: str
    graph: str
    question: str
    answer: str


def method_name(experiment: str) -> str:
    """What a method's folder means, for people."""
    srm = _SRM.fullmatch(experiment)
    if srm:
        details = f"{srm['model']}, {srm['rate']} replays per real record"
        details += ", prompted with real items" if srm["gt"] == "use_gt" else ""
        return f"SRM ({details}{', no task tokens' if srm['token'] == 'wo_token' else ''})"
    sampled = _SAMPLES.fullmatch(experiment)
    if sampled:
        kind = "k-means replay" if sampled["kind"] == "kmeans" else "random replay"
        details = [sampled["rate"], *(["images withheld"] if sampled["mask"] else [])]
        details += ["true scene graphs"] if sampled["gt"] else []
        return f"{kind} ({', '.join(details)})"
    return _NAMES.get(experiment, experiment)


def short_name(experiment: str) -> str:
    """As :func:`method_name`, for the axis of a figure."""
    srm = _SRM.fullmatch(experiment)
    return f"SRM {srm['rate']}" if srm else method_name(experiment)


def curves(sweep: Sweep, folder: Path) -> list[Curve]:
    """The training of each task along the order; tasks without a readable ``results.json`` are absent.

    Args:
        sweep: of the run.
        folder: its ``val_<exp>``.
    """
    save = str(folder.parents[2])
    alone = places.stand_alone_folder(sweep.setting, save)
    run = places.run_folder(sweep.setting, sweep.order, sweep.experiment, save)
    found = []
    for number, task in enumerate(sweep.tasks):
        first = [run, alone] if number == 0 and not sweep.stand_alone else [alone if sweep.stand_alone else run]
        files = (Path(base, places.task_folder(task), RESULTS) for base in first)
        curve = next(filter(None, (_curve(task.name, file) for file in files)), None)
        if curve:
            found.append(curve)
    return found


def _curve(task: str, file: Path) -> Curve | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        points = sorted(
            (int(entry["update"]), float(entry["metrics"][METRIC]))
            for entry in content["evaluations"]
            if entry["weights"] == _TRAINING and entry["split"] == "val"
        )
        seconds = (content["run"].get("training") or {}).get("seconds")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not points:
        return None
    updates, accuracies = zip(*points, strict=True)
    return Curve(task, updates, accuracies, None if seconds is None else float(seconds))


def replay_folder(sweep: Sweep, folder: Path) -> Path | None:
    """Where SRM's replays of a run lie; None for other methods.

    Args:
        sweep: of the run.
        folder: its ``val_<exp>``, below ``<ROOT>/exp/clvqa/save``.
    """
    srm = _SRM.fullmatch(sweep.experiment)
    if not srm or len(folder.parents) < 6:
        return None
    root = places.srm_root(sweep.setting, srm["gt"] == "use_gt", srm["token"] == "task_token")
    return folder.parents[5] / root / places.srm_folder(srm["model"], sweep.setting, sweep.order)


def replays(sweep: Sweep, folder: Path) -> list[Replays]:
    """The sidecars in a folder of replays, in the order of learning; unreadable ones are absent."""
    found = []
    for past, current, path in _replay_files(sweep, folder):
        try:
            figures = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(figures, dict) and {"prompts", "accepted", "acceptance"} <= figures.keys():
            found.append(Replays(past, current, figures))
    return found


def average_share(replays: Sequence[Replays]) -> dict[str, Any]:
    """Figures of all replay files together, for the page's one-line account.

    Returns:
        ``prompts``, ``accepted`` and their ``acceptance``; ``truth``, the share of accepted replays whose answer
        follows from the prompt, None where no sidecar tells it.
    """
    prompts = sum(r.figures["prompts"] for r in replays)
    accepted = sum(r.figures["accepted"] for r in replays)
    judged = [r for r in replays if isinstance(r.figures.get("truth"), dict)]
    true = sum(r.figures["truth"]["true"] for r in judged)
    whole = sum(r.figures["accepted"] for r in judged)
    return {
        "prompts": prompts,
        "accepted": accepted,
        "acceptance": accepted / prompts if prompts else math.nan,
        "truth": true / whole if whole else None,
    }


def samples(sweep: Sweep, folder: Path) -> list[Sample]:
    """Some replays of each task, of those made last, spread evenly over their file."""
    last = {past: path for past, _, path in _replay_files(sweep, folder) if path.is_file()}
    found = []
    for past, path in last.items():
        try:
            records = load_records(path)
        except CloveError:
            continue
        chosen = {len(records) * number // SAMPLES_PER_TASK for number in range(SAMPLES_PER_TASK)} if records else ()
        found += [_sample(past, records[index]) for index in sorted(chosen)]
    return found


def _replay_files(sweep: Sweep, folder: Path) -> Iterator[tuple[str, str, Path]]:
    for position, current in enumerate(sweep.tasks):
        for past in sweep.tasks[:position]:
            yield past.name, current.name, folder / places.replay_file(sweep.order, past, current)


def _sample(past: str, record: dict[str, Any]) -> Sample:
    items = [item.removesuffix(ITEM_END) for item in record["gt_scene_graph_seq"]]
    prompted = [item for item, mask in zip(items, record["gt_scene_graph_mask"], strict=True) if mask]
    return Sample(past, "; ".join(prompted), "; ".join(items), record["question"], record["answer"])
