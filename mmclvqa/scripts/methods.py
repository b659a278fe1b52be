"""The scripts of each method: what is lower and upper bound, SRM's replays, and the methods they are compared with."""

from __future__ import annotations

from dataclasses import dataclass

from mmclvqa.clove import experiments as places
from mmclvqa.clove.tasks import order_index, parse_order
from mmclvqa.scripts import parts

RATES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1.2, 1.5)
"""SRM's replays per real record in the published experiments."""
SAMPLE_RATES = (0.1, 0.02)
"""Real records kept of earlier tasks per record of the current one, where they are drawn at random."""
KMEANS_RATE = 0.02
GEM_RATE = 0.1
GEM_MEMORY_BATCH = 32
"""Records of each memory that one update of GEM reads: all of them, as in the paper, take days."""

MASK_IMAGES = ("dataset_config.clvqa.use_mask_img=True", "dataset_config.clvqa.mask_img_prob=0.15")
USE_GT_SG = "dataset_config.clvqa.use_gt_sg=True"
USE_CLS = "model_config.unicl.use_cls=True"
SMALL_BATCHES = "training.batch_size=24"
"""The published scripts of EWC, MAS and k-means replay train with these; the configuration files say 32."""


@dataclass(frozen=True)
class Method:
    """A method that learns a task order, as words of ``mmf_run``.

    Attributes:
        experiment: its folder, also in the name of its scripts.
        title: what it is, after "UniVQA".
        step: what one step of it trains on, for the comment above it.
        continual: words of ``training``, for every task that it trains itself.
        carried: more words from its second own task on; ``$2`` is the folder of the task before.
        model: words that evaluation needs as well.
        data: words of ``dataset_config``.
        own_first: it trains the first task, too; otherwise that is the stand-alone model.
    """

    experiment: str
    title: str
    step: str
    continual: tuple[str, ...]
    carried: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    own_first: bool = False


def fine_tuning() -> Method:
    """Nothing is done against forgetting."""
    return Method(
        experiment=places.FINE_TUNING,
        title="by fine-tuning alone, the lower bound",
        step="one task's real records alone",
        continual=("training.CL.use_callback=False", "training.CL.use_replay=False"),
    )


def regularised(reg_type: str) -> Method:
    """EWC or MAS: weights that matter to earlier tasks are held where they were."""
    return Method(
        experiment=reg_type,
        title=f"with {reg_type.upper()}",
        step="one task's real records; weights are held by their importance for the tasks before",
        continual=(
            "training.trainer=CL",
            f"training.CL.reg_type={reg_type}",
            "training.CL.reg_lambda=1.0",
            "optimizer.type=weight_reg_adamw",
            SMALL_BATCHES,
        ),
        carried=('training.CL.reg_params_pth="$2/models/reg_params.safetensors"',),
        own_first=True,
    )


def gem(variant: str) -> Method:
    """GEM or A-GEM: gradients that would harm what is remembered are projected."""
    name = {"gem": "GEM", "agem": "A-GEM"}[variant]
    memory = (f"training.CL.gem_memory_batch={GEM_MEMORY_BATCH}",) if variant == "gem" else ()
    return Method(
        experiment=variant,
        title=f"with {name}, {GEM_RATE} remembered records for each real one",
        step="one task's real records; gradients that harm the memories of the tasks before are projected",
        continual=(
            "training.trainer=GEM",
            "training.CL.use_replay=True",
            "training.CL.replay_method=gem",
            f"training.CL.gem_variant={variant}",
            *memory,
            f"training.CL.replay_rate={GEM_RATE}",
        ),
    )


def random_replay(rate: float, mask_images: bool = False, gt_graphs: bool = False) -> Method:
    """Real records of earlier tasks are kept and shown again."""
    kind = "real records" + (" without their images" if mask_images else "")
    kind += " with true scene graphs" if gt_graphs else ""
    masked = ("training.CL.replay_mask_img=True",) if mask_images else ()
    return Method(
        experiment=places.random_experiment(rate, mask_images, gt_graphs),
        title=f"with replay of {kind} drawn at random, {rate} for each new one",
        step=f"one task's real records, and {kind} of every task before it",
        continual=(
            "training.CL.use_replay=True",
            "training.CL.replay_method=random",
            *masked,
            f"training.CL.replay_rate={rate}",
        ),
        data=(USE_GT_SG,) if gt_graphs else (),
    )


