"""Paths of experiments relative to ``ROOT``, and the published folder names of the methods."""

from __future__ import annotations

from pathlib import PurePosixPath

from mmclvqa.clove.settings import ALL_TASKS, Task, order_text
from mmclvqa.clove.tasks import find_setting, parse_order, setting_argument

SAVE = "exp/clvqa/save"
"""Folder of UniVQA's checkpoints; functions with a ``save`` argument return paths below that folder instead."""
QAG_SEQ = "exp/clvqa/QAG_seq"
RESULTS_FILE = "results.json"
"""What a training or an evaluation writes into its folder."""
MODEL = "unicl"
"""Registered name of UniVQA. Files and folders of another answer model carry its name instead."""
FINE_TUNING = "ft"
STAND_ALONE = "stand_alone"


def final_weights(folder: str, model: str = MODEL) -> str:
    """Return the path of the final weights in the folder of a training run."""
    return f"{folder}/{model}_final.pth"


def task_folder(task: Task, model: str = MODEL) -> str:
    """Return the name of a task's folder within a run or within the single-task models."""
    return f"{model}_{task.name}"


def stand_alone_folder(setting: str, save: str = SAVE) -> str:
    """Return the folder of the single-task models, with a :func:`task_folder` for each task."""
    return f"{save}/{STAND_ALONE}/{setting}"


def run_folder(setting: str, order: str, experiment: str, save: str = SAVE) -> str:
    """Return the folder of one method and task order, with a :func:`task_folder` for each task but the first.

    Raises:
        TaskError: unknown setting or invalid task order.
    """
    found = find_setting(setting)
    name = f"setting_{found.order_index(order)}_{order_text(found.parse_order(order))}"
    return f"{save}/{found.name}/{name}/{experiment}"


def evaluation_name(experiment: str, model: str = MODEL) -> str:
    """Return the folder name of an experiment's accuracy matrix; a model other than UniVQA is part of the name."""
    return f"val_{experiment}" if model == MODEL else f"val_{model}_{experiment}"


def evaluation_folder(setting: str, order: str, experiment: str, save: str = SAVE, model: str = MODEL) -> str:
    """Return the folder of an experiment's accuracy matrix, beside the folder of the experiment.

    Raises:
        TaskError: unknown setting or invalid task order.
    """
    return run_folder(setting, order, evaluation_name(experiment, model), save)


def multitask_folder(setting: str, save: str = SAVE, model: str = MODEL) -> str:
    """Return the folder of a model trained jointly on all tasks of a setting."""
    return f"{save}/multitask/{model}_{setting}_incremental"


def multitask_evaluation_folder(setting: str, save: str = SAVE, model: str = MODEL) -> str:
    """Return the folder of the accuracies of a model trained jointly on all tasks of a setting."""
    return f"{save}/multitask/val_{model}_{setting}_incremental"


def task_configuration(setting: str, folder: str, task: Task | None) -> tuple[str, ...]:
    """Return the overrides that select configuration file, setting and task; every answer model uses the same files.

    The tasks of a setting with ``task_configs`` have configuration files of their own; others share ``setting.yaml``.

    Args:
        task: the task, None for joint training on all tasks.
    """
    found = find_setting(setting)
    if found.task_configs:
        name = f"{found.name}/cl_{task.name}_{MODEL}_standalone" if task else f"cl_{found.name}_multitask_{MODEL}"
        return (f"config={folder}/{name}.yaml",)
    selected = (f"cl_setting={setting_argument(setting)}", f"cur_task={task.name if task else ALL_TASKS}")
    return (f"config={folder}/setting.yaml", *(f"training.CL.{override}" for override in selected))


def srm_experiment(
    language_model: str, rate: float, use_gt: bool = False, task_token: bool = True, train_perc: float = 1.0
) -> str:
    """Return the folder name of an experiment with SRM replays.

    Args:
        rate: number of replays per original record.
        use_gt: SRM was prompted with the related items of original records.
        train_perc: fraction of the records that SRM is trained on.
    """
    kind = f"{_prompting(use_gt)}_{_tokens(task_token)}{_trained_share(train_perc)}"
    return f"{language_model_name(language_model)}_replay_qag_seq_{kind}_{rate}"


def srm_root(
    setting: str, use_gt: bool = False, task_token: bool = True, train_perc: float = 1.0, more: str = ""
) -> str:
    """Return the folder of all SRM runs: its ``--model_dir_root``, to which ``--train_perc`` adds a suffix.

    Args:
        setting, use_gt, task_token, train_perc: see :func:`srm_experiment`.
        more: suffix for options that the published name does not state.
    """
    return f"{QAG_SEQ}/{_prompting(use_gt)}/QAG_{setting}_{_tokens(task_token)}{more}{_trained_share(train_perc)}"


def srm_folder(language_model: str, setting: str, order: str) -> str:
    """Return the folder of one SRM run and its replay files, relative to ``--model_dir_root``."""
    name = language_model_name(language_model)
    return f"{name}_replay/{name}_{setting}_{order_text(parse_order(setting, order))}"


def language_model_name(language_model: str, lora_rank: int | None = None) -> str:
    """Return the name of a language model in files and folders: the last part of its name, hub id or folder.

    Args:
        lora_rank: rank of the adapters that are trained, which is appended; None or 0 if the model itself is trained.
    """
    return PurePosixPath(language_model).name + (f"_lora{lora_rank}" if lora_rank else "")


def replay_file(order: str, past: Task, current: Task) -> str:
    """Return the file name of the replays of task ``past`` generated before ``current`` is learned."""
    order = order_text(parse_order(past.setting, order))
    return f"{order}_REPLAY[{past.letter}]_AT[{current.letter}].npy"


def _prompting(use_gt: bool) -> str:
    return "use_gt" if use_gt else "not_use_gt"


def _trained_share(train_perc: float) -> str:
    return "" if train_perc == 1 else f"_tr{train_perc}"


def _tokens(task_token: bool) -> str:
    return "task_token" if task_token else "wo_token"
