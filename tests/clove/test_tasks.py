"""Settings, tasks, task orders and sizes as published."""

from __future__ import annotations

import pytest

from mmclvqa.clove.errors import TaskError
from mmclvqa.clove.tasks import REPORTED_ORDERS, order_index, parse_order, task, tasks

REPORTED_INDICES = {"functional": [1, 261, 330, 339, 438, 505], "scene": [1, 189, 194, 195, 210, 545]}


@pytest.mark.parametrize("setting", REPORTED_INDICES)
def test_the_reported_orders_have_their_indices(setting: str) -> None:
    assert [order_index(setting, order) for order in REPORTED_ORDERS[setting]] == REPORTED_INDICES[setting]


def test_any_other_permutation_has_an_index() -> None:
    assert order_index("scene", "fedcba") == 720


def test_published_sizes() -> None:
    trained = [known.train_size for known in tasks("functional").values()]
    assert trained == [20000, 18673, 20000, 20000, 20000, 16868]
    assert [known.val_size for known in tasks("functional").values()] == [3000] * 5 + [2422]
    assert {(known.train_size, known.val_size) for known in tasks("scene").values()} == {(20000, 3000)}


@pytest.mark.parametrize("name", ["a", "attribute", "attribute_gen", "attribute_replay", "attribute_replay_##"])
def test_a_task_is_found_by_letter_name_and_stage(name: str) -> None:
    assert task("functional", name).name == "attribute"


def test_scene_tasks_carry_their_letter() -> None:
    assert task("scene", "b#Workplace_gen").letter == "b"
    assert task("scene", "b").annotation_path("test") == "scene/fcl_mmf_b#Workplace_val.npy"
    assert [task("scene", "b").sweep_key, task("functional", "o").sweep_key] == ["b#", "o"]


@pytest.mark.parametrize(
    ("order", "said"),
    [("oarlkx", "x is not a task"), ("oarlko", "o occurs more than once"), ("oarlk", "s is missing"), ("", "missing")],
)
def test_an_illegal_order_is_refused_with_the_letter(order: str, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        parse_order("functional", order)


def test_unknown_settings_and_tasks_are_refused_with_the_known_ones() -> None:
    with pytest.raises(TaskError, match="functional, scene"):
        tasks("other")
    with pytest.raises(TaskError, match="o object"):
        task("functional", "colour")
