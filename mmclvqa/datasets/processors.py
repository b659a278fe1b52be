"""Processors of the data set ``clvqa``, registered with MMF."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmf.common.registry import registry
from mmf.datasets.processors.processors import BaseProcessor, M4CAnswerProcessor, VocabProcessor
from tokenizers import BertWordPieceTokenizer, Tokenizer

from mmclvqa.clove.data_root import FASTTEXT_WIDTH, check_fasttext, load_vocabulary
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import read_json, read_text
from mmclvqa.clove.text import one_line
from mmclvqa.hub import hub_answers

MAX_MATCHES = 20
"""Maximum number of index sequences per answer, as in M4C."""

PLAIN_SETTINGS = {"do_lower_case", "model_max_length", "tokenizer_class"}
"""Entries of a ``tokenizer_config.json`` without effect on the tokens, because ``do_lower_case`` is always given."""


def load_tokenizer(
    source: str, data_dir: str | None = None, do_lower_case: bool = True, **params: Any
) -> tuple[Tokenizer, int, int]:
    """Return a tokenizer and the ids of the tokens before and after a text.

    A folder with BERT's own vocabulary is read without transformers, whose import takes a second.

    Args:
        source: a folder, or a name on the hub.
        data_dir: the data root, for the error message.
        params: other arguments of transformers' ``AutoTokenizer.from_pretrained``.

    Raises:
        DataError: the tokenizer is neither a folder nor available from the hub, or its vocabulary is damaged.
    """
    if not params and _is_plain_bert(Path(source)):
        vocabulary = Path(source, "vocab.txt")
        if "[UNK]" not in read_text(vocabulary).split():
            raise DataError(f"{vocabulary}: it has no line [UNK], so it is damaged; download or create it again")
        with contextlib.suppress(TypeError):  # the vocabulary lacks [CLS] or [SEP], which transformers adds
            plain = BertWordPieceTokenizer(str(vocabulary), lowercase=do_lower_case)
            return plain._tokenizer, plain.token_to_id("[CLS]"), plain.token_to_id("[SEP]")
    from transformers import AutoTokenizer

    is_folder = Path(source).is_dir()
    params = {"local_files_only": is_folder or not hub_answers(source)} | params
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, do_lower_case=do_lower_case, **params)
    except (OSError, ValueError) as error:  # ValueError: a folder of other files
        if is_folder:
            raise DataError(f"{source}: contains no tokenizer (BERT's has vocab.txt): {one_line(error)}") from None
        folders = " or ".join(dict.fromkeys((str(Path(data_dir or ".", "pretrained", source)), source)))
        raise DataError(
            f"dataset_config.clvqa.processors.*.params.tokenizer_config.type={source}: no folder {folders} exists, and "
            f"it cannot be downloaded; put BERT there (config.json, vocab.txt): {one_line(error)}"
        ) from None
    return tokenizer.backend_tokenizer, tokenizer.cls_token_id, tokenizer.sep_token_id


def _is_plain_bert(folder: Path) -> bool:
    if not (folder / "vocab.txt").is_file() or (folder / "added_tokens.json").exists():
        return False
    files = (folder / "config.json", folder / "tokenizer_config.json")
    config, settings = (read_json(file) if file.is_file() else {} for file in files)
    named = settings.get("tokenizer_class") in (None, "BertTokenizer", "BertTokenizerFast")
    return named and config.get("model_type") == "bert" and settings.keys() <= PLAIN_SETTINGS


@registry.register_processor("clvqa_bert_tokenizer")
class CloveBertTokenizer(BaseProcessor):
    """MMF's BERT tokenizer for one text, without masked language modeling: the same ids in a tenth of the time."""

    def __init__(self, config: Any, *args: Any, data_dir: str | None = None, **kwargs: Any) -> None:
        self._max_seq_length = config.max_seq_length
        params = config.tokenizer_config.get("params") or {}
        self._tokenizer, self._cls, self._sep = load_tokenizer(config.tokenizer_config.type, data_dir, **params)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Tokenize ``item["text"]``.

        Returns:
            ``input_ids`` int64 (max_seq_length,), zero-padded and truncated as in MMF; ``length``, an int, the number
            of tokens including [CLS] and [SEP].
        """
        encoding = self._tokenizer.encode(item["text"], add_special_tokens=False)
        ids = encoding.ids[: self._max_seq_length - 2]
        padded = np.zeros(self._max_seq_length, dtype=np.int64)
        padded[: len(ids) + 2] = (self._cls, *ids, self._sep)
        return {"input_ids": torch.from_numpy(padded), "length": len(ids) + 2}


@registry.register_processor("scene_graph_bert_tokenizer")
class SceneGraphBertTokenizer(CloveBertTokenizer):
    """The BERT tokenizer with the additional special token ``[OCR]`` (30522 -> 30523 tokens for BERT-base)."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self._tokenizer.add_special_tokens(["[OCR]"])


