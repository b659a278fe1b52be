"""The builder of the data set ``clvqa``, registered with MMF."""

from __future__ import annotations

from typing import Any

from mmf.common.registry import registry
from mmf.datasets.base_dataset_builder import BaseDatasetBuilder

import mmclvqa.datasets.metrics  # noqa: F401  (registers textvqa_accuracy and textvqa_accuracy_cls)
from mmclvqa.clove.errors import ConfigError, DataError
from mmclvqa.configuration import CONFIG_DIR
from mmclvqa.datasets.dataset import CloveDataset
from mmclvqa.datasets.records import read_split
from mmclvqa.methods.replay import Replays
from mmclvqa.methods.selection import select_methods


@registry.register_builder("clvqa")
class CloveBuilder(BaseDatasetBuilder):
    """Builds the CLOVE splits of the configuration."""

    def __init__(self) -> None:
        super().__init__("clvqa")

    @classmethod
    def config_path(cls) -> str:
        return str(CONFIG_DIR / "datasets" / "clvqa" / "defaults.yaml")

    def build(self, config: Any, dataset_type: str, *args: Any, **kwargs: Any) -> None:
        """Do nothing; ``python -m mmclvqa.clove download`` downloads the data."""

    def load(self, config: Any, dataset_type: str, *args: Any, **kwargs: Any) -> CloveDataset:
        """Read a split; the train split also gets the replays of the selected methods.

        Raises:
            DataError: the configuration has no annotation file for the split, or a file cannot be read.
            CloveError: the replays of a method cannot be read, or are not :class:`Replays`.
        """
        paths = config.annotations[dataset_type]
        if not paths:
            raise DataError(
                f"dataset_config.clvqa.annotations.{dataset_type} is empty: set training.CL.cl_setting and "
                "training.CL.cur_task, which name its files, or use a file of EXP_CONFIG, which sets them"
            )
        paths = [paths] if isinstance(paths, str) else list(paths)
        records = read_split(config.data_dir, paths)
        if dataset_type == "train":
            records += self._replays(config.data_dir, len(records))
        self.dataset = CloveDataset(config, dataset_type, records, self.dataset_name)
        return self.dataset

    def _replays(self, root: str, real: int) -> list[dict[str, Any]]:
        """Return the replays of the run's methods; without a trainer, of those that the configuration selects."""
        config = registry.get("config")
        methods = registry.get("continual_methods", no_warning=True)
        if not methods or methods[0].config is not config:
            methods = select_methods(config)
        records = []
        for method in methods:
            replays: Replays | None = method.replays(root)
            if replays is not None:
                if not isinstance(replays, Replays):
                    kind = type(replays).__name__
                    raise ConfigError(f"method {method.name}: replays() returned a {kind}; it must return Replays")
                registry.get("writer").write(f"replay: {replays.describe(real, config.training.CL.cur_task)}")
                records += replays.records
        return records

    def update_registry_for_model(self, config: Any) -> None:
        """Register the number of outputs and the answer processor, which the model reads."""
        processor = self.dataset.answer_processor
        registry.register(f"{self.dataset_name}_num_final_outputs", processor.get_vocab_size())
        registry.register(f"{self.dataset_name}_answer_processor", processor)
