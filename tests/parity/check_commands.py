"""Checks what this project does with the published commands, without data or weights.

    python tests/parity/check_commands.py FILE [--configs FILE]

FILE is JSON: for each ``<setting> <order> <index>`` and each method, the overrides of its ``mmf_run`` commands in order
of execution (``mmf_run``) and the arguments of its evaluation (``stage_sweep``), as the published generator writes
them. Each command is composed with this project's configuration file of the same path and, if ``--configs`` has it
(see check_configs.py; default: the fixture), with the published file. Every override must take effect; task, records,
initial weights, save folder, replay files, callbacks and importances must be those of the step in the task order.
Differences are printed.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import shlex
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmf.common.registry import registry  # noqa: E402
from omegaconf import DictConfig, OmegaConf  # noqa: E402

import eval_os  # noqa: E402
import mmclvqa  # noqa: E402, F401  (before mmf)
from mmclvqa.clove import experiment_paths as places  # noqa: E402
from mmclvqa.clove.errors import CloveError  # noqa: E402
from mmclvqa.clove.tasks import Task, order_index, parse_order, tasks  # noqa: E402
from mmclvqa.configuration import parse_value, split_words  # noqa: E402
from mmclvqa.methods.importances import FILE as IMPORTANCES  # noqa: E402
from mmclvqa.methods.kmeans_replay import FILE as KMEANS_FILE  # noqa: E402
from mmclvqa.methods.selection import select_methods  # noqa: E402
from mmclvqa.training.callbacks import Callbacks  # noqa: E402
from mmclvqa.training.evaluation import Metrics  # noqa: E402
from tests.parity.check_configs import PROJECT, compose, published_files  # noqa: E402

CONFIGS = PROJECT / "tests" / "fixtures" / "published_configs.json"
FOLDER = "EXP_CONFIG/"
SAVE = f"/experiments/{places.SAVE}"


@dataclass(frozen=True)
class Step:
    """The position of a command in a task order, with the folders of this and the previous task."""

    order: str
    learned: list[Task]
    position: int
    before: str | None
    folder: str

    @property
    def task(self) -> Task:
        return self.learned[self.position]

    @property
    def earlier(self) -> list[Task]:
        return self.learned[: self.position]


def check(path: Path, configs: Path | None = CONFIGS) -> Iterator[str]:
    """Yield a line for each difference."""
    content = json.loads(path.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if configs is not None:
            write_published(configs, Path(folder))
        for world, methods in content.items():
            for method, run in methods.items():
                for problem in check_run(world, run, Path(folder)):
                    yield f"{world}, {method}: {problem}"


def write_published(configs: Path, folder: Path) -> None:
    """Write the published configuration files into ``folder``, as they are on their author's machine."""
    for name, values in published_files(configs).items():
        nested: dict[str, Any] = {}
        for dotted, value in values.items():
            node = nested
            *above, last = dotted.split(".")
            for key in above:
                node = node.setdefault(key, {})
            node[last] = _on_the_authors_machine(value)
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(yaml.safe_dump(nested), encoding="utf-8")


def _on_the_authors_machine(value: Any) -> Any:
    if isinstance(value, list):
        return [_on_the_authors_machine(entry) for entry in value]
    return value.replace("<path> ", "/home/author/") if isinstance(value, str) else value


def check_run(world: str, run: dict[str, Any], published: Path) -> Iterator[str]:
    """Yield the differences of the commands of one method.

    Args:
        world: ``<setting> <order> <index>``.
        run: its ``mmf_run`` and ``stage_sweep``.
        published: the folder that :func:`write_published` has filled.
    """
    setting, order, index = world.split()
    commands, sweeps = run["mmf_run"], [sweep_arguments(text) for text in run["stage_sweep"]]
    if order_index(setting, order) != int(index):
        yield f"the index of {order} is {order_index(setting, order)}"
    experiment = sweeps[0]["val_exp"] if sweeps else None
    # Single-task models are trained in the default order of the setting.
    learned = parse_order(setting, order) if experiment else list(tasks(setting).values())
    alone = places.stand_alone_folder(setting, SAVE)
    folder = places.run_folder(setting, order, experiment, SAVE) if experiment else alone
    own_first = len(commands) == len(learned)
    if len(commands) not in (len(learned), len(learned) - 1):
        yield f"{len(commands)} commands for {len(learned)} tasks"
    for arguments in sweeps:
        yield from _check_sweep(arguments, setting, order, own_first)
    for number, words in enumerate(commands):
        position = number if own_first else number + 1
        before = None
        if experiment and position:
            first = folder if own_first or number else alone
            before = f"{first}/{places.task_folder(learned[position - 1])}"
        step = Step(order, learned, position, before, f"{folder}/{places.task_folder(learned[position])}")
        expanded = [shlex.split(word.replace("$ROOT", "/experiments"))[0] for word in words]
        for kind, variant in (("our file", expanded), ("published file", _with_configs(expanded, published))):
            if variant is None:
                continue
            try:
                problems = list(_check_command(variant, step))
            except CloveError as error:
                problems = [str(error)]
            yield from (f"{step.task.name} ({kind}): {problem}" for problem in problems)


