"""Settings of a run: the command line, its defaults and units, and what of it decides the results."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from mmclvqa.clove.errors import CloveError
from mmclvqa.clove.layout import existing_root
from mmclvqa.clove.tasks import SETTINGS, Task, parse_order, task

MODEL_NAMES = ("gpt2", "distilgpt2", "openai-gpt", "t5-small", "t5v1_1-small")
DECAY_STYLES = ("linear", "cos", "const", "None")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
GENERATORS = ("auto", "rows", "hf")
LENGTH_RULES = ("published", "generated")
DEBUG_RECORDS = 64
GEN_DEBUG_PROMPTS = 32

WITHOUT_EFFECT = frozenset(
    {
        "data_dir",
        "model_dir_root",
        "overwrite",
        "logging_steps",
        "tensorboard",
        "n_gpus",
        "n_workers",
        "n_threads",
    }
    | {"skip_tasks", "ignored"}
)
"""Settings that do not decide what the replay files hold; a run may be continued with others."""

PUBLISHED_WITHOUT_EFFECT: dict[str, dict[str, Any]] = {
    "seq_train_type": {"choices": ("lll",), "help": "the one kind of training that there is"},
    "use_sep": {"action": "store_true", "help": "of LAMOL's own examples"},
    "gen_lm_sample_percentage": {"type": float, "metavar": "SHARE", "help": "see --n_replay"},
    "lr_schedule": {"metavar": "NAME", "help": "see --decay_style"},
    "qp_margin": {"type": float, "metavar": "X", "help": "of GEM, which SRM is not trained with"},
    "model_arch": {"metavar": "NAME", "help": "follows from --model_name"},
    "tasks": {"nargs": "+", "metavar": "TASK", "help": "follow from --task_seq"},
    "replay_dir": {"metavar": "DIR", "help": "follows from --model_dir_root"},
}
"""Flags of the published command line that have no effect there either, with their argparse options."""

DESCRIPTION = """\
Train the symbolic replay model along a task order and write its replays. Before task c is learned, pseudo scene
graphs with questions and answers are generated for every earlier task p and written to
MODEL_DIR_ROOT/<model>_replay/<model>_<setting>_<order>/<order>_REPLAY[<p>]_AT[<c>].npy. A rerun of the same command
continues where it stopped. Flags may also stand in a file, given as @FILE: SRM/mini.args has the sizes for
clove-mini. Several GPUs: --n_gpus, torchrun, or `accelerate launch`."""


class SettingsError(CloveError):
    """A command line that cannot be followed."""


def flag(
    group: str,
    text: str,
    default: Any = MISSING,
    unit: str | None = None,
    choices: Sequence[str] | None = None,
    kind: Callable[[str], Any] = str,
) -> Any:
    """A field that is a flag of the command line.

    Args:
        group: the heading it stands under in the help.
        text: its help.
        default: False makes a switch, a tuple a flag with several values; without one the flag is required.
        unit: of the value, as the help shows it.
        choices: the values allowed.
        kind: reads the value.
    """
    options: dict[str, Any] = {"help": text, "required": default is MISSING}
    if default is False:
        options["action"] = "store_true"
    else:
        options |= {"type": kind, "choices": choices} | ({"metavar": unit} if unit else {})
        options |= {"nargs": "+"} if isinstance(default, tuple) else {}
    if default is not MISSING and default is not False and default not in (None, ()):
        options["help"] += " (default %(default)s)"
    return field(default=default, metadata={"group": group, "options": options})


def whole(least: int) -> Callable[[str], int]:
    """Reads a whole number that is at least ``least``."""

    def whole_number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    return whole_number


def number(least: float, most: float = float("inf"), above: bool = False) -> Callable[[str], float]:
    """Reads a number from ``least`` (or above it) to ``most``."""

    def real_number(text: str) -> float:
        value = float(text)
        if not (least < value if above else least <= value) or not value <= most:
            bounds = f"{'more than' if above else 'at least'} {least:g}"
            raise argparse.ArgumentTypeError(
                f"{text} is not {bounds}" + (f" and at most {most:g}" if most < float("inf") else "")
            )
        return value

    return real_number


POSITIVE = number(0, above=True)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a run is told; each field is a flag, and its help stands here once."""

    cl_setting: str = flag("what", "which six tasks", choices=SETTINGS)
    task_seq: str = flag("what", "task order, six letters such as oarlks or abcdef", unit="ORDER")
    model_name: str = flag("what", "language model", "distilgpt2", choices=MODEL_NAMES)
    add_task_tokens: bool = flag(
        "what", "begin each task's sequences with a token of its own, __<task>__, instead of __gen__", False
    )
    skip_tasks: tuple[str, ...] = flag(
        "what",
        "leading tasks of the order, by letter, that are not trained and before which nothing is generated: "
        "their models must lie in the run folder already",
        (),
        "TASK",
    )

    model_dir_root: str = flag("where", "experiment folder, made when absent", unit="DIR")
    data_dir: str | None = flag(
        "where", "data root with annotations, prompts and pretrained models; default $CLOVE_ROOT", None, "DIR"
    )
    overwrite: bool = flag(
        "where", "begin anew in a run folder, also when it was made with other settings", False
    )

    n_sg_seq: int = flag("data", "scene-graph items in a training example", 30, "ITEMS", kind=whole(1))
    train_perc: float = flag(
        "data",
        "share of each task's records and of the replays that is used; other than 1, _tr<SHARE> is appended to "
        "--model_dir_root",
        1.0,
        "SHARE",
        kind=number(0, 1, above=True),
    )
    n_replay: int = flag(
        "data",
        "fresh replays per earlier task that a task is trained on, at most",
        5000,
        "RECORDS",
        kind=whole(0),
    )

    n_train_epochs: int = flag(
        "training", "passes over a task's records and replays", 15, "EPOCHS", kind=whole(1)
    )
    dynamic_epochs: bool = flag(
        "training",
        "a task with fewer records gets more epochs: --n_train_epochs times the size of the task with most records, "
        "divided by its own and rounded down, at most --max_n_epochs",
        False,
    )
    max_n_epochs: int = flag("training", "epochs of a task with --dynamic_epochs, at most", 30, "EPOCHS", kind=whole(1))
    learning_rate: float = flag("training", "peak learning rate of AdamW", 6.25e-5, "LR", kind=POSITIVE)
    adam_epsilon: float = flag("training", "AdamW's epsilon", 1e-4, "X", kind=POSITIVE)
    weight_decay: float = flag(
        "training", "AdamW's decay, none on biases and on weights called LayerNorm", 0.01, "X", kind=number(0)
    )
    max_grad_norm: float = flag("training", "gradients are scaled down to it", 1.0, "NORM", kind=POSITIVE)
    n_warmup_ratio: float = flag(
        "training", "warm-up, as a share of one epoch's examples", 0.005, "SHARE", kind=number(0)
    )
    decay_style: str = flag(
        "training",
        "learning rate after warm-up: linear and cos fall to 0, const and None stay",
        "linear",
        choices=DECAY_STYLES,
    )
    lm_lambda: float = flag(
        "training",
        "weight of the scene-graph loss beside the question-answer loss",
        0.25,
        "X",
        kind=number(0),
    )
    tokens_weight: float = flag(
        "training", "weight of the targets [ans] [que] [OCR] [SEP]; T5 weights all alike", 5.0, "X", kind=POSITIVE
    )
    dropout: float | None = flag(
        "training",
        "dropout everywhere in the model; default: what its configuration says",
        None,
        "P",
        kind=number(0, 1),
    )
    min_batch_size: int = flag("training", "see --min_n_steps", 4, "EXAMPLES", kind=whole(1))
    min_n_steps: int = flag(
        "training",
        "updates that an epoch has at least, as long as batches do not get too small for it: a batch holds at "
        "most max(examples / min_n_steps, min_batch_size) examples",
        1500,
        "UPDATES",
        kind=whole(1),
    )
    train_batch_size: int = flag(
        "training",
        "tokens of a batch on one device, padding included, at most",
        16384,
        "TOKENS",
        kind=whole(1),
    )

    use_gt: bool = flag(
        "generation",
        "prompt with the related items of the earlier tasks' real records instead of sampled prompts",
        False,
    )
    n_prompts: int = flag(
        "generation", "prompts per earlier task, drawn at random, at most", 15000, "PROMPTS", kind=whole(1)
    )
    max_length: int = flag(
        "generation", "a generated sequence with its prompt, at most", 512, "TOKENS", kind=whole(8)
    )
    test_batch_size: int = flag(
        "generation",
        "sequences times max_length held in memory; 0: half of a GPU's memory, 2 GiB on the CPU",
        0,
        "TOKENS",
        kind=whole(0),
    )
    generator: str = flag(
        "generation",
        "auto and rows: own search; hf: transformers' generate(), which needs --length_rule generated",
        "auto",
        choices=GENERATORS,
    )
    length_rule: str = flag(
        "generation",
        "what the log-probability of a finished beam is divided by: published, the length of the whole sequence, "
        "prompt included (transformers 3.4 to 4.10); generated, that of the generated tokens alone (today's)",
        "published",
        choices=LENGTH_RULES,
    )

    seed: int = flag("machine and log", "of every random draw", 42, "N", kind=whole(0))
    precision: str = flag(
        "machine and log",
        "arithmetic; auto: bf16 on a GPU that has it, else fp16 on a GPU, fp32 on the CPU; the log says which",
        "auto",
        choices=PRECISIONS,
    )
    n_gpus: int = flag(
        "machine and log",
        "0 for the CPU, which is also taken where there is no GPU",
        1,
        "GPUS",
        kind=whole(0),
    )
    n_threads: int = flag(
        "machine and log",
        "of torch on the CPU; 0: OMP_NUM_THREADS, else all processors",
        0,
        "THREADS",
        kind=whole(0),
    )
    n_workers: int = flag(
        "machine and log", "that prepare batches beside training, 0 for none", 1, "THREADS", kind=whole(0)
    )
    logging_steps: int = flag("machine and log", "between two log lines", 500, "UPDATES", kind=whole(1))
    tensorboard: bool = flag("machine and log", "also log to TensorBoard in the run folder", False)
    debug: bool = flag(
        "machine and log",
        f"try out: {DEBUG_RECORDS} records of each task in file order, one epoch, a log line each update",
        False,
    )
    gen_debug: bool = flag(
        "machine and log",
        f"try out: {GEN_DEBUG_PROMPTS} prompts per earlier task, every generated text is logged with the reason "
        "of its refusal",
        False,
    )

    ignored: tuple[str, ...] = ()
    """Flags that were given but have no effect: of :data:`PUBLISHED_WITHOUT_EFFECT`, in their order."""

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
        """``--model_dir_root``, with the suffix that a share of the records gives it."""
        root = Path(self.model_dir_root)
        return root if self.train_perc == 1 else Path(f"{root}_tr{self.train_perc}")

    def decisive(self) -> dict[str, Any]:
        """The settings that decide what the files of a run hold, by name, in plain JSON types."""
        return {name: value for name, value in asdict(self).items() if name not in WITHOUT_EFFECT}


