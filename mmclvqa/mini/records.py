"""Annotation records of the tasks of clove-mini: questions about scenes in the schema of the benchmark."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmclvqa.clove.records import ANSWERS_PER_RECORD, ITEM_END, new_record
from mmclvqa.clove.tasks import Task
from mmclvqa.mini.questions import MIXES, SCENE_MIX, Question, Share, ask
from mmclvqa.mini.scenes import Scene, named_random, predicted_graph

RELATION_TASK = "relation"
TEXT_TASK = "scenetext"
ATTEMPTS = 100
"""Scenes tried for one kind of question; then another kind is drawn, and repeated questions are allowed."""


def draw_records(task: Task, split: str, count: int, scenes: Sequence[Scene], seed: int) -> list[dict[str, Any]]:
    """Draw ``count`` records of a task, spread evenly over ``scenes`` (in the scene setting, of its type)."""
    rng = named_random(seed, "questions", task.setting, task.name, split)
    own = task.setting == "scene"
    mix = SCENE_MIX if own else MIXES[task.name]
    graphs: dict[str, list[str]] = {}
    asked: set[tuple[str, str]] = set()
    turns = itertools.chain.from_iterable(rng.sample(scenes, len(scenes)) for _ in itertools.count())
    records = []
    for index in range(count):
        scene, question = _fresh_question(mix, turns, asked, rng, own)
        if scene.image_id not in graphs:
            graphs[scene.image_id] = predicted_graph(scene, named_random(seed, "predicted", scene.image_id), own)
        question_id = f"{task.setting[0]}{task.letter}{split[0]}{index:06d}"
        records.append(_record(task, split, question_id, scene, question, graphs[scene.image_id], rng))
    return records


def _fresh_question(
    mix: Mapping[str, Share], turns: Iterator[Scene], asked: set[tuple[str, str]], rng: random.Random, own: bool
) -> tuple[Scene, Question]:
    """Return the next scene with a question of a kind drawn from ``mix``, preferably one not asked yet."""
    repeat = False
    while True:
        kind = rng.choices(list(mix), [weight for weight, _ in mix.values()])[0]
        attributes = mix[kind][1]
        for scene in itertools.islice(turns, ATTEMPTS):
            question = ask(kind, scene, rng, own, attributes)
            if question and (repeat or (scene.image_id, question.text) not in asked):
                asked.add((scene.image_id, question.text))
                return scene, question
        repeat = True


def _record(
    task: Task, split: str, question_id: str, scene: Scene, question: Question, predicted: list[str], rng: random.Random
) -> dict[str, Any]:
    items = scene.items
    if question.fact:
        items = [" ".join(question.fact), *items]
    rng.shuffle(items)
    # The related items are in the order of the question, among their positions.
    related = iter(question.related)
    items = [next(related) if item in question.related else item for item in items]
    fact = [{"triplet": list(question.fact), "source": "clove-mini"}] if question.fact else []
    fields: dict[str, Any] = {
        "answer": question.answer,
        "answers": [question.answer] * ANSWERS_PER_RECORD,
        "question": question.text,
        "question_id": question_id,
        "image_id": scene.image_id,
        "image_source": scene.source,
        "feature_path": f"{scene.image_id}.npy",
        "gt_scene_graph_seq": [item + ITEM_END for item in items],
        "gt_scene_graph_mask": [int(item in question.related) for item in items],
        "pred_scene_graph_seq": [item + ITEM_END for item in predicted],
        "supporting_fact": fact,
        "stage": task.name,
        "program": list(question.program),
        "raw_question_type": question.kind,
        "set_name": split,
    }
    if scene.surfaces:
        fields |= _ocr_fields(scene)
    return new_record(**fields)


def _ocr_fields(scene: Scene) -> dict[str, Any]:
    boxes = [[round(side, 4) for side in surface.word_box] for surface in scene.surfaces]
    info = [
        {
            "word": surface.word,
            "bounding_box": {
                "top_left_x": left,
                "top_left_y": top,
                "width": round(right - left, 4),
                "height": round(bottom - top, 4),
                **dict.fromkeys(("rotation", "roll", "pitch", "yaw"), 0.0),
            },
        }
        for surface, (left, top, right, bottom) in zip(scene.surfaces, boxes, strict=True)
    ]
    words = [surface.word for surface in scene.surfaces]
    return {"ocr_tokens": words, "ocr_info": info, "ocr": list(words), "ocr_normalized_boxes": boxes}
