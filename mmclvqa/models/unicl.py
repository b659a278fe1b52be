"""UniVQA as MMF's model ``unicl``: configuration, initial weights, optimizer groups, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmf.common.registry import registry
from mmf.models.base_model import BaseModel
from torch import Tensor, nn

from mmclvqa.clove.errors import ConfigError
from mmclvqa.models.checkpoint_format import check_fits, without_position_ids
from mmclvqa.models.inputs import UniVQAInputs
from mmclvqa.models.network import UniVQANetwork
from mmclvqa.models.pretrained import load_initial_weights


@registry.register_model("unicl")
class UniVQA(UniVQANetwork, BaseModel):
    """The UniVQA network with MMF's model interface.

    Before :meth:`build` runs, the data set registers ``<dataset>_num_final_outputs`` (answers + OCR slots) and
    ``<dataset>_answer_processor`` (whose ``BOS_IDX`` starts decoding).
    """

    LINEAR_INPUTS = ("image_feature_0", "image_feature_1")
    """Fields of a batch that only a linear layer reads. Mixed precision converts them to half precision, so they can be
    sent to a GPU as such."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        BaseModel.__init__(self, config)

    @classmethod
    def config_path(cls) -> str:
        """Return the path of the file with every key of ``model_config.unicl`` and its published value."""
        return str(Path(__file__).parents[1] / "configs" / "models" / "unicl" / "defaults.yaml")

    def build(self) -> None:
        """Create the parts and load their initial weights.

        Raises:
            ConfigError: the configuration contradicts itself, or has another number of OCR slots than the data set.
            DataError: a source of weights does not exist or does not match the model.
        """
        dataset = (registry.get("config", default={}).get("datasets") or "clvqa").split(",")[0]
        slots = self.config.classifier.ocr_max_num
        num_outputs = registry.get(f"{dataset}_num_final_outputs")
        processor = registry.get(f"{dataset}_answer_processor")
        num_answers = num_outputs - slots
        # A processor without a vocabulary only says which index starts decoding.
        vocabulary_size = getattr(processor, "get_true_vocab_size", lambda: num_answers)()
        if num_answers != vocabulary_size:
            raise ConfigError(
                f"model_config.unicl.classifier.ocr_max_num={slots}: must be that of the data set "
                f"(dataset_config.{dataset}.ocr_max_num={num_outputs - vocabulary_size})"
            )
        self.build_network(self.config, num_answers, processor.BOS_IDX)
        load_initial_weights(self, self.config)

    def forward(self, sample_list: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the scores of a SampleList of the data set ``clvqa``; see :meth:`UniVQANetwork.answer`."""
        return self.answer(UniVQAInputs.of(sample_list))

    def get_optimizer_parameters(self, config: Any) -> list[dict[str, Any]]:
        """Return parameter groups with the published learning rates; the first group uses the optimizer's own rate.

        Raises:
            ConfigError: the configuration has no learning rate.
        """
        scaled = (
            (self.text_bert, self.config.lr_scale_text_bert),
            (self.obj_faster_rcnn_fc7, self.config.lr_scale_frcn),
            (self.ocr_faster_rcnn_fc7, self.config.lr_scale_frcn),
            (self.mmt, self.config.lr_scale_mmt),
        )
        base = getattr(config.optimizer.params, "lr", None)
        if base is None:
            raise ConfigError("optimizer.params.lr is missing; UniVQA's learning rates are multiples of it")
        groups = [{"params": list(module.parameters()), "lr": base * scale} for module, scale in scaled]
        scaled_ids = {id(parameter) for group in groups for parameter in group["params"]}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in scaled_ids]
        return [{"params": rest}, *groups]

    def load_state_dict(self, state_dict: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """Load every tensor of a plain state dict; ``position_ids`` buffers are ignored.

        ``strict`` has no effect: a state dict that does not match is never loaded in part.

        Raises:
            DataError: names or shapes differ. To have the file named in the message, call
                :func:`~mmclvqa.models.checkpoint_format.check_fits` first.
        """
        check_fits(self, state_dict, "the checkpoint")
        return nn.Module.load_state_dict(self, without_position_ids(state_dict))
