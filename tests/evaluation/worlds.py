"""Experiments for tests: evaluated checkpoints of a tiny model, and runs that consist only of result files."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import torch

from mmclvqa.clove import experiment_paths as experiments
from mmclvqa.clove.files import write_json
from mmclvqa.evaluation.report import main
from mmclvqa.evaluation.results import SweepResult
from mmclvqa.evaluation.sweep import EvaluationConfig, checkpoints, evaluate_sweep

SETTING, ORDER = "functional", "oarlks"
LIMIT = 300
"""Time limit of processes that tests start, in seconds."""


@dataclass
class World:
    """The experiment ``ft`` on the order ``oarlks``, and the multitask model.

    Attributes:
        root: ``$ROOT``.
        config: configuration of the evaluation.
        reads: number of times that the first sweep loaded each checkpoint and built each val split.
    """

    root: Path
    config: EvaluationConfig
    reads: Counter[str]

    @property
    def save(self) -> str:
        return str(self.root / experiments.SAVE)

    @property
    def results(self) -> Path:
        return Path(experiments.run_folder(SETTING, ORDER, "val_ft", self.save))

    def checkpoint(self, letter: str) -> Path:
        return checkpoints(SETTING, ORDER, "ft", self.save)[letter]

    def sweep(self, **options: Any) -> tuple[SweepResult, list[str]]:
        """Run the sweep and return its result and progress lines."""
        lines: list[str] = []
        result = evaluate_sweep(SETTING, ORDER, "ft", self.save, self.config, progress=lines.append, **options)
        return result, lines


def write_noisy(weights: dict[str, torch.Tensor], path: Path, seed: int) -> None:
    """Write the weights with small noise to a new file."""
    generator = torch.Generator().manual_seed(seed)
    noisy = {key: value + 0.01 * torch.randn(value.shape, generator=generator) for key, value in weights.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    torch.save(noisy, path)


def write_run(root: Path, sweep: SweepResult) -> Path:
    """Write the ``sweep.json`` of a run and return its folder ``val_<experiment>``."""
    save = str(root / experiments.SAVE)
    folder = Path(experiments.run_folder(sweep.setting, sweep.order, f"val_{sweep.experiment}", save))
    sweep.write(folder / "sweep.json")
    return folder


def write_training(folder: str | Path, seconds: float, stored: dict[str, Any] | None = None) -> None:
    """Write the files of a training run that the report reads."""
    entries = [
        {"update": update, "split": "val", "weights": "training", "metrics": {"textvqa_accuracy": accuracy}}
        for update, accuracy in ((500, 0.25), (1000, 0.5))
    ]
    write_json(Path(folder, "results.json"), {"run": {"training": {"seconds": seconds}}, "evaluations": entries})
    if stored:
        write_json(Path(folder, "stored.json"), stored)


def write_trained_run(
    root: Path, published: SweepResult, experiment: str, own_first: bool = False, **stored: Any
) -> Path:
    """Write a run whose first task took 100 s and the others 10 s each, and return its folder ``val_<experiment>``."""
    sweep = dataclasses.replace(published, experiment=experiment)
    save = str(root / experiments.SAVE)
    single_task = experiments.stand_alone_folder(sweep.setting, save)
    run = experiments.run_folder(sweep.setting, sweep.order, experiment, save)
    for position, task in enumerate(sweep.tasks):
        own = position > 0 or own_first
        folder = f"{run if own else single_task}/{experiments.task_folder(task)}"
        write_training(folder, 10.0 if position else 100.0, stored if own else None)
    return write_run(root, sweep)


class Page(HTMLParser):
    """The elements and the text of an HTML page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f" {' '.join(data.split())}"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def report(out: Path, *runs: Path) -> Page:
    """Return the page of a report on runs."""
    assert main([*map(str, runs), "--out", str(out)]) == 0
    return Page(out / "index.html")
