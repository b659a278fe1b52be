"""Symbolic replay: a language model generates scene graphs, questions and answers of earlier tasks.

The language model is SRM (``SRM/train.py``). It is trained along the task order and writes, before each task, one file
of replays for every earlier task. This method selects replays from these files; no images, questions or answers are
stored. Source: "Symbolic Replay: Scene Graph as Prompt for Continual Learning on VQA Task", AAAI 2023.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmclvqa.clove.errors import ConfigError, DataError
from mmclvqa.clove.experiment_paths import language_model_name, replay_file, srm_experiment, srm_folder, srm_root
from mmclvqa.clove.records import load_records
from mmclvqa.clove.settings import order_text
from mmclvqa.clove.tasks import Task, parse_order, setting_argument
from mmclvqa.methods.base import (
    ABOVE_0,
    AT_LEAST_0,
    COMBINED_BY,
    COUNT,
    POSITIVE_SHARE,
    SHARE,
    Step,
    StepContext,
    changed_settings,
    folder_suffix,
    register_method,
    setting,
    stated_settings,
    suffix_pattern,
)
from mmclvqa.methods.replay import (
    OrderPosition,
    Record,
    ReplayMethod,
    Replays,
    choose,
    choose_by_ceiling,
    replayed_task,
    required_key,
)

_REPLAY_NAME = re.compile(r"(?P<order>.+)_REPLAY\[(?P<past>[^]#]+)\]_AT\[(?P<current>[^]#]+)\]")
MODEL_NAME = (language_model_name, "the name, hub id or folder of a language model")
_UNPUBLISHED = ("n_train_epochs", "mask_img_prob")
"""Settings that the published folder names do not state; those that are not the default are appended."""
_EXPERIMENT = re.compile(
    r"(?P<model>.+)_replay_qag_seq_(?P<gt>not_use_gt|use_gt)_(?P<token>task_token|wo_token)"
    r"(?:_tr(?P<share>[0-9.e-]+))?_(?P<rate>[0-9.e-]+)" + suffix_pattern(_UNPUBLISHED)
)


@register_method
class SymbolicReplay(ReplayMethod):
    """Replays records that SRM generates."""

    name = "srm"
    label = "SRM"
    replay_method = "restore_with_prob"
    selected_by = {
        "training.CL.use_replay": True,
        "training.CL.replay_method": ("restore_with_prob", "restore_with_number"),
    }

    @dataclass(frozen=True)
    class Settings:
        """Hyperparameters of symbolic replay; those marked "generated commands" configure the SRM run."""

        restore_rate: float = setting(
            1.5, "replays per record of the current task", published="restore_rate", legal=ABOVE_0
        )
        language_model: str = setting("distilgpt2", "with generated commands: SRM's language model", legal=MODEL_NAME)
        use_gt: bool = setting(False, "with generated commands: prompt SRM with scene-graph items of real records")
        task_token: bool = setting(True, "with generated commands: SRM has a token for each task")
        train_perc: float = setting(
            1.0, "with generated commands: fraction of the records that SRM is trained on", legal=POSITIVE_SHARE
        )
        n_train_epochs: int = setting(15, "with generated commands: SRM's epochs per task", legal=COUNT)
        lora_rank: int = setting(
            0, "with generated commands: rank of the adapters that SRM trains; 0: all weights", legal=AT_LEAST_0
        )
        mask_img_prob: float = setting(
            0.15, "with generated commands: probability to mask a record's object features", legal=SHARE
        )

    def replays(self, root: str) -> Replays:
        """Return the selected replays of every earlier task.

        Raises:
            ConfigError: a key of ``training.CL`` is missing, or ``restore_paths`` does not match the task order.
            DataError: a file does not exist, is empty, or belongs to another order or task.
        """
        position = self.position
        files = self.source_files(root)
        if self.config.training.CL.replay_method == "restore_with_number":
            return self._by_number(position, files)
        rate = self.settings.restore_rate
        return choose_by_ceiling(root, position, rate, lambda past: _read_replays(files[past], position.order[past]))

    def _by_number(self, position: OrderPosition, files: list[Path]) -> Replays:
        limit = required_key(self.config.training.CL, "max_restore_per_stage", "replay_method=restore_with_number")
        if limit < 0:
            raise ConfigError(f"training.CL.max_restore_per_stage={limit}: it must be a whole number of records")
        replays = Replays()
        for path, past in zip(files, position.earlier, strict=True):
            records = _read_replays(path, past)
            if limit < len(records):
                records = [records[index] for index in choose(len(records), limit)]
            replays.records.extend(records)
            replays.counts[past.name] = len(records)
        return replays

    def source_files(self, root: str) -> list[Path]:
        """Return the files of ``restore_paths``, one for each earlier task.

        Raises:
            ConfigError: their number does not match the task order, or ``restore_dir`` is missing.
            DataError: the name of a file belongs to another order or task.
        """
        position, settings = self.position, self.config.training.CL
        names = [name.strip() for name in (settings.restore_paths or "").split(",") if name.strip()]
        if len(names) != len(position.earlier):
            earlier = " ".join(past.letter for past in position.earlier) or "none"
            raise ConfigError(
                f"training.CL.restore_paths lists {len(names)} files, but before {position.current.name} the order "
                f"{settings.task_order} has {len(position.earlier)} tasks ({earlier}): one file each, in this order"
            )
        if not names:
            return []
        folder = Path(required_key(settings, "restore_dir", f"replay_method={settings.replay_method}"))
        for name, past in zip(names, position.earlier, strict=True):
            _check_name(folder / name, order_text(position.order), past, position.current)
        return [folder / name for name in names]

    @classmethod
    def overrides(cls, settings: Any, step: StepContext) -> list[str]:
        """Return the published overrides."""
        files = ",".join(replay_file(step.order, past, step.task) for past in step.tasks[: step.index])
        return [
            *cls.replay_overrides(step),
            f"training.CL.restore_rate={settings.restore_rate}",
            f"training.CL.restore_dir={_srm_folder(settings, step.setting, step.order, step.root)}",
            f"training.CL.restore_paths={files}",
            "dataset_config.clvqa.use_mask_img=True",
            f"dataset_config.clvqa.mask_img_prob={settings.mask_img_prob}",
        ]

    @classmethod
    def preparation(cls, settings: Any, setting_name: str, order: str, root: str) -> Step:
        """Return the SRM run along the task order, which is finished when its last replay file exists."""
        arguments = [
            f"--cl_setting {setting_argument(setting_name)}",
            f"--task_seq {order}",
            f"--model_name {_model_argument(settings.language_model)}",
            f"--model_dir_root {root}/{_srm_root(settings, setting_name, 1)}",
            *(["--add_task_tokens"] if settings.task_token else []),
            *(["--use_gt"] if settings.use_gt else []),
            *([f"--train_perc {settings.train_perc}"] if settings.train_perc != 1 else []),
            *([f"--lora_rank {settings.lora_rank}"] if settings.lora_rank else []),
            f"--n_train_epochs {settings.n_train_epochs}",
        ]
        *_, past, current = parse_order(setting_name, order)
        output = f"{_srm_folder(settings, setting_name, order, root)}/{replay_file(order, past, current)}"
        program, title = ("python", "SRM/train.py"), "train SRM and write its replays"
        return Step("srm", title, program, tuple(arguments), output, arguments_variable="SRM_ARGS")

    @classmethod
    def experiment(cls, settings: Any) -> str:
        """Return the published folder name, to which other epochs and another ``mask_img_prob`` are appended."""
        model = language_model_name(settings.language_model, settings.lora_rank)
        published = srm_experiment(
            model, settings.restore_rate, settings.use_gt, settings.task_token, settings.train_perc
        )
        return published + _unpublished(settings, *_UNPUBLISHED)

    @classmethod
    def script_name(cls, settings: Any) -> str:
        """Return the method's part of the published script names, with what is appended to the folder name."""
        model = language_model_name(settings.language_model, settings.lora_rank)
        prompts, tokens = "wgt" if settings.use_gt else "wogt", "wtt" if settings.task_token else "wott"
        trained = "" if settings.train_perc == 1 else f"_tr{settings.train_perc}"
        return f"{model}_{prompts}_{tokens}{trained}_{settings.restore_rate}{_unpublished(settings, *_UNPUBLISHED)}"

    @classmethod
    def short_label(cls, experiment: str) -> str:
        """Return the label of the method with the rate."""
        return f"{cls.label} {_EXPERIMENT.fullmatch(experiment)['rate']}"

    @classmethod
    def parse_experiment(cls, experiment: str) -> str | None:
        """Return the label of a published folder name."""
        match = _EXPERIMENT.fullmatch(experiment)
        if match is None:
            return None
        details = [match["model"], f"{match['rate']} replays per real record"]
        details += ["prompted with real items"] if match["gt"] == "use_gt" else []
        details += ["no task tokens"] if match["token"] == "wo_token" else []
        details += [f"trained on {match['share']} of the records"] if match["share"] else []
        details += stated_settings(match, _UNPUBLISHED)
        return f"{cls.label} ({', '.join(details)})"