class AnswerTargets(NamedTuple):
    """The target answers of a record.

    Attributes:
        first: the score of each index with which an answer begins.
        sequences: the index sequences that spell an answer, once for each annotator who gave it.
    """

    first: dict[int, float]
    sequences: list[tuple[int, ...]]


@registry.register_processor("clvqa_answer")
class CloveAnswerProcessor(M4CAnswerProcessor):
    """M4C's answer processor, which returns indices instead of dense targets and uses a given random generator.

    :func:`dense_targets` builds the dense multi-label targets (steps x (A + OCR slots)) on the device.
    """

    def __init__(self, config: Any, *args: Any, data_dir: str | None = None, **kwargs: Any) -> None:
        config = config.copy()
        config.vocab_file = str(Path(data_dir or ".", config.vocab_file).absolute())
        # MMF only asserts; this names the file and line that are invalid.
        load_vocabulary(config.vocab_file)
        super().__init__(config, *args, **kwargs)
        self.first_step_slots = MAX_MATCHES * self.num_answers

    def targets(self, answers: Sequence[str], tokens: Sequence[str]) -> AnswerTargets:
        """Return the targets of a record from the answers of the annotators and the OCR tokens by slot."""
        answers = [self.answer_preprocessor({"text": answer})["text"] for answer in answers]
        scores = self.compute_answer_scores(answers)
        slots = defaultdict(list)
        for slot, token in enumerate(tokens):
            slots[token].append(slot)
        matches = {
            answer: self.match_answer_to_vocab_ocr_seq(
                answer, self.answer_vocab.word2idx_dict, slots, max_match_num=MAX_MATCHES
            )
            for answer in dict.fromkeys(answers)
        }
        first: dict[int, float] = {}
        for answer, sequences in matches.items():
            for sequence in sequences:
                first[sequence[0]] = max(first.get(sequence[0], 0.0), scores[answer])
        return AnswerTargets(first, [sequence for answer in answers for sequence in matches[answer]])

    def batch(self, targets: Sequence[AnswerTargets], draws: Sequence[np.random.Generator]) -> dict[str, torch.Tensor]:
        """Return the targets of a batch as indices and scores, and one index sequence each for teacher forcing.

        Args:
            draws: for each record, the generator that chooses among the index sequences that spell an answer.

        Returns:
            ``target_inds`` int32 and ``target_scores`` float32, both (B, 20 x answers + steps - 1): first the indices
            that are correct at step 0, then one entry per later step, -1 if unused;
            ``train_prev_inds`` int64 (B, steps); ``train_loss_mask`` float32 (B, steps).
        """
        length = self.first_step_slots + self.max_copy_steps - 1
        target_inds = np.full((len(targets), length), -1, dtype=np.int32)
        target_scores = np.zeros((len(targets), length), dtype=np.float32)
        prev_inds = np.zeros((len(targets), self.max_copy_steps), dtype=np.int64)
        loss_mask = np.zeros((len(targets), self.max_copy_steps), dtype=np.float32)
        for row, (first, sequences) in enumerate(targets):
            target_inds[row, : len(first)] = list(first)
            target_scores[row, : len(first)] = list(first.values())
            if sequences:
                sequence = sequences[int(draws[row].integers(len(sequences)))]
                steps = min(1 + len(sequence), self.max_copy_steps)
                loss_mask[row, :steps] = 1.0
                prev_inds[row, 0] = self.BOS_IDX
                prev_inds[row, 1:steps] = sequence[: steps - 1]
                following = (*sequence, self.EOS_IDX)[1:steps]
                later = slice(self.first_step_slots, self.first_step_slots + len(following))
                target_inds[row, later] = following
                target_scores[row, later] = 1.0
        return {
            "target_inds": torch.from_numpy(target_inds),
            "target_scores": torch.from_numpy(target_scores),
            "train_prev_inds": torch.from_numpy(prev_inds),
            "train_loss_mask": torch.from_numpy(loss_mask),
        }