def _with_configs(words: list[str], folder: Path) -> list[str] | None:
    """Return the command with the published configuration file; None if there is none."""
    name = split_words(words)["config"].removeprefix(FOLDER)
    if not (folder / name).is_file():
        return None
    return [f"config={folder / name}" if word.startswith("config=") else word for word in words]


def _check_command(words: list[str], step: Step) -> Iterator[str]:
    config = compose(*words)
    given = {key: parse_value(text) for key, text in split_words(words).items()}
    for key, value in given.items():
        own = OmegaConf.select(config, key)
        if own != value:
            yield f"{key}={value}: it is {own!r}"
    continual = config.training.CL
    methods = select_methods(config)
    expected = {
        "task": (continual.cur_task, step.task.name),
        "setting": (continual.cl_setting, step.task.setting),
        "train records": (list(config.dataset_config.clvqa.annotations.train), [step.task.annotation_path("train")]),
        "val records": (list(config.dataset_config.clvqa.annotations.val), [step.task.annotation_path("val")]),
        "start weights": (config.checkpoint.resume_file, step.before and places.final_weights(step.before)),
        "save folder": (config.env.save_dir, step.folder),
        "replay files or importances": (
            [str(path) for one in methods for path in one.source_files(config.dataset_config.clvqa.data_dir)],
            _source_files(given, step),
        ),
        # K-means replay keeps its exemplars without a callback; the published kmeans_store has no effect.
        "callbacks": (Callbacks(config.training.callbacks).names, []),
        "methods": ([one.name for one in methods], [_method(given)]),
    }
    for what, (own, wanted) in expected.items():
        if own != wanted:
            yield f"{what}: {own} instead of {wanted}"
    yield from _check_names(config)


def _method(given: dict[str, Any]) -> str:
    """Return the name of the method according to the overrides."""
    if given.get("training.trainer") == "CL":
        return given["training.CL.reg_type"]
    if not given.get("training.CL.use_replay"):
        return "ft"
    names = {"restore_with_prob": "srm", "restore_with_number": "srm"}
    return names.get(given["training.CL.replay_method"], given["training.CL.replay_method"])


def _source_files(given: dict[str, Any], step: Step) -> list[str]:
    """Return the files of replays or importances according to the overrides."""
    method = given.get("training.CL.replay_method")
    if given.get("training.trainer") == "CL":
        return [f"{step.before}/{IMPORTANCES}"] if step.before else []
    if not given.get("training.CL.use_replay"):
        return []
    if method == "kmeans":
        return [f"{step.before}/{KMEANS_FILE}"] if step.before else []
    if method in ("random", "gem"):
        return [f"/clove/{past.annotation_path('train')}" for past in step.earlier]
    folder = given["training.CL.restore_dir"]
    return [f"{folder}/{places.replay_file(step.order, past, step.task)}" for past in step.earlier]


def _check_names(config: DictConfig) -> Iterator[str]:
    """Yield a line for each name in the configuration that is not registered."""
    Metrics(config.evaluation.metrics)
    import torch

    optimizer = config.optimizer.type
    if optimizer not in registry.mapping["optimizer_name_mapping"] and not hasattr(torch.optim, optimizer):
        yield f"optimizer.type={optimizer}: no such optimizer"
    if config.training.trainer not in registry.mapping["trainer_name_mapping"]:
        yield f"training.trainer={config.training.trainer}: no such trainer"
    for name, processor in config.dataset_config.clvqa.processors.items():
        if processor.type not in registry.mapping["processor_name_mapping"]:
            yield f"processor {name}: {processor.type} is not registered"


def sweep_arguments(text: str) -> dict[str, Any]:
    """Return the arguments of a published ``stage_sweep`` call, adding the quotes that bash removes."""
    for variable, value in (("ROOT", "/experiments"), ("DEVICE", "0")):
        text = text.replace(f"'${{{variable}}}'", value)
    call = ast.parse(f"stage_sweep({text})", mode="eval").body
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}


def _check_sweep(arguments: dict[str, Any], setting: str, order: str, own_first: bool) -> Iterator[str]:
    try:
        inspect.signature(eval_os.stage_sweep).bind(**arguments)
    except TypeError as error:
        yield f"stage_sweep: {error}"
    expected = {
        "cl_setting": setting,
        "abbr_seq": order,
        "setting_idx": order_index(setting, order),
        "save_dir": "/experiments/exp/clvqa",
    }
    for name, value in expected.items():
        if arguments.get(name) != value:
            yield f"stage_sweep: {name} is {arguments.get(name)!r} instead of {value!r}"
    if arguments.get("test_reg") and not own_first:
        yield "stage_sweep: test_reg is true, but the run does not train the first task"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--configs", type=Path, metavar="FILE", default=CONFIGS, help="the published configurations")
    args = parser.parse_args()
    problems = list(check(args.file, args.configs))
    print("\n".join(problems) or f"{args.file}: every command is understood")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
