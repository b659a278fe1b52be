"""Registers the data set ``clvqa`` with MMF and builds its splits."""

from __future__ import annotations

from typing import Any

from mmf.common.registry import registry
from mmf.datasets.base_dataset_builder import BaseDatasetBuilder

import mmclvqa.datasets.metrics  # noqa: F401  (registers textvqa_accuracy and textvqa_accuracy_cls)
from mmclvqa.clove.errors import DataError
from mmclvqa.configuration import CONFIG_DIR
from mmclvqa.datasets.dataset import CloveDataset
from mmclvqa.datasets.records import read_split
from mmclvqa.datasets.replay import ReplayError, select_replays


@registry.register_builder("clvqa")
class CloveBuilder(BaseDatasetBuilder):
    """Builds the splits of CLOVE that the configuration names."""

    def __init__(self) -> None:
        super().__init__("clvqa")

    @classmethod
    def config_path(cls) -> str:
        return str(CONFIG_DIR / "datasets" / "clvqa" / "defaults.yaml")

    def build(self, config: Any, dataset_type: str, *args: Any, **kwargs: Any) -> None:
        """Nothing is fetched here; ``python -m mmclvqa.clove download`` does that."""

    def load(self, config: Any, dataset_type: str, *args: Any, **kwargs: Any) -> CloveDataset:
        """Read a split; replays of earlier tasks join the train split as ``training.CL`` says.

        Raises:
            DataError: the configuration names no annotation file for it, or one cannot be read.
            CloveError: see :func:`mmclvqa.datasets.replay.select_replays`.
        """
        paths = config.annotations[dataset_type]
        if not paths:
            raise DataError(
                f"dataset_config.clvqa.annotations.{dataset_type} is empty; use a file of EXP_CONFIG, which names it"
            )
        paths = [paths] if isinstance(paths, str) else list(paths)
        records = read_split(config.data_dir, paths)
        if dataset_type == "train":
            records += self._replays(config.data_dir, len(records))
        self.dataset = CloveDataset(config, dataset_type, records, self.dataset_name)
        return self.dataset

    def _replays(self, root: str, real: int) -> list[dict[str, Any]]:
        training = registry.get("config").training
        settings = training.CL
        if settings.use_replay and settings.replay_method == "gem" and training.trainer != "GEM":
            raise ReplayError(
                f"training.CL.replay_method=gem needs training.trainer=GEM (it is {training.trainer}): "
                "the memories would never be read"
            )
        replays = select_replays(root, settings)
        if settings.use_replay:
            registry.get("writer").write(f"replay: {replays.describe(real, settings.cur_task)}")
        return replays.records

    def update_registry_for_model(self, config: Any) -> None:
        """Tell the model how many outputs there are and which index starts an answer."""
        processor = self.dataset.answer_processor
        registry.register(f"{self.dataset_name}_num_final_outputs", processor.get_vocab_size())
        registry.register(f"{self.dataset_name}_answer_processor", processor)
