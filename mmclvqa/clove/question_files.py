"""Reads the published JSON files of VQA v2, GQA and TextVQA as records of the schema.

Each file is recognized by its content. Inconsistent entries, such as an annotation without a question, are left out and
collected by kind.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import read_json
from mmclvqa.clove.records import ANSWERS_PER_RECORD, ITEM_END, Coercions, new_record
from mmclvqa.clove.scene_graph_items import OCR, SCENE_KEYS, graph_items

Findings = dict[str, list[str]]
"""Incomplete or inconsistent entries by kind of problem."""

Row = dict[str, Any]
"""A question in its published form, with the fields of its annotation in VQA v2."""

_LISTS = ("questions", "annotations", "data")
"""Keys of the files that are lists; other files are tables by id."""


def value_at(row: Any, field: str) -> str | None:
    """Return the value of a field such as ``types.structural`` as text, the first of a list; None if there is none."""
    for key in field.split("."):
        row = row.get(key) if isinstance(row, Mapping) else None
    row = row[0] if isinstance(row, list) and row else row
    return str(row) if isinstance(row, (str, int, float)) else None


class QuestionFiles:
    """The files of one split.

    Args:
        paths: JSON files: questions (VQA v2, GQA, TextVQA), annotations (VQA v2), scene graphs (GQA), OCR tokens
            (TextVQA), or predicted scene graphs as lists of items by image id; files of the same kind are merged.
        findings: receives incomplete and inconsistent entries.

    Attributes:
        questions: the questions by id.
        uses_true_graphs: whether a record that was read has its true graph as the predicted one.

    Raises:
        DataError: a file is missing or has another form, or the files have no questions, or none with an answer.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], findings: Findings) -> None:
        self.findings = findings
        self.questions: dict[str, Row] = {}
        self.uses_true_graphs = False
        self._annotations: dict[str, Row] = {}
        self._graphs: dict[str, dict[str, Any]] = {}
        self._ocr: dict[str, dict[str, Any]] = {}
        self._predicted: dict[str, list[str]] = {}
        self._items: dict[str, list[tuple[str, frozenset[str]]]] = {}
        for path in paths:
            self._read(Path(path))
        for question_id, annotation in self._annotations.items():
            if question_id in self.questions:
                self.questions[question_id] = annotation | self.questions[question_id]
            else:
                self._find("annotations without a question", question_id)
        names = ", ".join(map(str, paths))
        if not self.questions:
            raise DataError(f"{names}: no questions; name the file of the questions beside it")
        if not any({"answer", "answers"} & row.keys() for row in self.questions.values()):
            raise DataError(f"{names}: no question has an answer; name the file of their annotations beside it")

    def records(self, task_of: Callable[[str, Row], str | None], true_graphs: bool = False) -> Iterator[Row]:
        """Yield a record for each question that has a text and answers; without a task, only its id is set.

        Args:
            task_of: returns the task of a question, given its id and published form; it becomes the ``stage``.
            true_graphs: use the true scene graph as ``pred_scene_graph_seq`` where no graph is predicted.

        Raises:
            DataError: an entry has another form than the published ones.
        """
        for question_id, row in self.questions.items():
            try:
                record = self._record(question_id, row, task_of(question_id, row) or "", true_graphs)
            except (KeyError, TypeError, AttributeError) as error:
                problem = f"it, or the scene graph of its image, has another form than in GQA or VQA v2 ({error!r})"
                raise DataError(f"question_id {question_id}: {problem}") from None
            if record is not None:
                yield record

    def _record(self, question_id: str, row: Row, task: str, true_graphs: bool) -> Row | None:
        answers = row.get("answers", row.get("answer"))
        answers = [answers] if isinstance(answers, str) else answers or []
        answers = [answer["answer"] if isinstance(answer, Mapping) else answer for answer in answers]
        if not str(row.get("question") or "").strip():
            return self._find("questions without a text", question_id)
        if not answers:
            return self._find("questions without an annotation", question_id)
        if len(answers) not in (1, ANSWERS_PER_RECORD):
            return self._find(f"questions with neither 1 nor {ANSWERS_PER_RECORD} answers", question_id)
        if not task:
            return new_record(question_id=question_id)
        answers *= ANSWERS_PER_RECORD // len(answers)
        answer = row.get("multiple_choice_answer") or Counter(answers).most_common(1)[0][0]
        image = row.get("image_id", row.get("imageId"))
        items, mask = self._graph(question_id, row, str(image))
        ocr = self._ocr.get(str(image), {})
        if self._ocr and not ocr:
            self._find("questions without the OCR tokens of their image", question_id)
        tokens = list(ocr.get("ocr_tokens", ()))
        words = [f"{OCR} {token}{ITEM_END}" for token in tokens]
        answer_words = set(answer.lower().split())
        predicted = [item.removesuffix(ITEM_END) + ITEM_END for item in self._predicted.get(str(image), ())]
        if true_graphs and str(image) not in self._predicted:
            predicted = items
            self.uses_true_graphs |= bool(items)
        record = new_record(
            question=row["question"],
            question_id=question_id,
            answer=answer,
            answers=answers,
            image_id=image,
            stage=task,
            ocr_tokens=tokens,
            ocr=tokens,
            ocr_info=ocr.get("ocr_info", []),
            gt_scene_graph_seq=[*items, *words],
            gt_scene_graph_mask=[*mask, *(int(token.lower() in answer_words) for token in tokens)],
            pred_scene_graph_seq=[*predicted, *words],
            program=row.get("semantic"),
            raw_question_type=row.get("types", row.get("question_type")),
            gqa_question=row if "imageId" in row else None,
        )
        return Coercions().apply(record, question_id)

    def _graph(self, question_id: str, row: Row, image: str) -> tuple[list[str], list[int]]:
        if image not in self._graphs:
            if self._graphs:
                self._find("questions without the scene graph of their image", question_id)
            return [], []
        graph = self._graphs[image]
        if image not in self._items:
            self._items[image] = [(item + ITEM_END, about) for item, about in graph_items(graph)]
        annotated_object_ids = (ids for part in row.get("annotations", {}).values() for ids in part.values())
        related = {key for ids in annotated_object_ids for key in ids.split(",")}
        if related - graph["objects"].keys():
            self._find("questions about an object that their scene graph lacks", question_id)
        if value_at(row, "types.semantic") == "global":
            # Such a question is about the whole image; its annotations name no object.
            location_key, weather = SCENE_KEYS
            related.add(weather if str(value_at(row, "types.detailed")).startswith(weather) else location_key)
        items = self._items[image]
        return [item for item, _ in items], [int(about <= related) for _, about in items]

    def _find(self, kind: str, question_id: str) -> None:
        self.findings.setdefault(kind, []).append(f"question_id {question_id}")

    def _read(self, path: Path) -> None:
        content = read_json(path)
        content = content if isinstance(content, dict) else {}
        listed = next((key for key in _LISTS if isinstance(content.get(key), list)), None)
        rows = content[listed] if listed else list(content.values())
        first = rows[0] if rows else None
        if not isinstance(first, (dict, list)):
            raise DataError(
                f"{path}: has no questions, annotations, scene graphs or OCR tokens in the form of VQA v2, GQA or "
                f"TextVQA; pass other data to import_records (docs/your_own.md)"
            )
        id_key = "question_id"
        table: dict[str, Any] = self.questions
        if isinstance(first, list):
            table = self._predicted
        elif listed == "annotations":
            table = self._annotations
        elif not listed and "objects" in first:
            table = self._graphs
        elif "ocr_tokens" in first and "question" not in first:
            table, id_key = self._ocr, "image_id"
        ids = [row.get(id_key) if isinstance(row, dict) else None for row in rows] if listed else list(content)
        for number, (key, row) in enumerate(zip(ids, rows, strict=True)):
            if type(row) is not type(first) or not isinstance(key, (str, int)):
                where = f"entry {number}" if listed else f"entry {key!r}"
                raise DataError(f"{path}: {where}: has another form than the published ones, or no {id_key}")
            if str(key) in table and (table is self.questions or table is self._annotations):
                self._find("repeated question ids", str(key))
            table.setdefault(str(key), row)
