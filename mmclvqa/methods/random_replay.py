"""Random replay: random real records of earlier tasks are added to the training records.

While task c is trained, the records of an earlier task i are subsampled to at most ceil(rate * n(j+1) / (j+1)) for each
j = i ... c-1 in turn. Optionally, image features of the replays are masked (``replay_mask_img``), or their ground-truth
scene graph is used (``use_gt_sg``). Source: the published CLVQA code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmclvqa.clove.tasks import MASKED_SUFFIX, REPLAY_SUFFIX
from mmclvqa.methods.base import ABOVE_0, StepContext, Stored, register_method, setting
from mmclvqa.methods.replay import ReplayMethod, Replays, choose_real_records, real_record_files, stored_records

_EXPERIMENT = re.compile(r"(?P<gt>gtsg_)?(?P<mask>maskimg_)?rnd_replay_(?P<rate>[0-9.e-]+)")


@register_method
class RandomReplay(ReplayMethod):
    """Replays real records of earlier tasks."""

    name = "random"
    label = "random replay"
    replay_method = "random"
    selected_by = {"training.CL.use_replay": True, "training.CL.replay_method": "random"}

    @dataclass(frozen=True)
    class Settings:
        """Hyperparameters of random replay."""

        replay_rate: float = setting(
            0.1, "replayed records per record of the current task", published="replay_rate", legal=ABOVE_0
        )
        mask_images: bool = setting(False, "mask the image features of replays", published="replay_mask_img")
        gt_graphs: bool = setting(False, "with generated commands: give replays their ground-truth scene graph")

    _chosen: Replays | None = None

    def replays(self, root: str) -> Replays:
        """Return real train records of every earlier task, with their stage marked as replayed."""
        chosen = choose_real_records(root, self.position, self.settings.replay_rate)
        suffix = REPLAY_SUFFIX + (MASKED_SUFFIX if self.settings.mask_images else "")
        records = [record | {"stage": record["stage"] + suffix} for record in chosen.records]
        self._chosen = replace(chosen, records=records)
        return self._chosen

    def source_files(self, root: str) -> list[Path]:
        """Return the annotation files of the earlier tasks."""
        return real_record_files(root, self.position.earlier)

    def stored(self) -> Stored | None:
        """Return number and size of the replayed records; None if the data set did not ask for them."""
        if self._chosen is None:
            return None
        what = "random records of earlier tasks"
        return stored_records(self._chosen.records, self.config.dataset_config.clvqa, what)

    @classmethod
    def overrides(cls, settings: Any, step: StepContext) -> list[str]:
        """Return the published overrides."""
        overrides = [*cls.replay_overrides(step), f"training.CL.replay_rate={settings.replay_rate}"]
        if settings.mask_images:
            overrides.append("training.CL.replay_mask_img=True")
        if settings.gt_graphs:
            overrides.append("dataset_config.clvqa.use_gt_sg=True")
        return overrides

    @classmethod
    def experiment(cls, settings: Any) -> str:
        """Return the published folder name."""
        graphs, images = "gtsg_" if settings.gt_graphs else "", "maskimg_" if settings.mask_images else ""
        return f"{graphs}{images}rnd_replay_{settings.replay_rate}"

    @classmethod
    def parse_experiment(cls, experiment: str) -> str | None:
        """Return the label of a published folder name."""
        match = _EXPERIMENT.fullmatch(experiment)
        if match is None:
            return None
        details = [match["rate"], *(["images masked"] if match["mask"] else [])]
        details += ["ground-truth scene graphs"] if match["gt"] else []
        return f"{cls.label} ({', '.join(details)})"
