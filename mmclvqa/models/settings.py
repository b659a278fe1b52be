"""The sizes of a UniVQA network, read from ``model_config.unicl`` and validated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.text import did_you_mean
from mmclvqa.value_kinds import fit_default


@dataclass(frozen=True)
class TransformerSettings:
    """Sizes of one BERT stack; names and defaults are those of BERT-base's configuration."""

    num_hidden_layers: int
    hidden_size: int = 768
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    vocab_size: int = 30522
    max_position_embeddings: int = 512
    type_vocab_size: int = 2

    @classmethod
    def read(cls, section: Mapping[str, Any], name: str, num_hidden_layers: int) -> TransformerSettings:
        """Read the configuration section ``name``; ``num_hidden_layers`` is the default depth.

        Raises:
            ConfigError: a key is unknown, a value is not a number or exceeds a limit, or ``hidden_size`` is not a
                multiple of the number of heads.
        """
        values = {field.name: field.default for field in fields(cls)} | {"num_hidden_layers": num_hidden_layers}
        for key, value in section.items():
            path = f"model_config.unicl.{name}.{key}"
            if key not in values:
                hint = did_you_mean(key, values) or f"; expected one of: {', '.join(values)}"
                raise ConfigError(f"{path}: unknown key{hint}")
            values[key] = fit_default(path, value, values[key], str(value))
        settings = cls(**values)
        if settings.hidden_size % settings.num_attention_heads:
            raise ConfigError(
                f"model_config.unicl.{name}: hidden_size {settings.hidden_size} is not a multiple of "
                f"num_attention_heads {settings.num_attention_heads}"
            )
        return settings


@dataclass(frozen=True)
class UniVQASettings:
    """All sizes of the network.

    Attributes:
        text_bert, mmt: the two transformer stacks; ``text_bert.vocab_size`` includes ``[OCR]`` when it is added.
        region_dim: width of the region features (Faster R-CNN fc6).
        fc7_dim: width of the output of fc7.
        ocr_dim: width of the concatenated features of an OCR token.
        ocr_max_num: number of OCR slots, which are the outputs after the answers.
        answer_bias: initial bias of the answer scores; None means the default of ``nn.Linear``.
        query_key_size: width of the queries and keys of the pointer network.
        removed: names of the enabled ``remove_ocr_*`` ablations, without that prefix.
    """

    text_bert: TransformerSettings
    mmt: TransformerSettings
    region_dim: int
    fc7_dim: int
    fasttext_dim: int
    phoc_dim: int
    ocr_dim: int
    ocr_max_num: int
    answer_bias: float | None
    query_key_size: int
    obj_dropout_prob: float
    ocr_dropout_prob: float
    removed: frozenset[str]
    use_cls: bool

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> UniVQASettings:
        """Read ``model_config.unicl``; missing keys default to the published values.

        Raises:
            ConfigError: a key is unknown or contradicts another one.
        """
        text = dict(config.get("text_bert") or {})
        if config.get("text_bert_resize_token_ocr", True):
            text["vocab_size"] = text.get("vocab_size", TransformerSettings.vocab_size) + 1
        text_bert = TransformerSettings.read(text, "text_bert", num_hidden_layers=3)
        mmt = TransformerSettings.read(config.get("mmt") or {}, "mmt", num_hidden_layers=4)
        obj, ocr, classifier = (config.get(name) or {} for name in ("obj", "ocr", "classifier"))
        pointer = classifier.get("ocr_ptr_net") or {}
        fc7_dim, ocr_max_num = obj.get("mmt_in_dim", 2048), classifier.get("ocr_max_num", 50)
        fasttext_dim, phoc_dim = ocr.get("fasttext_dim", 300), ocr.get("phoc_dim", 604)
        ocr_dim = fasttext_dim + phoc_dim + fc7_dim + ocr_max_num
        _agree("ocr.mmt_in_dim", ocr.get("mmt_in_dim"), ocr_dim, "the sum of fasttext, phoc, fc7 and ocr_max_num")
        _agree("classifier.ocr_ptr_net.hidden_size", pointer.get("hidden_size"), mmt.hidden_size, "mmt.hidden_size")
        _agree("classifier.type", classifier.get("type"), "linear", "the only one whose rows are answer embeddings")
        return cls(
            text_bert=text_bert,
            mmt=mmt,
            region_dim=obj.get("in_dim", 2048),
            fc7_dim=fc7_dim,
            fasttext_dim=fasttext_dim,
            phoc_dim=phoc_dim,
            ocr_dim=ocr_dim,
            ocr_max_num=ocr_max_num,
            answer_bias=classifier.get("initial_bias"),
            query_key_size=pointer.get("query_key_size") or mmt.hidden_size,
            obj_dropout_prob=obj.get("dropout_prob", 0.1),
            ocr_dropout_prob=ocr.get("dropout_prob", 0.1),
            removed=frozenset(
                part for part in ("fasttext", "phoc", "frcn", "semantics", "bbox") if ocr.get(f"remove_ocr_{part}")
            ),
            use_cls=bool(config.get("use_cls", False)),
        )


def _agree(key: str, value: Any, required: Any, reason: str) -> None:
    if value is not None and value != required:
        raise ConfigError(f"model_config.unicl.{key}: {value} is given, but {required} is needed ({reason})")
