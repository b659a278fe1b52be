"""The scripts of each method: fine-tuning, SRM's replays, stand-alone and multitask training."""

from __future__ import annotations

from mmclvqa.clove import experiments as places
from mmclvqa.clove.tasks import order_index, parse_order
from mmclvqa.scripts import parts

RATES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1.2, 1.5)
"""Replays per real record in the published experiments."""

MASK_IMAGES = ("dataset_config.clvqa.use_mask_img=True", "dataset_config.clvqa.mask_img_prob=0.15")


def srm_replay(setting: str, order: str, rate: float) -> str:
    """UniVQA along an order with SRM's replays."""
    learned = parse_order(setting, order)
    continual = [
        "training.CL.use_cl=True",
        "training.CL.use_callback=False",
        "training.CL.use_replay=True",
        "training.CL.replay_method=restore_with_prob",
        f"training.CL.task_order={order}",
        f"training.CL.restore_rate={rate}",
        'training.CL.restore_dir="$REPLAYS"',
        'training.CL.restore_paths="$3"',
    ]
    variables = {
        "STAND_ALONE": places.stand_alone_folder(setting, "$SAVE"),
        "EXP": places.srm_experiment(parts.LANGUAGE_MODEL, rate),
        "RUN": places.run_folder(setting, order, "$EXP", "$SAVE"),
        "QAG": f"$ROOT/{places.srm_root(setting)}",
        "REPLAYS": f"$QAG/{places.srm_folder(parts.LANGUAGE_MODEL, setting, order)}",
    }
    body = [
        parts.train_stand_alone(learned[0]),
        parts.write_replays(setting, order),
        parts.learn_function(
            "learn TASK START_FROM REPLAYS: one task's real records, and replays of every task before it.",
            setting,
            continual,
            MASK_IMAGES,
        ),
        parts.learn_calls(learned, replays=True),
        _sweep(setting, order),
    ]
    title = f"UniVQA with SRM's replays, {rate} for each real record: {_named(setting, order)}."
    return parts.script(title, variables, body, steps=len(learned) + 2)


def fine_tuning(setting: str, order: str) -> str:
    """UniVQA along an order with nothing done against forgetting."""
    learned = parse_order(setting, order)
    continual = [
        "training.CL.use_cl=True",
        "training.CL.use_callback=False",
        "training.CL.use_replay=False",
        f"training.CL.task_order={order}",
    ]
    variables = {
        "STAND_ALONE": places.stand_alone_folder(setting, "$SAVE"),
        "EXP": places.FINE_TUNING,
        "RUN": places.run_folder(setting, order, "$EXP", "$SAVE"),
    }
    body = [
        parts.train_stand_alone(learned[0]),
        parts.learn_function("learn TASK START_FROM: one task's real records alone.", setting, continual),
        parts.learn_calls(learned),
        _sweep(setting, order),
    ]
    title = f"UniVQA by fine-tuning alone, the lower bound: {_named(setting, order)}."
    return parts.script(title, variables, body, steps=len(learned) + 1)


def stand_alone(setting: str, order: str) -> str:
    """UniVQA on each task alone, in the order's turn, and what each of the six models knows of all tasks."""
    learned = parse_order(setting, order)
    variables = {"STAND_ALONE": places.stand_alone_folder(setting, "$SAVE")}
    body = [
        *map(parts.train_stand_alone, learned),
        parts.evaluate("sweep", setting, f"--task_order {order}", f"--exp {places.STAND_ALONE}", "--test_stand_alone"),
    ]
    title = f"UniVQA on each task alone: {_named(setting, order)}."
    return parts.script(title, variables, body, steps=len(learned) + 1)


def multitask(setting: str) -> str:
    """UniVQA on all tasks at once."""
    variables = {"RUN": places.multitask_folder(setting, "$SAVE")}
    body = [parts.train_multitask(setting), parts.evaluate("multitask", setting)]
    title = f"UniVQA on all tasks of the {setting} setting at once, the upper bound."
    return parts.script(title, variables, body, steps=2)


def _named(setting: str, order: str) -> str:
    return f"{setting} setting, task order {order} ({order_index(setting, order)})"


def _sweep(setting: str, order: str) -> str:
    return parts.evaluate("sweep", setting, f"--task_order {order}", '--exp "$EXP"')