def dense_targets(target_inds: torch.Tensor, target_scores: torch.Tensor, steps: int, num_outputs: int) -> torch.Tensor:
    """Return the dense multi-label targets, float32 (B, steps, num_outputs), on the device of the indices.

    Args:
        target_inds: int (B, F + steps - 1): F entries of step 0, then one per later step; -1 is unused.
        target_scores: float (B, F + steps - 1).
        num_outputs: A + OCR slots.
    """
    batch, length = target_inds.shape
    first = length - (steps - 1)
    step = torch.arange(length, device=target_inds.device).sub(first - 1).clamp(min=0)
    # Unused entries are written to an additional row, which is dropped.
    step = torch.where(target_inds >= 0, step, steps)
    flat = step * num_outputs + target_inds.long().clamp(min=0)
    targets = torch.zeros(batch, (steps + 1) * num_outputs, device=target_inds.device)
    targets.scatter_(1, flat, target_scores)
    return targets.view(batch, steps + 1, num_outputs)[:, :steps]


def used_slots(
    ocr_num: torch.Tensor, indices: Iterable[torch.Tensor], num_answers: int, num_slots: int
) -> torch.Tensor:
    """Return which OCR slots are in use, bool (B, num_slots): they have a token, or teacher forcing refers to them.

    Where a batch lacks them, :mod:`mmclvqa.models.inputs` computes them from the dense targets.

    Args:
        ocr_num: int (B,), number of OCR tokens.
        indices: int (B, any), indices of answers and, from ``num_answers`` on, of OCR slots.
    """
    used = torch.arange(num_slots) < ocr_num[:, None]
    for batch_indices in indices:
        slots = batch_indices.long() - num_answers
        rows, columns = (slots >= 0).nonzero(as_tuple=True)
        used[rows, slots[rows, columns]] = True
    return used


@registry.register_processor("clvqa_fasttext")
class CloveFastTextProcessor(VocabProcessor):
    """Returns the fastText vectors (300 numbers) of OCR tokens.

    :meth:`load` reads the model (8 GB for wiki.en.bin) in the main process, before data loading processes are forked,
    so that they share it. It is not read if no record has OCR tokens.
    """

    def __init__(self, config: Any, *args: Any, data_dir: str | None = None, **kwargs: Any) -> None:
        self._init_extras(config)
        self.model_file = config.model_file and os.path.join(data_dir or ".", config.model_file)
        self._model: Any = None

    def load(self) -> None:
        """Read the model unless it is loaded.

        Raises:
            DataError: the file does not exist or is not a fastText model with 300 dimensions.
        """
        if self._model is not None or self.model_file is None:
            return
        if not os.path.exists(self.model_file):
            raise DataError(
                f"fastText model {self.model_file} does not exist; fetch it with `python -m mmclvqa.clove "
                "download`, or set context_processor.params.model_file to null to use zero vectors"
            )
        try:
            import fasttext
        except ImportError:
            raise DataError("the package fasttext is not installed; run pip install -r requirements.txt") from None
        check_fasttext(self.model_file)
        try:
            # Used directly because the constructor of its wrapper class prints a deprecation warning.
            self._model = fasttext.FastText._FastText(model_path=self.model_file)
        except ValueError as error:
            raise DataError(f"fastText model {self.model_file}: {error}") from None

    def _map_strings_to_indices(self, tokens: list[str]) -> torch.Tensor:
        vectors = torch.zeros(self.max_length, FASTTEXT_WIDTH)
        if tokens:
            self.load()
        if self._model is not None:
            for slot, token in enumerate(tokens[: self.max_length]):
                words = token.split(" ")
                vectors[slot] = torch.from_numpy(np.mean([self._model.get_word_vector(w) for w in words], axis=0))
        return vectors