def replays_folder(experiment: str, setting_name: str, order: str, root: str) -> str | None:
    """Return the folder of SRM's replay files for an experiment's folder name; None if SRM is no part of it."""
    match = next(filter(None, map(_EXPERIMENT.fullmatch, experiment.split(COMBINED_BY))), None)
    if match is None:
        return None
    settings = SymbolicReplay.Settings(
        language_model=match["model"],
        use_gt=match["gt"] == "use_gt",
        task_token=match["token"] == "task_token",
        train_perc=match["share"] or 1,
        n_train_epochs=int(match["n_train_epochs"] or SymbolicReplay.Settings.n_train_epochs),
    )
    return _srm_folder(settings, setting_name, order, root)


def _srm_root(settings: Any, setting_name: str, train_perc: float) -> str:
    epochs = _unpublished(settings, "n_train_epochs")
    return srm_root(setting_name, settings.use_gt, settings.task_token, train_perc, epochs)


def _srm_folder(settings: Any, setting_name: str, order: str, root: str) -> str:
    model = language_model_name(settings.language_model, settings.lora_rank)
    folder = srm_folder(model, setting_name, order)
    return f"{root}/{_srm_root(settings, setting_name, settings.train_perc)}/{folder}"


def _unpublished(settings: Any, *keys: str) -> str:
    changed = changed_settings(settings)
    return folder_suffix({key: changed[key] for key in keys if key in changed})


