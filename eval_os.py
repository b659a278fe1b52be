"""Evaluates answer models on CLOVE: the accuracy matrix of a task order, the multitask model, the chance level.

    python eval_os.py sweep --cl_setting functional --task_order oarlks --exp ft --save_dir $ROOT/exp/clvqa
    python eval_os.py multitask --cl_setting functional --save_dir $ROOT/exp/clvqa
    python eval_os.py chance --cl_setting functional

The functions have the interface that the published scripts call from Python; see ``docs/evaluation.md``.

    python -c 'from eval_os import *; stage_sweep(cl_setting="functional", setting_idx=1, abbr_seq="oarlks", device=0,
    model_name="unicl", save_dir="/path/to/exp/clvqa", val_exp="ft", test_stand_alone=False, test_reg=False)'
"""

from __future__ import annotations

import os
import shlex
import sys
from types import TracebackType

from mmclvqa.clove.errors import CloveError
from mmclvqa.clove.text import error_line
from mmclvqa.evaluation.cli import evaluate_chance, main, print_result, save_folder


def stage_sweep(
    cl_setting: str,
    setting_idx: int | None,
    abbr_seq: str,
    device: str | int | None,
    model_name: str,
    save_dir: str,
    val_exp: str,
    test_stand_alone: bool = False,
    test_reg: bool = False,
    report_metric: bool = True,
    print_acc: bool = False,
) -> dict[str, float]:
    """Evaluate every checkpoint of a run on every task; results are kept in ``val_<val_exp>`` and reused.

    Args:
        cl_setting: the setting: its name, or the path of its YAML file.
        setting_idx: index of the task order, which must match; None skips the check.
        device: the number of a GPU, ``cuda:<n>``, ``cuda``, ``cpu`` or ``auto`` (as None); without a GPU the CPU is
            used.
        model_name: registered name of the answer model, ``unicl`` for UniVQA; a custom model is registered by the
            file that ``env.user_dir`` in ``$MMF_ARGS`` (or ``$MMF_USER_DIR``) names.
        save_dir: ``$ROOT/exp/clvqa``, whose folder ``save`` has the models, or the path of that folder.
        val_exp: name of the experiment's folder, which encodes the method.
        test_stand_alone: evaluate the single-task model of every task, unless ``test_reg``.
        test_reg: also use the run's own checkpoint for the first task, instead of the single-task model.
        report_metric: print the accuracy matrix and the metrics, then the three closing lines of the published tool.
        print_acc: print the accuracy of each pair before that.

    Returns:
        Accuracies in [0, 1] by key: ``o2a``, ``a#2b#``.

    Raises:
        CloveError: ``setting_idx`` is the index of another order, the run is not finished, or a file cannot be used.
    """
    from mmclvqa.evaluation.sweep import EvaluationConfig, check_index, evaluate_sweep

    config = EvaluationConfig.from_environment(device, _overrides(), model_name)
    check_index(cl_setting, setting_idx, abbr_seq)
    result = evaluate_sweep(
        cl_setting, abbr_seq, val_exp, save_folder(save_dir), config, stand_alone=test_stand_alone, regularised=test_reg
    )
    if print_acc:
        for key, accuracy in result.accuracies.items():
            print(f"{key}: {accuracy:.4f}")
    if report_metric:
        print_result(result)
    return result.accuracies


def test_multi_task(device: str | int | None, cl_setting: str, model_name: str, save_dir: str) -> dict[str, float]:
    """Evaluate the multitask model on each task and print the table; arguments as for :func:`stage_sweep`.

    Returns:
        Accuracies in [0, 1] by task name.

    Raises:
        CloveError: the model is not trained, or a file cannot be used.
    """
    from mmclvqa.evaluation.sweep import EvaluationConfig, evaluate_multitask

    config = EvaluationConfig.from_environment(device, _overrides(), model_name)
    result = evaluate_multitask(cl_setting, save_folder(save_dir), config)
    print_result(result)
    return result.as_json()["accuracies"]


def test_chance(cl_setting: str) -> dict[str, float]:
    """Print the accuracy of always giving a task's most frequent train answer on its val split (data: ``$CLOVE_ROOT``).

    All ten ``answers`` of a train record count.

    Returns:
        Accuracies in [0, 1] by task name.

    Raises:
        CloveError: no such setting, or the data cannot be used.
    """
    result = evaluate_chance(cl_setting)
    print_result(result)
    return {task.name: task.accuracy for task in result.by_task}


def _overrides() -> tuple[str, ...]:
    """Return the overrides in ``$MMF_ARGS``, which the run scripts pass to every command.

    ``training.device`` is left out: the evaluation has its own device.
    """
    words = shlex.split(os.environ.get("MMF_ARGS", ""))
    return tuple(word for word in words if not word.startswith("training.device="))


def _print_error(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Print an error that a user can fix on one line, others with their traceback."""
    if isinstance(error, CloveError | OSError):
        print(f"error: {error_line(error)}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


if sys.argv[0] == "-c":
    # The published scripts call the functions as commands: python -c 'from eval_os import *; stage_sweep(...)'.
    sys.excepthook = _print_error

if __name__ == "__main__":
    sys.exit(main())
