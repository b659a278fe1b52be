"""Where experiments lie below ``ROOT``, as relative paths, and what they are called."""

from __future__ import annotations

from mmclvqa.clove.tasks import Task, order_index

SAVE = "exp/clvqa/save"
"""Where UniVQA's models go; functions that take ``save`` give paths below another name of it."""
QAG_SEQ = "exp/clvqa/QAG_seq"
MODEL = "unicl"
FINE_TUNING = "ft"
STAND_ALONE = "stand_alone"


def final_weights(folder: str) -> str:
    """The weights that a finished training leaves in its folder."""
    return f"{folder}/{MODEL}_final.pth"


def task_folder(task: Task) -> str:
    """A task's folder in that of a run or of the stand-alone models."""
    return f"{MODEL}_{task.name}"


def stand_alone_folder(setting: str, save: str = SAVE) -> str:
    """UniVQA trained on each task alone, with a :func:`task_folder` for each."""
    return f"{save}/{STAND_ALONE}/{setting}"


def run_folder(setting: str, order: str, experiment: str, save: str = SAVE) -> str:
    """One method along a task order, with a :func:`task_folder` for each task but the first.

    Raises:
        TaskError: no such setting, or an illegal task order.
    """
    return f"{save}/{setting}/setting_{order_index(setting, order)}_{order}/{experiment}"


def multitask_folder(setting: str, save: str = SAVE) -> str:
    """UniVQA trained on all tasks of a setting at once."""
    return f"{save}/multitask/{MODEL}_{setting}_incremental"


def srm_experiment(language_model: str, rate: float, use_gt: bool = False, task_token: bool = True) -> str:
    """What an experiment with SRM's replays is called.

    Args:
        language_model: such as ``distilgpt2``.
        rate: replays per real record.
        use_gt: SRM was prompted with the related items of real records.
        task_token: SRM has a token for each task.
    """
    return f"{language_model}_replay_qag_seq_{_prompting(use_gt)}_{_tokens(task_token)}_{rate}"


def random_experiment(rate: float, mask_images: bool = False, gt_graphs: bool = False) -> str:
    """What an experiment that replays real records drawn at random is called.

    Args:
        rate: replays per real record.
        mask_images: their images are withheld.
        gt_graphs: they show the true scene graph instead of the predicted one.
    """
    return f"{'gtsg_' if gt_graphs else ''}{'maskimg_' if mask_images else ''}rnd_replay_{rate}"


def kmeans_experiment(rate: float) -> str:
    """What an experiment that replays real records chosen by k-means is called."""
    return f"kmeans_replay_{rate}"


def srm_root(setting: str, use_gt: bool = False, task_token: bool = True) -> str:
    """SRM's ``--model_dir_root``."""
    return f"{QAG_SEQ}/{_prompting(use_gt)}/QAG_{setting}_{_tokens(task_token)}"


def srm_folder(language_model: str, setting: str, order: str) -> str:
    """A run of SRM, with its replay files, below its ``--model_dir_root``."""
    return f"{language_model}_replay/{language_model}_{setting}_{order}"


def replay_file(order: str, past: Task, current: Task) -> str:
    """Replays of task ``past`` made when ``current`` is about to be learned."""
    return f"{order}_REPLAY[{past.letter}]_AT[{current.letter}].npy"


def _prompting(use_gt: bool) -> str:
    return "use_gt" if use_gt else "not_use_gt"


def _tokens(task_token: bool) -> str:
    return "task_token" if task_token else "wo_token"
