"""The settings of a run: the command line with its defaults and units, and the seeds of its random draws."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import math
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from mmclvqa.clove.data_root import existing_root
from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.experiment_paths import language_model_name
from mmclvqa.clove.settings import order_text
from mmclvqa.clove.tasks import Task, find_setting, parse_order, task
from mmclvqa.clove.text import did_you_mean, error_line

PUBLISHED_MODELS = {
    "gpt2": ("gpt2", "gpt2"),
    "distilgpt2": ("distilgpt2", "gpt2"),
    "openai-gpt": ("openai-gpt", "openai-gpt"),
    "t5-small": ("t5-small", "t5"),
    "t5v1_1-small": ("google/t5-v1_1-small", "t5"),
}
"""The published values of ``--model_name``: each model's id on the Hugging Face hub and its ``model_type``."""
DECAY_STYLES = ("linear", "cos", "const", "None")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
GENERATORS = ("auto", "rows", "ct2", "hf")
LENGTH_RULES = ("published", "generated")
DEBUG_RECORDS = 64
GEN_DEBUG_PROMPTS = 32
MOST_THREADS = 1024
"""Upper limit of ``--n_threads``: with very many threads, torch ends with a segmentation fault."""

NO_EFFECT_ON_RESULTS = frozenset(
    ("data_dir", "model_dir_root", "overwrite", "skip_tasks", "skip_last_training", "ignored")
    + ("logging_steps", "tensorboard", "n_gpus", "n_workers", "n_threads")
)
"""Settings that do not affect the results, so that a run may be resumed with other values of them."""

DESCRIPTION = """\
Train the symbolic replay model along a task order and generate its replays. Before training on task c, pseudo scene
graphs with questions and answers are generated for every earlier task p and written to
MODEL_DIR_ROOT/<model>_replay/<model>_<setting>_<order>/<order>_REPLAY[<p>]_AT[<c>].npy. An interrupted run resumes when
the same command is run again. @FILE reads flags from a file: SRM/mini.args has the sizes for clove-mini. Several GPUs:
--n_gpus, torchrun, or `accelerate launch`."""


Converter = Callable[[str], Any]


def flag(
    group: str, text: str, default: Any = MISSING, unit: str | None = None, kind: Converter = str, **options: Any
) -> Any:
    """Declare a field that is a flag of the command line.

    Args:
        group: the heading of the flag in the help.
        text: the help text.
        default: False declares a switch, a tuple a flag with several values; without a default the flag is required.
        unit: the unit of the value in the help.
        kind: converts the text of the value.
        options: further options of :meth:`argparse.ArgumentParser.add_argument`.
    """
    options |= {"help": text, "required": default is MISSING}
    if default is False:
        options["action"] = "store_true"
    else:
        options |= {"type": kind} | ({"metavar": unit} if unit else {})
        options |= {"nargs": "+"} if isinstance(default, tuple) else {}
    if default is not MISSING and default is not False and default not in (None, ()):
        options["help"] += " (default %(default)s)"
    return field(default=default, metadata={"group": group, "options": options})


def number(
    kind: type[int] | type[float], least: float = -math.inf, most: float = math.inf, above: bool = False
) -> Converter:
    """Return a converter for numbers from ``least``, which ``above`` excludes, to ``most``."""

    def convert(text: str) -> float:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if least <= value <= most and not (above and value == least):
                return value
        expected = "a whole number" if kind is int else "a number"
        expected += "" if least == -math.inf else f" {'above' if above else 'of at least'} {least:g}"
        expected += "" if most == math.inf else f" and at most {most:g}"
        raise argparse.ArgumentTypeError(f"must be {expected}, got {text!r}")

    return convert


BATCH_TOKENS = 16384
ANY_NUMBER, POSITIVE = number(float), number(float, 0, above=True)
NOT_NEGATIVE, SHARE = number(float, 0), number(float, 0, 1)
AT_LEAST_0, AT_LEAST_1 = number(int, 0), number(int, 1)

PUBLISHED_WITHOUT_EFFECT: dict[str, dict[str, Any]] = {
    "seq_train_type": {"choices": ("lll",), "help": "the only kind of training"},
    "use_sep": {"action": "store_true", "help": "affects LAMOL's examples only"},
    "gen_lm_sample_percentage": {"type": ANY_NUMBER, "metavar": "SHARE", "help": "see --n_replay"},
    "lr_schedule": {"metavar": "NAME", "help": "see --decay_style"},
    "qp_margin": {"type": ANY_NUMBER, "metavar": "X", "help": "affects GEM only, which SRM does not use"},
    "model_arch": {"metavar": "NAME", "help": "implied by --model_name"},
    "tasks": {"nargs": "+", "metavar": "TASK", "help": "implied by --task_seq"},
    "replay_dir": {"metavar": "DIR", "help": "implied by --model_dir_root"},
}
"""Flags of the published command line that have no effect in the published code, with their argparse options."""

