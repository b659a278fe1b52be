"""Evaluates UniVQA on CLOVE: the accuracy matrix of a task order, the multitask model, the chance level.

    python eval_os.py sweep --cl_setting functional --task_order oarlks --exp ft --save_dir $ROOT/exp/clvqa
    python eval_os.py multitask --cl_setting functional --save_dir $ROOT/exp/clvqa
    python eval_os.py chance --cl_setting functional

The functions are for use from Python, as in the published scripts; :mod:`mmclvqa.evaluation` does the work.

    python -c 'from eval_os import *; stage_sweep(cl_setting="functional", setting_idx=1, abbr_seq="oarlks", device=0,
    model_name="unicl", save_dir="/path/to/exp/clvqa", val_exp="ft", test_stand_alone=False, test_reg=False)'
"""

from __future__ import annotations

import sys

from mmclvqa.evaluation.cli import chance_level, check_model, main, save_folder, show


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
    """Evaluate every checkpoint of a run on every task; results are kept in ``val_<val_exp>`` and not repeated.

    Args:
        cl_setting: ``functional`` or ``scene``.
        setting_idx: index of the task order; None for whatever it is.
        abbr_seq: the task order, six letters.
        device: the number of a GPU, ``cuda:<n>``, ``cuda``, ``cpu`` or ``auto`` (as None); where there is no GPU, all
            of them are the CPU.
        model_name: ``unicl``.
        save_dir: ``$ROOT/exp/clvqa``, below which ``save`` has the models; a path that ends in ``save`` is that folder.
        val_exp: the method, as its folder is called.
        test_stand_alone: take all checkpoints from the stand-alone models, unless ``test_reg``.
        test_reg: take the first task's checkpoint from the run, too, instead of from the stand-alone models.
        report_metric: print table and summary numbers, and then the three closing lines of the published tool.
        print_acc: print each pair's accuracy before that.

    Returns:
        Accuracy (fraction of 1) by key: ``o2a``, ``a#2b#``.

    Raises:
        CloveError: ``setting_idx`` is not the order's, the run is not finished, or something cannot be used.
    """
    from mmclvqa.evaluation.setup import Setup
    from mmclvqa.evaluation.sweep import check_index, sweep

    check_model(model_name)
    check_index(cl_setting, setting_idx, abbr_seq)
    setup = Setup.of(device)
    save = save_folder(save_dir)
    result = sweep(cl_setting, abbr_seq, val_exp, save, setup, stand_alone=test_stand_alone, regularised=test_reg)
    if print_acc:
        for key, accuracy in result.accuracies.items():
            print(f"{key}: {accuracy:.4f}")
    if report_metric:
        show(result)
    return result.accuracies


def test_multi_task(device: str | int | None, cl_setting: str, model_name: str, save_dir: str) -> dict[str, float]:
    """Evaluate the model of all tasks at once on each task and print the table; arguments as :func:`stage_sweep`'s.

    Returns:
        Accuracy (fraction of 1) by task name.

    Raises:
        CloveError: the model is not trained, or something cannot be used.
    """
    from mmclvqa.evaluation.setup import Setup
    from mmclvqa.evaluation.sweep import multitask

    check_model(model_name)
    result = multitask(cl_setting, save_folder(save_dir), Setup.of(device))
    show(result)
    return result.as_json()["accuracies"]


def test_chance(cl_setting: str) -> dict[str, float]:
    """Print what always giving a task's most frequent train answer gets on its val split (data: ``$CLOVE_ROOT``).

    All ten ``answers`` of a train record count.

    Returns:
        Accuracy (fraction of 1) by task name.

    Raises:
        CloveError: no such setting, or the data cannot be used.
    """
    result = chance_level(cl_setting)
    show(result)
    return {task.name: task.accuracy for task in result.by_task}


if __name__ == "__main__":
    sys.exit(main())
