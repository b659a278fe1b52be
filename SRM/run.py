"""A run: it sets up processes, devices and logs, then for each task generates the replays of earlier ones and trains.

Completed work is recognized by its files, so an interrupted run resumes when it is started again.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from tqdm.contrib.logging import logging_redirect_tqdm

from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.files import locked_folder, read_json
from mmclvqa.clove.tasks import Task
from mmclvqa.process_exit import PROCESS_TIMEOUT, leave_process_group
from SRM.data import Prompts, Record, input_files, read_prompts, replay_records, training_records
from SRM.folder import RunFolder
from SRM.generate import Generator
from SRM.lora import add_adapters, merge_adapters
from SRM.model import find_model, grow, load_model, save_model
from SRM.records import answer_counts, judge_for
from SRM.replay import ReplayWriter
from SRM.settings import Settings, environment_rank
from SRM.tokens import Source, Tokens, read_sources, task_question_token, task_token
from SRM.training import TaskTraining

log = logging.getLogger("SRM")

ANSWERS = "answers.json"
"""File in a model's folder: how often each answer occurs in the real records that the model was trained on."""
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Run:
    """The training of one language model along one task order.

    Attributes:
        report: called at each log step with the task name, the number of updates and the measured values.
    """

    def __init__(self, settings: Settings, accelerator: Accelerator) -> None:
        self.settings, self.accelerator, self.order = settings, accelerator, settings.order
        self.report: Callable[[str, int, dict[str, float]], object] = lambda *_: None
        self.folder = RunFolder(settings)
        self.writer = ReplayWriter(settings, accelerator, self.folder, judge_for(settings.root))
        self.records: dict[Task, list[Record]] = {}
        self.prompts: dict[Task, Prompts] = {}
        self.model: Any = None
        self._in_memory: int | None = None  # index of the task that the weights in memory have learned last
        self.tokens: Tokens | None = None

    def check_model(self) -> None:
        """Check that the language model exists if the run starts from it.

        Raises:
            ConfigError: it does not exist.
        """
        starts_from_scratch = self.settings.overwrite or not self.folder.model(self.order[0]).is_dir()
        if starts_from_scratch and not self.settings.skip_tasks:
            find_model(self.settings.root, self.settings.model_name)

    def open(self) -> None:
        """Open the run folder; see :meth:`SRM.folder.RunFolder.open`."""
        if self.accelerator.is_main_process:
            files = (path for path in input_files(self.settings) if path.exists())
            self.folder.open({f"size of {path.name}": path.stat().st_size for path in files})
        self.accelerator.wait_for_everyone()

    def work(self) -> None:
        """Generate and train everything that is not complete yet.

        Raises:
            CloveError: the data, a model or the settings are not valid.
            OSError: a file cannot be written.
        """
        remaining = [index for index in range(len(self.order)) if not self._is_complete(index)]
        if remaining:
            self._read()
        for index in remaining:
            self._load(index)
            if index:
                self._write_replays(index)
            if not self._is_trained(index):
                self._train(index)
        if self.accelerator.is_main_process:
            shutil.rmtree(self.folder.unfinished)
        log.info(f"{self.folder.path}: {'run complete' if remaining else 'all tasks are already complete'}")

    def _is_complete(self, index: int) -> bool:
        """Return whether the task at ``index`` of the order is trained and all replays before it are written."""
        task, earlier = self.order[index], self.order[:index]
        if task in self.folder.skipped:
            return True
        replays = [self.folder.replay(past, task) for past in earlier] + [self.folder.joined_replay(task)] * bool(index)
        return self._is_trained(index) and all(path.exists() for path in replays)

    def _is_trained(self, index: int) -> bool:
        """Return whether the task at ``index`` of the order needs no training."""
        is_last = index == len(self.order) - 1
        return self.folder.model(self.order[index]).is_dir() or (self.settings.skip_last_training and is_last)

    def _read(self) -> None:
        """Read all records and prompts before training starts, so that damaged files are reported immediately."""
        for index, task in enumerate(self.order):
            self.records[task] = training_records(self.settings, task)
            log.info(f"task {task.name}: {len(self.records[task])} records")
            if index < len(self.order) - 1:
                self.prompts[task] = read_prompts(self.settings, task, self.records[task])

    def _load(self, index: int) -> None:
        """Load the weights that the task at ``index`` starts from."""
        name, dropout = self.settings.model_name, self.settings.dropout
        if index == 0:
            self.model, self.tokens = load_model(find_model(self.settings.root, name), name, dropout)
        elif self._in_memory != index - 1:
            self.model, self.tokens = load_model(self.folder.model(self.order[index - 1]), name, dropout)
        self._in_memory = index - 1
        self.model.to(self.accelerator.device)

    def _write_replays(self, index: int) -> None:
        current, earlier = self.order[index], self.order[:index]
        if not all(self.folder.replay(past, current).exists() for past in earlier):
            generator = self._generator()
            for past in earlier:
                answers = self.folder.model(past) / ANSWERS
                real_answers = read_json(answers) if answers.exists() else None
                self.writer.write(generator, self.prompts[past], past, current, real_answers)
        self.writer.join(earlier, current)
        self.accelerator.wait_for_everyone()

    def _generator(self) -> Generator:
        return Generator(self.settings, self.model, self.tokens, DTYPES[self.accelerator.mixed_precision])

    def _train(self, index: int) -> None:
        settings, accelerator = self.settings, self.accelerator
        task, records = self.order[index], self.records[self.order[index]]
        self.tokens.add(task_token(task, settings.add_task_tokens))
        if self.model.config.is_encoder_decoder:
            self.tokens.add(task_question_token(task, settings.add_task_tokens))
        grow(self.model, self.tokens, settings.named_seed("embeddings", task.name))
        if settings.generator == "ct2" and index == 0:
            self._generator()  # fails before hours of training, if the model cannot be converted
        sources = self._sources(records, task)
        files = {past: self.folder.replay(past, task) for past in self.order[:index]}
        for past, replays in replay_records(settings, files, task).items():
            log.info(f"task {task.name}: {len(replays)} replays of {past.name} are added to its {len(records)} records")
            sources += self._sources(replays, past)
        checkpoint, rank = self.folder.unfinished / "training.safetensors", settings.lora_rank
        adapters = rank and add_adapters(self.model, rank, settings.named_seed("adapters", task.name))
        model, epochs, report = self.model, self._epochs(task), partial(self.report, task.name)
        TaskTraining(settings, accelerator, model, self.tokens, sources, epochs, task.name, checkpoint, report).run()
        accelerator.free_memory()
        if adapters:
            merge_adapters(adapters)
        if accelerator.is_main_process:
            target = self.folder.model(task)
            save_model(model, self.tokens, target, {ANSWERS: answer_counts(records)})
            checkpoint.unlink(missing_ok=True)
            log.info(f"task {task.name}: trained, {target}")
        self._in_memory = index
        accelerator.wait_for_everyone()

    def _sources(self, records: list[Record], task: Task) -> list[Source]:
        use_task_tokens = self.settings.add_task_tokens
        start, question_start = task_token(task, use_task_tokens), task_question_token(task, use_task_tokens)
        return read_sources(records, self.tokens, self.tokens.id(start), self.tokens.id(question_start))

    def _epochs(self, task: Task) -> int:
        """Return the number of epochs of a task: with ``--dynamic_epochs``, more for tasks with fewer records."""
        epochs = self.settings.n_train_epochs
        if self.settings.dynamic_epochs:
            largest = max(map(len, self.records.values()))
            epochs = min(self.settings.max_n_epochs, epochs * largest // len(self.records[task]))
            log.info(f"task {task.name}: {epochs} epochs")
        return epochs


def launch(settings: Settings, argv: Sequence[str]) -> int:
    """Run in this process, or replace it by torchrun with one process per GPU.

    Raises:
        CloveError, OSError: see :class:`Run`.
    """
    gpus = usable_gpus(settings.n_gpus)
    rank, processes = environment_rank()
    if gpus > 1 and processes == 1:
        script = str(Path(__file__).with_name("train.py").resolve())
        # torchrun would give each process one thread.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // gpus)))
        command = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={gpus}", script, *argv]
        os.execv(sys.executable, [sys.executable, *command])
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if settings.n_threads or "OMP_NUM_THREADS" not in os.environ:
        # By default torch uses half of the processors where it takes them for hyper-threads.
        torch.set_num_threads(settings.n_threads or max(1, len(os.sched_getaffinity(0)) // processes))
    accelerator = Accelerator(
        cpu=gpus == 0,
        mixed_precision=mixed_precision(settings.precision, gpus),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PROCESS_TIMEOUT)],
    )
    # accelerate runs the garbage collector after each task. It skips frozen objects, here those of the imported
    # libraries, which would take 0.2 s to visit.
    gc.freeze()
    log.setLevel(logging.INFO)
    log.handlers = [logging.StreamHandler()] if rank == 0 else [logging.NullHandler()]
    log.propagate = False
    try:
        run = Run(settings, accelerator)
        run.check_model()
        with locked_folder(run.folder.path) if accelerator.is_main_process else contextlib.nullcontext():
            run.open()
            if accelerator.is_main_process:
                _work_with_logs(run, argv)
            else:
                run.work()
        return 0
    finally:
        leave_process_group()


def _work_with_logs(run: Run, argv: Sequence[str]) -> None:
    settings, accelerator = run.settings, run.accelerator
    file = logging.FileHandler(run.folder.log, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(file)
    with contextlib.ExitStack() as stack:
        stack.callback(file.close)
        log.info(f"SRM {' '.join(argv)}")
        precision = "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision
        log.info(
            f"{accelerator.device}, {accelerator.num_processes} process(es); "
            f"training and generation compute in {precision} (--precision {settings.precision})"
        )
        if settings.ignored:
            names = " ".join(f"--{name}" for name in settings.ignored)
            log.info(f"ignored flags (no effect in the published code): {names}")
        if settings.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            board = stack.enter_context(SummaryWriter(run.folder.tensorboard))

            def report(task: str, updates: int, measures: dict[str, float]) -> None:
                for name, value in measures.items():
                    board.add_scalar(f"{task}/{name.replace(' ', '_')}", value, updates)

            run.report = report
        stack.enter_context(logging_redirect_tqdm([log]))
        run.work()


def usable_gpus(requested: int) -> int:
    """Return how many GPUs the run uses: the requested number, or 0 on a machine without GPUs.

    Raises:
        ConfigError: more GPUs are requested than the machine has.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if requested > available > 0 or (requested > 1 and available == 0):
        raise ConfigError(f"--n_gpus {requested}: this machine has {available}")
    return min(requested, available)


def mixed_precision(precision: str, gpus: int) -> str:
    """Return accelerate's name of a ``--precision``.

    Raises:
        ConfigError: fp16 without a GPU.
    """
    if precision == "auto":
        if gpus == 0:
            return "no"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision == "fp16" and gpus == 0:
        raise ConfigError("--precision fp16 needs a GPU; bf16 and fp32 run on the CPU")
    return "no" if precision == "fp32" else precision
