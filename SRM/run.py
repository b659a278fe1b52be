"""The order of work: before each task the replays of all earlier ones, then its training."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator

from mmclvqa.clove.layout import prompts_path
from mmclvqa.clove.tasks import Task
from SRM.data import (
    Prompts,
    Record,
    answer_counts,
    read_prompts,
    replay_records,
    training_file,
    training_records,
)
from SRM.draws import named_seed
from SRM.examples import Source, read_sources
from SRM.folders import RunFolder
from SRM.generate import Generator
from SRM.model import grow, load_model, load_pretrained, save_model
from SRM.replay import ReplayWriter
from SRM.settings import Settings
from SRM.state import open_folder
from SRM.statistics import judge_for
from SRM.tokens import Tokens, task_question_token, task_token
from SRM.training import Report, TaskTraining

log = logging.getLogger("SRM")

ANSWERS = "answers.json"
"""In a model's folder: how often each answer stands in the real records it learned from."""
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Run:
    """One model along one task order.

    Args:
        settings: of the run.
        accelerator: devices and arithmetic.
        report: told of losses: task name, updates, measures.
    """

    def __init__(self, settings: Settings, accelerator: Accelerator, report: Any = lambda *_: None) -> None:
        self.settings, self.accelerator, self.report = settings, accelerator, report
        self.order = settings.order
        self.folder = RunFolder.of(settings)
        self.writer = ReplayWriter(settings, accelerator, self.folder, judge_for(settings.root))
        self.records: dict[Task, list[Record]] = {}
        self.prompts: dict[Task, Prompts] = {}
        self.model: Any = None
        self.tokens: Tokens | None = None

    def open(self) -> None:
        """See that the data are there and that the run folder may be used.

        Raises:
            CloveError: see :func:`SRM.state.open_folder` and :func:`SRM.data.training_file`.
        """
        files = [training_file(self.settings.root, task) for task in self.order]
        if not self.settings.use_gt:
            files.append(self.settings.root / prompts_path(self.settings.cl_setting))
        sizes = {f"size of {file.name}": file.stat().st_size for file in files if file.exists()}
        if self.accelerator.is_main_process:
            skipped = self.order[: len(self.settings.skip_tasks)]
            told = self.settings.decisive() | sizes
            open_folder(self.folder, told, self.settings.overwrite, skipped)
        self.accelerator.wait_for_everyone()

    def work(self) -> None:
        """Do what is left to do.

        Raises:
            CloveError: something the user can mend.
            OSError: a file cannot be written.
        """
        left = [number for number in range(len(self.order)) if not self._is_done(number)]
        if not left:
            log.info("%s: everything is done", self.folder.path)
            return
        self._read()
        for number in left:
            self._load(number)
            if number:
                self._write_replays(number)
            if not self.folder.model(self.order[number]).is_dir():
                self._train(number)
        if self.accelerator.is_main_process and not any(self.folder.unfinished.iterdir()):
            self.folder.unfinished.rmdir()
        log.info("%s: done", self.folder.path)

    def _is_done(self, number: int) -> bool:
        """Whether task ``number`` of the order is trained, with all replays before it."""
        task = self.order[number]
        if number < len(self.settings.skip_tasks):
            return True
        replays = [self.folder.replay(past, task) for past in self.order[:number]]
        if number:
            replays.append(self.folder.joined_replay(task))
        return self.folder.model(task).is_dir() and all(path.exists() for path in replays)

    def _read(self) -> None:
        """Read all records and prompts before the work begins, so that a broken file is told of at once."""
        for number, task in enumerate(self.order):
            self.records[task] = training_records(self.settings, task)
            log.info("task %s: %d records", task.name, len(self.records[task]))
            if number < len(self.order) - 1:
                self.prompts[task] = read_prompts(self.settings, task, self.records[task])

    def _load(self, number: int) -> None:
        """The weights that task ``number`` begins with."""
        name, dropout = self.settings.model_name, self.settings.dropout
        if number == 0:
            self.model, self.tokens = load_pretrained(self.settings.root, name, dropout)
        elif self.model is None:
            self.model, self.tokens = load_model(self.folder.model(self.order[number - 1]), name, dropout)
        self.model.to(self.accelerator.device)

    def _write_replays(self, number: int) -> None:
        current, earlier = self.order[number], self.order[:number]
        if not all(self.folder.replay(past, current).exists() for past in earlier):
            dtype = DTYPES[self.accelerator.mixed_precision]
            generator = Generator(self.settings, self.model, self.tokens, dtype)
            for past in earlier:
                self.writer.write(generator, self.prompts[past], past, current, self._answers(past))
        self.writer.join(earlier, current)
        self.accelerator.wait_for_everyone()

    def _answers(self, task: Task) -> Mapping[str, int] | None:
        path = self.folder.model(task) / ANSWERS
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def _train(self, number: int) -> None:
        task = self.order[number]
        self.tokens.add(task_token(task, self.settings.add_task_tokens))
        if self.model.config.is_encoder_decoder:
            self.tokens.add(task_question_token(task, self.settings.add_task_tokens))
        grow(self.model, self.tokens, named_seed(self.settings.seed, "embeddings", task.name))
        sources = self._sources(self.records[task], task)
        files = {past: self.folder.replay(past, task) for past in self.order[:number]}
        for past, replays in replay_records(self.settings, files, task).items():
            log.info(
                "task %s: %d replays of %s join its %d records",
                task.name,
                len(replays),
                past.name,
                len(self.records[task]),
            )
            sources += self._sources(replays, past)
        checkpoint = self.folder.unfinished / "training.safetensors"
        report: Report = lambda updates, measures: self.report(task.name, updates, measures)  # noqa: E731
        training = TaskTraining(
            self.settings,
            self.accelerator,
            self.model,
            self.tokens,
            sources,
            self._epochs(task),
            task.name,
            checkpoint,
            report,
        )
        training.run()
        self.accelerator.free_memory()
        if self.accelerator.is_main_process:
            target = self.folder.model(task)
            save_model(self.model, self.tokens, target, {ANSWERS: answer_counts(self.records[task])})
            checkpoint.unlink(missing_ok=True)
            log.info("task %s: learned, %s", task.name, target)
        self.accelerator.wait_for_everyone()

    def _sources(self, records: list[Record], task: Task) -> list[Source]:
        own = self.settings.add_task_tokens
        start, question_start = task_token(task, own), task_question_token(task, own)
        return read_sources(records, self.tokens, self.tokens.id(start), self.tokens.id(question_start))

    def _epochs(self, task: Task) -> int:
        """Passes over a task's examples; with ``--dynamic_epochs`` more for a task with fewer records."""
        epochs = self.settings.n_train_epochs
        if self.settings.dynamic_epochs:
            largest = max(map(len, self.records.values()))
            epochs = min(self.settings.max_n_epochs, epochs * largest // len(self.records[task]))
            log.info("task %s: %d epochs", task.name, epochs)
        return epochs