class _Parser(argparse.ArgumentParser):
    """Reads ``@FILE`` as flags that stand in a file, as on a command line, with # comments."""

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        return shlex.split(arg_line, comments=True)

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message} (--help shows all flags)")


def parser() -> argparse.ArgumentParser:
    """The command line, in groups."""
    top = _Parser(prog="python SRM/train.py", description=DESCRIPTION, fromfile_prefix_chars="@")
    groups: dict[str, Any] = {}
    for one in fields(Settings):
        if one.metadata:
            _add(top, groups, one)
    published = top.add_argument_group("published flags without effect")
    for name, options in PUBLISHED_WITHOUT_EFFECT.items():
        published.add_argument(f"--{name}", default=argparse.SUPPRESS, **options)
    groups["machine and log"].add_argument("--fp32", help="the same as --precision fp32", action="store_true")
    return top


def _add(top: argparse.ArgumentParser, groups: dict[str, Any], one: Field[Any]) -> None:
    name = one.metadata["group"]
    if name not in groups:
        groups[name] = top.add_argument_group(name)
    default = {} if one.default is MISSING else {"default": one.default}
    groups[name].add_argument(f"--{one.name}", **one.metadata["options"], **default)


def parse(argv: Sequence[str]) -> Settings:
    """Settings from a command line.

    Raises:
        SettingsError, TaskError, DataError: a value that cannot be followed; the message names the flag.
    """
    # The published command line has "\\ --add_task_tokens": the shell makes one word of it, with a blank before.
    values = vars(parser().parse_args([word.strip() for word in argv]))
    ignored = tuple(name for name in PUBLISHED_WITHOUT_EFFECT if name in values)
    for name in ignored:
        del values[name]
    if values.pop("fp32"):
        if values["precision"] not in ("auto", "fp32"):
            raise SettingsError(f"--fp32 and --precision {values['precision']} contradict each other")
        values["precision"] = "fp32"
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
        raise SettingsError(f"--skip_tasks {names}: not the first tasks of the order {settings.task_seq}")
    if len(skipped) == len(order):
        raise SettingsError("--skip_tasks names all tasks, so there is nothing to do")
    existing_root(settings.data_dir)
    if settings.generator == "hf" and settings.length_rule != "generated":
        raise SettingsError(
            f"--generator hf: transformers' generate() does not know the length rule {settings.length_rule}; "
            "give --length_rule generated, or leave --generator out"
        )
    target = settings.model_root
    if target.exists() and not target.is_dir():
        raise SettingsError(f"--model_dir_root {target}: is a file, not a folder")


def environment_rank() -> tuple[int, int]:
    """Rank and number of processes, as torchrun and ``accelerate launch`` tell them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
