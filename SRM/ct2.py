"""Generation with CTranslate2 (``--generator ct2``), an optional C++ library that is faster on CPUs for small models.

CTranslate2 returns all finished sequences of a beam search with their log-probabilities, from which the best one is
chosen by the rule of ``--length_rule``. One difference from :mod:`SRM.search` remains: CTranslate2 forbids repeated
bigrams before it normalizes the probabilities of the next token, so sequences that avoid a likely repetition score
higher. Greedy texts are the same.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.text import one_line
from SRM.search import Report

CHUNK = 1024
"""Number of prompts of a call, which CTranslate2 sorts by length and divides into batches."""


class CT2Search:
    """Beam search and greedy search by CTranslate2, for decoder-only models.

    Args:
        model: a model of transformers in float32, on its device; its weights are copied.
        eos, longest, length_rule: see :class:`SRM.search.Search`.
        dtype: the precision of the computation.

    Raises:
        ConfigError: CTranslate2 does not know the model's architecture, or cannot compute in this precision here.
    """

    def __init__(self, model: Any, eos: int, longest: int, length_rule: str, dtype: torch.dtype) -> None:
        import ctranslate2

        self.eos, self.longest, self.length_rule = eos, longest, length_rule
        kind = f"--generator ct2: models of type {model.config.model_type}"
        if model.config.is_encoder_decoder:
            raise ConfigError(f"{kind} have an encoder; only decoder-only models are supported")
        with tempfile.TemporaryDirectory() as folder:
            try:
                model.config.save_pretrained(folder)
                _converter(model, eos, folder).convert(f"{folder}/converted")
                self.generator = ctranslate2.Generator(
                    f"{folder}/converted",
                    device=model.device.type,
                    device_index=model.device.index or 0,
                    compute_type=str(dtype).removeprefix("torch."),
                    intra_threads=torch.get_num_threads(),
                )
            except OSError:
                raise
            except Exception as error:  # the converters raise errors of any kind
                raise ConfigError(f"{kind} cannot be used ({one_line(error)})") from None

    def run(
        self,
        prompts: Sequence[Sequence[int]],
        beams: int,
        unique_pairs: bool,
        batch_size: int,
        report: Report = lambda count: None,
    ) -> list[list[int]]:
        """Generate a continuation of every prompt, as :meth:`SRM.search.Search.run` does.

        Args:
            prompts, report: see there.
            beams, unique_pairs: see :class:`SRM.search.Search`.
            batch_size: maximum number of prompts that are processed at a time.
        """
        texts = []
        for first in range(0, len(prompts), CHUNK):
            chunk = prompts[first : first + CHUNK]
            results = self.generator.generate_batch(
                [[str(token) for token in prompt] for prompt in chunk],
                beam_size=beams,
                num_hypotheses=beams,
                no_repeat_ngram_size=2 if unique_pairs else 0,
                length_penalty=0,  # scores are sums of log-probabilities
                max_length=self.longest - 1,  # the first token of the prompt is not counted
                max_batch_size=batch_size,
                end_token=[self.eos],
                return_end_token=True,
                return_scores=True,
            )
            texts += [self._best(result, len(prompt)) for result, prompt in zip(results, chunk, strict=True)]
            report(len(chunk))
        return texts

    def _best(self, result: Any, prompt_length: int) -> list[int]:
        """Return the best sequence by the length rule, without its prompt."""

        def score(candidate: tuple[list[int], float]) -> float:
            ids, log_probability = candidate
            if self.length_rule == "published":
                return log_probability / (len(ids) - (ids[-1] == self.eos))
            return log_probability / (len(ids) - prompt_length)

        best, _ = max(zip(result.sequences_ids, result.scores, strict=True), key=score)
        return best[prompt_length:]


def _converter(model: Any, eos: int, folder: str) -> Any:
    """Return a converter for a model in memory with its configuration in ``folder``; tokens are named by their ids."""
    from ctranslate2.converters import TransformersConverter

    names = {str(token): token for token in range(model.get_input_embeddings().weight.shape[0])}
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), str(eos))
    tokenizer = SimpleNamespace(get_vocab=lambda: names, chat_template=None, special_tokens_map={}, **special)

    class Converter(TransformersConverter):
        def load_model(self, *_: Any, **__: Any) -> Any:
            # Some converters delete the layers that they have converted.
            return copy.deepcopy(model).cpu()

        def load_tokenizer(self, *_: Any, **__: Any) -> Any:
            return tokenizer

    return Converter(folder)
