"""Starting a run: processes, devices, arithmetic, logs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from tqdm.contrib.logging import logging_redirect_tqdm

from mmclvqa.process_exit import leave_process_group
from SRM.run import Run
from SRM.settings import Settings, SettingsError, environment_rank

log = logging.getLogger("SRM")

LINE = "%(asctime)s %(message)s"


def launch(settings: Settings, argv: Sequence[str]) -> int:
    """Do a run in this process, or in one process for each GPU.

    Raises:
        CloveError, OSError: see :class:`SRM.run.Run`.
    """
    gpus = usable_gpus(settings.n_gpus)
    rank, processes = environment_rank()
    if gpus > 1 and processes == 1:
        script = str(Path(__file__).resolve().with_name("train.py"))
        command = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={gpus}", script, *argv]
        os.execv(sys.executable, [sys.executable, *command])
    # Examples are tokenised in a few large calls; the tokenizers' own threads would only warn about forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if settings.n_threads or "OMP_NUM_THREADS" not in os.environ:
        # Left alone, torch takes half of the processors where it believes them to be hyper-threads.
        torch.set_num_threads(settings.n_threads or max(1, len(os.sched_getaffinity(0)) // processes))
    accelerator = Accelerator(cpu=gpus == 0, mixed_precision=arithmetic(settings.precision, gpus))
    log.setLevel(logging.INFO)
    log.handlers = [logging.StreamHandler()] if rank == 0 else [logging.NullHandler()]
    log.propagate = False
    try:
        return _run(settings, accelerator, argv)
    finally:
        leave_process_group()


def _run(settings: Settings, accelerator: Accelerator, argv: Sequence[str]) -> int:
    run = Run(settings, accelerator)
    run.open()
    if not accelerator.is_main_process:
        run.work()
        return 0
    file = logging.FileHandler(run.folder.log, encoding="utf-8")
    file.setFormatter(logging.Formatter(LINE))
    log.addHandler(file)
    log.info("SRM %s", " ".join(argv))
    log.info(
        "%s, %d process(es); training and generation compute in %s (--precision %s)",
        accelerator.device,
        accelerator.num_processes,
        "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision,
        settings.precision,
    )
    if settings.ignored:
        log.info("without effect: %s", " ".join(f"--{name}" for name in settings.ignored))
    writer = _board(run) if settings.tensorboard else None
    if writer:
        run.report = lambda task, updates, measures: _show(writer, task, updates, measures)
    try:
        with logging_redirect_tqdm([log]):
            run.work()
    finally:
        if writer:
            writer.close()
    return 0


def usable_gpus(wanted: int) -> int:
    """How many GPUs a run takes: as many as wanted, none where there are none.

    Raises:
        SettingsError: fewer are there.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted > there > 0 or (wanted > 1 and there == 0):
        raise SettingsError(f"--n_gpus {wanted}: this machine has {there}")
    return min(wanted, there)


def arithmetic(precision: str, gpus: int) -> str:
    """What accelerate calls a precision.

    Raises:
        SettingsError: fp16 without a GPU.
    """
    if precision == "auto":
        if gpus == 0:
            return "no"
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if precision == "fp16" and gpus == 0:
        raise SettingsError("--precision fp16 needs a GPU; bf16 and fp32 run on the CPU")
    return "no" if precision == "fp32" else precision


def _board(run: Run) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise SettingsError("--tensorboard: needs the package tensorboard; pip install tensorboard") from None
    return SummaryWriter(run.folder.tensorboard)


def _show(writer: Any, task: str, updates: int, measures: dict[str, float]) -> None:
    for name, value in measures.items():
        writer.add_scalar(f"{task}/{name.replace(' ', '_')}", value, updates)
