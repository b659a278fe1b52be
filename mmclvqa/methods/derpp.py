"""Dark experience replay with labels (DER++).

    loss + α · ‖z − h(x′)‖² + β · CE(y″, h(x″))        (x′, x″: batches from the buffer; z: stored scores of x′)

Buzzega et al., "Dark Experience for General Continual Learning: a Strong, Simple Baseline", NeurIPS 2020, equation 6.
Task boundaries are known, so the buffer is filled at the end of each task: real records chosen as in random replay,
each with scores (float16) of the final model of its task. ‖·‖² is averaged over answers and the steps of an answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from mmclvqa.clove.data_root import split_size
from mmclvqa.clove.errors import ConfigError, DataError
from mmclvqa.clove.files import atomic_write
from mmclvqa.clove.text import one_line
from mmclvqa.lazy import LazyModule, torch
from mmclvqa.methods import replay
from mmclvqa.methods.base import ABOVE_0, AT_LEAST_0, Method, Stored, register_method, setting
from mmclvqa.methods.episodic_memory import EpisodicMemory, record_key
from mmclvqa.methods.importances import without_dropout

if TYPE_CHECKING:
    from torch import Tensor

    from mmclvqa.training.trainer import Trainer

safetensors_torch = LazyModule("safetensors.torch")

FILE = "models/dark_scores.safetensors"
"""File in the save folder: stage and question_id -> scores (steps of the answer × answers and OCR slots, float16)."""
MASKED_SCORE = -9000.0  # scores below it belong to OCR slots without a token


@register_method
class DERPlusPlus(Method):
    """Replays real records with their labels and with the scores of an earlier model."""

    name = "derpp"
    label = "DER++"
    trains_first_task = True

    @dataclass(frozen=True)
    class Settings:
        """Hyperparameters of DER++."""

        replay_rate: float = setting(0.1, "buffered records per record of the current task", legal=ABOVE_0)
        alpha: float = setting(0.5, "α, weight of the stored scores", legal=AT_LEAST_0)
        beta: float = setting(0.5, "β, weight of the labels", legal=AT_LEAST_0)

    def on_task_start(self, trainer: Trainer) -> None:
        """Read the buffer of the previous task."""
        self._position = replay.order_position(self.config.training.CL, "method derpp")
        self._root = self.config.dataset_config.clvqa.data_dir
        self._kept = replay.choose_real_records(self._root, self._position, self.settings.replay_rate).by_task()
        self._records, self._scores, self._memory = sum(self._kept.values(), []), {}, None
        if self._kept:
            if not self.config.training.CL.previous_dir:
                raise ConfigError("training.CL.previous_dir is missing: set it to the save folder of the previous task")
            self._scores = _read_scores(Path(self.config.training.CL.previous_dir, FILE), self._records)
            self._memory = EpisodicMemory(trainer, self._kept)

    def loss(self, trainer: Trainer, report: Any, loss: Tensor) -> Tensor:
        """Return the loss plus the two terms on the buffer."""
        if self._memory is None:
            return loss
        draw = (trainer.training.batch_size, range(len(self._kept)))
        keys, _ = self._memory.draw(*draw, "stored scores")
        scores = trainer.report(self._memory.batch(keys))["scores"].float()
        distances = []
        for row, (number, index) in enumerate(keys):
            stored = self._scores[record_key(self._memory.record(number, index))].to(scores)
            distances.append((scores[row, : len(stored)] - stored)[stored > MASKED_SCORE].square().mean())
        labelled = trainer.report(self._memory.batch(self._memory.draw(*draw, "labels")[0]))
        loss = loss + self.settings.alpha * torch.stack(distances).mean()
        return loss + self.settings.beta * trainer.task_loss(labelled)

    def on_task_end(self, trainer: Trainer) -> None:
        """Add scores of records of this task to the buffer and write it."""
        order, number, current = self._position.order, len(self._position.earlier), self._position.current
        if number + 1 == len(order):
            return
        records = replay.real_records(self._root, current)
        rate, sizes = self.settings.replay_rate, [split_size(self._root, one, "train") for one in order]
        chosen = [records[i] for i in replay.ceiling_choice(len(records), rate, sizes, number, number + 1)]
        memory, size = EpisodicMemory(trainer, {current.name: chosen}), trainer.training.batch_size
        with torch.no_grad(), without_dropout(trainer.network):
            for start in range(0, len(chosen), size):
                batch = memory.batch([(0, index) for index in range(len(chosen))[start : start + size]])
                scores = trainer.report(batch)["scores"].half().cpu()
                for row, steps in enumerate(batch.train_loss_mask.sum(1).int().tolist()):
                    self._scores[record_key(memory.record(0, start + row))] = scores[row, :steps].contiguous()
        self._scores = {key: self._scores[key] for key in map(record_key, self._records + chosen)}
        if trainer.is_main:
            with atomic_write(trainer.files.folder / FILE, "wb") as file:
                file.write(safetensors_torch.save(self._scores))

    def stored(self) -> Stored:
        """Return number and size of the buffered records, including their scores."""
        stored = replay.stored_records(self._records, self.config.dataset_config.clvqa, "earlier records and scores")
        return replace(stored, bytes=stored.bytes + sum(2 * self._scores[record_key(r)].numel() for r in self._records))


def _read_scores(path: Path, records: list[replay.Record]) -> dict[str, Tensor]:
    try:
        scores = safetensors_torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read as the buffer of DER++ ({one_line(error)})") from None
    if missing := set(map(record_key, records)) - scores.keys():
        raise DataError(f"{path}: has no scores of {len(missing)} records; derpp.replay_rate must not increase")
    return scores