_task = partial(flag, "task order and model")
_path = partial(flag, "paths")
_data = partial(flag, "training data")
_train = partial(flag, "training")
_generate = partial(flag, "generation")
_run = partial(flag, "hardware and logging")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run; each field is a flag of the command line."""

    # fmt: off
    cl_setting: str = _task("setting: its name, or the path of its YAML file", unit="SETTING")
    task_seq: str = _task("task order, such as oarlks or shape,color,count", unit="ORDER")
    model_name: str = _task(
        f"language model: {', '.join(PUBLISHED_MODELS)}, or the hub id or the folder of any causal or encoder-decoder "
        "model of transformers", "distilgpt2", "MODEL")
    add_task_tokens: bool = _task(
        "start the sequences of each task with its token __<task>__ instead of __gen__", False)
    skip_tasks: tuple[str, ...] = _task(
        "first tasks of the order to skip (by letter): no replays are generated before them and they are not trained; "
        "their models must exist in the run folder", (), "TASK")
    skip_last_training: bool = _task(
        "do not train on the last task of the order: its model would generate no replays", False)

    model_dir_root: str = _path("experiment folder, created if necessary", unit="DIR")
    data_dir: str | None = _path(
        "data root with annotations, prompts and pretrained models; default $CLOVE_ROOT", None, "DIR")
    overwrite: bool = _path(
        "delete the results in the run folder and start over, even if they were made with different settings", False)

    n_sg_seq: int = _data("maximum number of scene-graph items of an example", 30, "ITEMS", kind=AT_LEAST_1)
    train_perc: float = _data(
        "share of each task's records and of the replays to train on; other than 1, _tr<SHARE> is appended to "
        "--model_dir_root", 1.0, "SHARE", kind=number(float, 0, 1, above=True))
    n_replay: int = _data(
        "maximum number of replays per earlier task that a task is trained on", 5000, "RECORDS", kind=AT_LEAST_0)

    n_train_epochs: int = _train("number of epochs over a task's records and replays", 15, "EPOCHS", kind=AT_LEAST_1)
    dynamic_epochs: bool = _train(
        "more epochs for tasks with fewer records: --n_train_epochs times the size of the largest task divided by "
        "its own, rounded down, at most --max_n_epochs", False)
    max_n_epochs: int = _train("maximum number of epochs with --dynamic_epochs", 30, "EPOCHS", kind=AT_LEAST_1)
    learning_rate: float = _train("peak learning rate of AdamW", 6.25e-5, "LR", kind=POSITIVE)
    adam_epsilon: float = _train("epsilon of AdamW", 1e-4, "X", kind=POSITIVE)
    weight_decay: float = _train(
        "weight decay, except of biases and of weights named LayerNorm", 0.01, "X", kind=NOT_NEGATIVE)
    max_grad_norm: float = _train("maximum norm of the gradient", 1.0, "NORM", kind=POSITIVE)
    n_warmup_ratio: float = _train(
        "length of the warm-up, as a share of the examples of one epoch", 0.005, "SHARE", kind=NOT_NEGATIVE)
    decay_style: str = _train(
        "learning rate after warm-up: linear and cos decay to 0, const and None do not decay",
        "linear", choices=DECAY_STYLES)
    lm_lambda: float = _train(
        "weight of the scene-graph loss; that of the question-answer loss is 1", 0.25, "X", kind=NOT_NEGATIVE)
    tokens_weight: float = _train(
        "loss weight of the targets [ans] [que] [OCR] [SEP], not for T5", 5.0, "X", kind=POSITIVE)
    dropout: float | None = _train(
        "rate of all dropout layers; default: as in the model's configuration", None, "P", kind=SHARE)
    lora_rank: int | None = _train(
        "train adapters of this rank instead of the weights of linear layers, and merge them after each task; needs "
        "peft; _lora<RANK> is appended to the model's name in folders", None, "RANK", kind=AT_LEAST_1)
    min_batch_size: int = _train("see --min_n_steps", 4, "EXAMPLES", kind=AT_LEAST_1)
    min_n_steps: int = _train(
        "target for the minimum number of updates per epoch: the batch size is at most "
        "max(examples / min_n_steps, min_batch_size)", 1500, "UPDATES", kind=AT_LEAST_1)
    train_batch_size: int = _train(
        "maximum number of tokens of a batch on one device, including padding; 0, as published, means the default",
        BATCH_TOKENS, "TOKENS", kind=AT_LEAST_0)

    use_gt: bool = _generate(
        "prompt with the related items of real records of the earlier tasks instead of sampled prompts", False)
    n_prompts: int = _generate(
        "maximum number of prompts per earlier task, drawn at random", 15000, "PROMPTS", kind=AT_LEAST_1)
    max_length: int = _generate(
        "maximum length of a generated sequence, including its prompt", 512, "TOKENS", kind=number(int, 8))
    test_batch_size: int = _generate(
        "size of the key-value cache, sequences times max_length; 0: half of a GPU's memory, 2 GiB on the CPU",
        0, "TOKENS", kind=AT_LEAST_0)
    generator: str = _generate(
        "auto and rows: SRM's own search; ct2: CTranslate2, which is faster on CPUs for small models (pip install -r "
        "ct2_requirements.txt); hf: transformers' generate(), which requires --length_rule generated",
        "auto", choices=GENERATORS)
    length_rule: str = _generate(
        "divisor of the log-probability of a finished beam: published, the length of the whole sequence, including "
        "the prompt (transformers 3.4 to 4.10); generated, that of the generated tokens (current transformers)",
        "published", choices=LENGTH_RULES)

    seed: int = _run("seed of all random draws", 42, "N", kind=AT_LEAST_0)
    precision: str = _run(
        "computing precision; auto: bf16 on GPUs that support it, else fp16 on GPUs, fp32 on the CPU; "
        "the precision in use is logged", "auto", choices=PRECISIONS)
    n_gpus: int = _run(
        "number of GPUs; 0: CPU, which is also used on a machine without GPUs", 1, "GPUS", kind=AT_LEAST_0)
    n_threads: int = _run(
        "number of torch's CPU threads; 0: OMP_NUM_THREADS if set, else all processors",
        0, "THREADS", kind=number(int, 0, MOST_THREADS))
    n_workers: int = _run("number of threads that prepare batches; 0: the main thread", 1, "THREADS", kind=AT_LEAST_0)
    logging_steps: int = _run("updates between two log lines", 500, "UPDATES", kind=AT_LEAST_1)
    tensorboard: bool = _run("also log to TensorBoard in the run folder", False)
    debug: bool = _run(
        f"for debugging: {DEBUG_RECORDS} records of each task in file order, one epoch, a log line per update", False)
    gen_debug: bool = _run(
        f"for debugging: {GEN_DEBUG_PROMPTS} prompts per earlier task; every generated text is logged, with the reason "
        "if it is rejected", False)
    # fmt: on

    ignored: tuple[str, ...] = ()
    """Given flags without effect, in the order of :data:`PUBLISHED_WITHOUT_EFFECT`."""

    @property
    def order(self) -> list[Task]:
        """The tasks in learning order."""
        return parse_order(self.cl_setting, self.task_seq)

    @property
    def root(self) -> Path:
        """The data root."""
        return existing_root(self.data_dir)

    @property
    def model_root(self) -> Path:
        """``--model_dir_root``, with the suffix of ``--train_perc``."""
        root = Path(self.model_dir_root)
        return root if self.train_perc == 1 else Path(f"{root}_tr{self.train_perc}")

    def result_settings(self) -> dict[str, Any]:
        """Return the settings that affect the results, by name, as JSON values."""
        values = {name: value for name, value in asdict(self).items() if name not in NO_EFFECT_ON_RESULTS}
        if self.lora_rank is None:
            del values["lora_rank"]  # as in runs from before there were adapters
        return values

    def named_seed(self, *names: str | int) -> int:
        """Return a seed of 63 bits that depends on the run's seed and on every name of the draw."""
        text = "\0".join(map(str, (self.seed, *names)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class _Parser(argparse.ArgumentParser):
    """Parser that reads ``@FILE`` as a file of flags in shell syntax, with # comments."""

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        return shlex.split(arg_line, comments=True)

    def error(self, message: str) -> NoReturn:
        cause = sys.exc_info()[1]
        if isinstance(cause, OSError):  # of an @FILE
            message = error_line(cause)
        message = message.removeprefix("argument ").replace(": must be ", " must be ", 1)
        if message.startswith("unrecognized arguments: "):
            name = message.split()[2].partition("=")[0]
            message += did_you_mean(name, [f"--{setting.name}" for setting in fields(Settings)])
        raise ConfigError(f"{message} (--help shows all flags)")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = _Parser(prog="python SRM/train.py", description=DESCRIPTION, fromfile_prefix_chars="@")
    groups: dict[str, Any] = {}
    for settings_field in fields(Settings):
        if settings_field.metadata:
            heading = settings_field.metadata["group"]
            group = groups[heading] = groups.get(heading) or top.add_argument_group(heading)
            default = {} if settings_field.default is MISSING else {"default": settings_field.default}
            group.add_argument(f"--{settings_field.name}", **settings_field.metadata["options"], **default)
    published = top.add_argument_group("published flags without effect")
    for name, options in PUBLISHED_WITHOUT_EFFECT.items():
        published.add_argument(f"--{name}", default=argparse.SUPPRESS, **options)
    groups["hardware and logging"].add_argument("--fp32", help="same as --precision fp32", action="store_true")
    return top


def parse(argv: Sequence[str]) -> Settings:
    """Read the settings from a command line.

    Raises:
        ConfigError, TaskError, DataError: a value is not valid; the message names the flag.
    """
    # The published command line has "\\ --add_task_tokens", which the shell passes as one word with a leading blank.
    words = [word.strip() for word in argv]
    try:
        values = vars(parser().parse_args(words))
    except ValueError as error:
        names = ", ".join(word[1:] for word in words if word.startswith("@"))
        raise ConfigError(f"{names}: cannot be read as flags ({error})") from None
    ignored = tuple(name for name in PUBLISHED_WITHOUT_EFFECT if name in values)
    for name in ignored:
        del values[name]
    if values.pop("fp32"):
        if values["precision"] not in ("auto", "fp32"):
            raise ConfigError(f"--fp32 and --precision {values['precision']} contradict each other")
        values["precision"] = "fp32"
    values["train_batch_size"] = values["train_batch_size"] or BATCH_TOKENS
    existing_root(values["data_dir"])
    values["cl_setting"] = find_setting(values["cl_setting"]).name
    values["task_seq"] = order_text(parse_order(values["cl_setting"], values["task_seq"]))
    if values["debug"]:
        values |= {"n_train_epochs": 1, "dynamic_epochs": False, "logging_steps": 1}
    settings = Settings(**values | {"skip_tasks": tuple(values["skip_tasks"]), "ignored": ignored})
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    order = settings.order
    skipped = [task(settings.cl_setting, name) for name in settings.skip_tasks]
    if skipped != order[: len(skipped)]:
        names = " ".join(settings.skip_tasks)
        raise ConfigError(f"--skip_tasks {names}: not the first tasks of the order {settings.task_seq}")
    if len(skipped) == len(order):
        raise ConfigError("--skip_tasks names all tasks, so there is nothing to do")
    name, rule = settings.model_name, settings.length_rule
    if not language_model_name(name):
        raise ConfigError(f"--model_name {name!r}: has no final path component to name the run folder after")
    if settings.generator == "hf" and rule != "generated":
        reason = f"transformers' generate() does not know the length rule {rule}"
        raise ConfigError(f"--generator hf: {reason}; give --length_rule generated, or leave --generator out")
    if settings.generator == "ct2":
        check_installed("--generator ct2", "CTranslate2", "-r ct2_requirements.txt")
    if settings.lora_rank is not None:
        check_installed(f"--lora_rank {settings.lora_rank}", "peft", "-r lora_requirements.txt")
    if settings.tensorboard:
        check_installed("--tensorboard", "tensorboard", "tensorboard")
    if not settings.model_dir_root:
        raise ConfigError("--model_dir_root must be a folder, got ''")
    target = settings.model_root
    if target.exists() and not target.is_dir():
        raise ConfigError(f"--model_dir_root {target}: is a file, not a folder")


def check_installed(flag: str, name: str, pip_arguments: str) -> None:
    """Check that the optional package that a flag needs is installed.

    Raises:
        ConfigError: it is not; the message has the command that installs it.
    """
    if importlib.util.find_spec(name.lower()) is None:
        raise ConfigError(f"{flag}: {name} is not installed; install it: pip install {pip_arguments}")


def environment_rank() -> tuple[int, int]:
    """Return the rank and the number of processes, as set by torchrun and ``accelerate launch``."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