def kmeans_replay(rate: float) -> Method:
    """Real records nearest the centres of k-means are kept and shown again."""
    return Method(
        experiment=places.kmeans_experiment(rate),
        title=f"with replay of real records chosen by k-means, {rate} for each new one",
        step="one task's real records, and those that the task before left in its folder",
        continual=(
            "training.CL.use_replay=True",
            "training.CL.replay_method=kmeans",
            f"training.CL.replay_rate={rate}",
            SMALL_BATCHES,
        ),
        carried=('training.CL.replay_dir="$2"',),
        model=(USE_CLS,),
        own_first=True,
    )


def compared(sample_rates: tuple[float, ...] = SAMPLE_RATES) -> list[Method]:
    """Every method with scripts of its own for each order, SRM aside."""
    replays = [
        random_replay(rate, mask_images, gt_graphs)
        for gt_graphs in (False, True)
        for mask_images in (False, True)
        for rate in sample_rates
    ]
    return [
        fine_tuning(),
        regularised("ewc"),
        regularised("mas"),
        gem("gem"),
        gem("agem"),
        *replays,
        kmeans_replay(KMEANS_RATE),
    ]


def method_script(method: Method, setting: str, order: str) -> str:
    """UniVQA along an order with one of :func:`compared`."""
    learned = parse_order(setting, order)
    alone = {} if method.own_first else {"STAND_ALONE": places.stand_alone_folder(setting, "$SAVE")}
    variables = alone | {
        "EXP": method.experiment,
        "RUN": places.run_folder(setting, order, "$EXP", "$SAVE"),
    }
    continual = ("training.CL.use_cl=True", *method.continual, f"training.CL.task_order={order}", *method.model)
    first = (
        parts.train_first(learned[0], continual, method.data)
        if method.own_first
        else parts.train_stand_alone(learned[0])
    )
    carried = (*method.carried, f'checkpoint.resume_file="{places.final_weights("$2")}"')
    comment = f"learn TASK BEFORE: goes on from the model in folder BEFORE, with\n# {method.step}."
    body = [
        first,
        parts.learn_function(comment, setting, continual, method.data, carried),
        parts.learn_calls(learned, first_folder="$RUN" if method.own_first else "$STAND_ALONE"),
        _sweep(setting, order, *(["--test_reg"] if method.own_first else []), *method.model),
    ]
    title = f"UniVQA {method.title}: {_named(setting, order)}."
    return parts.script(title, variables, body, steps=len(learned) + 1)


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
    comment = "learn TASK BEFORE REPLAYS: goes on from the model in folder BEFORE, with\n"
    comment += "# one task's real records, and replays of every task before it."
    carried = [f'checkpoint.resume_file="{places.final_weights("$2")}"']
    body = [
        parts.train_stand_alone(learned[0]),
        parts.write_replays(setting, order),
        parts.learn_function(comment, setting, continual, MASK_IMAGES, carried),
        parts.learn_calls(learned, replays=True),
        _sweep(setting, order),
    ]
    title = f"UniVQA with SRM's replays, {rate} for each real record: {_named(setting, order)}."
    return parts.script(title, variables, body, steps=len(learned) + 2)


def stand_alone(setting: str, order: str) -> str:
    """UniVQA on each task alone, in the order's turn, and what each of the six models knows of all tasks."""
    learned = parse_order(setting, order)
    variables = {"STAND_ALONE": places.stand_alone_folder(setting, "$SAVE"), "EXP": places.STAND_ALONE}
    body = [*map(parts.train_stand_alone, learned), _sweep(setting, order, "--test_stand_alone")]
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


def _sweep(setting: str, order: str, *words: str) -> str:
    return parts.evaluate("sweep", setting, f"--task_order {order}", '--exp "$EXP"', *words)
