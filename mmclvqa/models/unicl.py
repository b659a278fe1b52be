"""UniVQA as MMF's model ``unicl``: configuration, initial weights, optimizer groups, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmf.common.registry import registry
from mmf.models.base_model import BaseModel
from torch import Tensor, nn

from mmclvqa.models.checkpoint_format import check_fits, without_position_ids
from mmclvqa.models.inputs import UniVQAInputs
from mmclvqa.models.network import UniVQANetwork
from mmclvqa.models.pretrained import load_initial_weights

CONFIG_PATH = Path(__file__).parents[1] / "configs" / "models" / "unicl" / "defaults.yaml"
DEFAULT_DATASET = "clvqa"


@registry.register_model("unicl")
class UniVQA(UniVQANetwork, BaseModel):
    """The network under MMF's model interface.

    The dataset has registered ``<dataset>_num_final_outputs`` (answers + OCR slots) and
    ``<dataset>_answer_processor`` (its ``BOS_IDX`` starts decoding) before :meth:`build` runs.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        BaseModel.__init__(self, config)

    @classmethod
    def config_path(cls) -> str:
        """The file with every key of ``model_config.unicl`` and its published value."""
        return str(CONFIG_PATH)

    def build(self) -> None:
        """Make the parts and read their initial weights.

        Raises:
            ModelConfigError: the configuration contradicts itself.
            DataError: a named weights source is absent or does not fit.
        """
        dataset = _first_dataset()
        slots = self.config.classifier.ocr_max_num
        num_answers = registry.get(f"{dataset}_num_final_outputs") - slots
        self.build_network(self.config, num_answers, registry.get(f"{dataset}_answer_processor").BOS_IDX)
        load_initial_weights(self, self.config)

    def forward(self, sample_list: Mapping[str, Any]) -> dict[str, Tensor]:
        """Scores of a SampleList with SPEC §3's fields, see :meth:`UniVQANetwork.answer`."""
        return self.answer(UniVQAInputs.of(sample_list))

    def get_optimizer_parameters(self, config: Any) -> list[dict[str, Any]]:
        """Parameter groups with the learning rates of SPEC §4; the first one has the optimizer's own."""
        scaled = (
            (self.text_bert, self.config.lr_scale_text_bert),
            (self.obj_faster_rcnn_fc7, self.config.lr_scale_frcn),
            (self.ocr_faster_rcnn_fc7, self.config.lr_scale_frcn),
            (self.mmt, self.config.lr_scale_mmt),
        )
        base = config.optimizer.params.lr
        groups = [{"params": list(module.parameters()), "lr": base * scale} for module, scale in scaled]
        taken = {id(parameter) for group in groups for parameter in group["params"]}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in taken]
        return [{"params": rest}, *groups]

    def load_state_dict(self, state_dict: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """Load every tensor of a plain state dict; a ``position_ids`` buffer in it is ignored.

        ``strict`` makes no difference: a file that does not fit is never loaded in part.

        Raises:
            DataError: names or shapes differ. To name the file in the message, call
                :func:`~mmclvqa.models.checkpoint_format.check_fits` first.
        """
        check_fits(self, state_dict, "the checkpoint")
        return nn.Module.load_state_dict(self, without_position_ids(state_dict))


def _first_dataset() -> str:
    datasets = registry.get("config", default={}).get("datasets") or DEFAULT_DATASET
    return datasets.split(",")[0]