def _check_name(path: Path, order: str, past: Task, current: Task) -> None:
    """Check that order and tasks in a file name of SRM's form are the given ones; other file names are accepted."""
    match = _REPLAY_NAME.fullmatch(path.stem)
    if match is None:
        return
    expected = {"order": order, "past": past.letter, "current": current.letter}
    meaning = {"order": "task order", "past": "replayed task", "current": "task about to be learned"}
    for name, value in expected.items():
        if match[name] != value:
            wanted = replay_file(order, past, current)
            raise DataError(f"{path}: its {meaning[name]} is {match[name]} instead of {value}; use {wanted}")


def _read_replays(path: Path, past: Task) -> list[Record]:
    records = load_records(path)
    if not records:
        raise DataError(
            f"{path}: contains no records: SRM accepted no prompt ({path.with_suffix('.json').name} says why); "
            "train it longer, with --overwrite or in another folder"
        )
    for index, record in enumerate(records):
        replayed_task(record, f"{path}: record {index}", past.setting, [past])
    return records


def _model_argument(language_model: str) -> str:
    """Return ``--model_name``: a folder as an absolute path, because the commands run in the project's folder."""
    is_folder = "/" in language_model and Path(language_model).is_dir()
    return shlex.quote(str(Path(language_model).absolute())) if is_folder else language_model
