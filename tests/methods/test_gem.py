"""GEM and A-GEM: the projections against brute force, and runs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from method_runs import ORDER, Captured, Methods
from mmf.common.report import Report

from mmclvqa.clove.tasks import parse_order, task
from mmclvqa.methods.agem import project_average
from mmclvqa.methods.episodic_memory import EpisodicMemory, flatten, record_key
from mmclvqa.methods.gem import EPSILON, MARGIN, project
from mmclvqa.methods.replay import OrderPosition, ceiling_choice, choose_real_records

GEM = (
    "training.trainer=GEM",
    "training.CL.use_replay=True",
    "training.CL.replay_method=gem",
    "training.CL.replay_rate=0.25",
    "training.callbacks=[{'type':'captured'}]",
)


def nearest_allowed(gradient: np.ndarray, memories: np.ndarray) -> np.ndarray:
    """min ||x - g|| with memories @ x >= 0, by trying every set of constraints that may hold with equality."""
    best, least = None, np.inf
    for size in range(len(memories) + 1):
        for active in itertools.combinations(range(len(memories)), size):
            held = memories[list(active)]
            x = gradient - held.T @ np.linalg.solve(held @ held.T, held @ gradient) if active else gradient
            distance = np.linalg.norm(x - gradient)
            if (memories @ x >= -1e-9).all() and distance < least:
                best, least = x, distance
    return best


def best_dual(gradient: np.ndarray, memories: np.ndarray) -> np.ndarray:
    """g + Gᵀv for the v >= MARGIN of least ½ vᵀ(GGᵀ + εI)v + (Gg)ᵀv, by trying every set of v held at the margin."""
    quadratic, linear = memories @ memories.T + EPSILON * np.eye(len(memories)), memories @ gradient
    best, least = None, np.inf
    for size in range(len(memories) + 1):
        for held in itertools.combinations(range(len(memories)), size):
            free = [i for i in range(len(memories)) if i not in held]
            v = np.full(len(memories), MARGIN)
            if free:
                known = quadratic[np.ix_(free, list(held))] @ v[list(held)] if held else 0
                v[free] = np.linalg.solve(quadratic[np.ix_(free, free)], -linear[free] - known)
            value = v @ quadratic @ v / 2 + linear @ v
            if (v >= MARGIN - 1e-9).all() and value < least:
                best, least = v, value
    return gradient + memories.T @ best


@pytest.mark.parametrize("seed", range(20))
def test_projection_agrees_with_brute_force(seed: int) -> None:
    draws = np.random.default_rng(seed)
    gradient, memories = draws.normal(size=6), draws.normal(size=(3, 6))
    if (memories @ gradient >= 0).all():
        gradient = -gradient
    tensors = torch.from_numpy(gradient), torch.from_numpy(memories)
    primal = project(*tensors, margin=0, epsilon=1e-10)
    np.testing.assert_allclose(primal, nearest_allowed(gradient, memories), atol=1e-6)
    np.testing.assert_allclose(project(*tensors), best_dual(gradient, memories), atol=1e-8)


def test_a_gradient_that_hurts_no_memory_is_left_alone() -> None:
    gradient, memory = torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 0.0]])
    assert project(gradient, memory) is gradient and project_average(gradient, memory[0]) is gradient


def test_the_average_variant_removes_what_goes_against_the_memory() -> None:
    changed = project_average(torch.tensor([-1.0, 2.0]), torch.tensor([2.0, 0.0]))
    assert torch.equal(changed, torch.tensor([0.0, 2.0]))


@pytest.mark.parametrize("variant", ["gem", "agem"])
def test_a_task_is_learned_beside_its_memories(methods: Methods, variant: str) -> None:
    methods.learn("object", "training.max_updates=20")
    methods.learn("attribute", methods.resume_file("object"), name="free")
    words = (*GEM, f"training.CL.gem_variant={variant}", methods.resume_file("object"))
    methods.learn("attribute", *words)
    free, held = methods.weights("attribute", "free"), methods.weights("attribute")
    assert any(not torch.equal(free[key], held[key]) for key in free)
    assert methods.stored("attribute")["records"] == 16 and methods.stored("attribute")["bytes"] > 16 * 16 * 64 * 4

    trainer = Captured.trainer
    trainer.network.train()
    whole = trainer.methods[0].memory.gradient([0], None)
    trainer.network.zero_grad()
    memory = trainer.methods[0].memory
    batch = memory.batch([(0, index) for index in range(len(memory.datasets[0]))])
    trainer.task_loss(Report(batch, trainer.network(batch))).backward()
    direct = torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in trainer.network.parameters()]
    )
    torch.testing.assert_close(whole, direct, rtol=1e-4, atol=1e-4 * float(direct.abs().max()))


def test_gradients_are_clipped_before_the_projection_and_not_after_it(methods: Methods) -> None:
    limit = 0.25
    methods.learn("object")
    words = ("training.CL.gem_variant=gem", f"training.max_grad_l2_norm={limit}", methods.resume_file("object"))
    methods.learn("attribute", *GEM, *words)
    trainer = Captured.trainer
    gem = trainer.methods[0]
    memory = gem.memory.gradient([0], None)
    assert memory.norm() > limit
    unit = memory / memory.norm()
    across = torch.randn(len(unit), generator=torch.Generator().manual_seed(0))
    across -= (across @ unit) * unit
    across /= across.norm()

    def stepped_on(gradient: torch.Tensor) -> torch.Tensor:
        """What the optimizer is given where the batch's gradient is ``gradient``."""
        at = 0
        for parameter in trainer.network.parameters():
            parameter.grad = gradient[at : at + parameter.numel()].view_as(parameter).clone()
            at += parameter.numel()
        gem.on_gradients(trainer)
        return torch.cat([parameter.grad.reshape(-1) for parameter in trainer.network.parameters()])

    torch.testing.assert_close(stepped_on(3 * unit), limit * unit, atol=1e-5, rtol=1e-4)
    weight = limit**2 / (limit**2 + EPSILON)
    torch.testing.assert_close(stepped_on(-3 * unit), (weight - 1) * limit * unit, atol=1e-5, rtol=1e-3)
    changed = stepped_on(3 * across - 0.03 * unit)
    assert changed.norm() > 1.1 * limit
    torch.testing.assert_close(changed @ unit, torch.tensor((MARGIN - 0.01) * limit), atol=1e-4, rtol=1e-2)


def test_a_real_update_opposes_no_memory(methods: Methods) -> None:
    methods.learn("object", "training.max_updates=20")
    second = ("training.CL.gem_variant=gem", "training.clip_gradients=False", "training.max_updates=20")
    methods.learn("attribute", *GEM, *second, methods.resume_file("object"))
    words = ("training.CL.gem_variant=gem", "training.clip_gradients=False", methods.resume_file("attribute"))
    methods.learn("relation", *GEM, *words)
    trainer = Captured.trainer
    gem = trainer.methods[0]
    opposed = 0
    for number, batch in enumerate(trainer.training_batches()):
        trainer.network.train()
        trainer.network.zero_grad()
        # Every other update climbs the loss, so that memories are certainly opposed.
        ((-1) ** number * trainer.task_loss(trainer.report(batch))).backward()
        own = flatten(torch.zeros_like(p) if p.grad is None else p.grad for p in trainer.trained_parameters())
        memories = torch.stack([gem.memory.gradient([number], None) for number in range(2)])
        opposed += bool((memories @ own < 0).any())
        gem.on_gradients(trainer)
        used = flatten(torch.zeros_like(p) if p.grad is None else p.grad for p in trainer.trained_parameters())
        assert (memories @ used >= -1e-3 * memories.norm(dim=1) * used.norm()).all()
    assert opposed


def test_memories_are_chosen_as_in_random_replay(methods: Methods) -> None:
    position = OrderPosition(parse_order("functional", ORDER), task("functional", "logical"))
    memories = choose_real_records(methods.data, position, 0.5).by_task()
    assert list(memories) == ["object", "attribute", "relation"]
    sizes = [64] * 6
    for past, (name, records) in enumerate(memories.items()):
        kept = ceiling_choice(64, 0.5, sizes, past, 3)
        assert [record["question_id"] for record in records] == [f"f{name[0]}t{index:06d}" for index in kept]


def test_a_stored_record_has_the_same_answer_whatever_other_records_are_stored(methods: Methods) -> None:
    methods.learn("object", "training.callbacks=[{'type':'captured'}]")
    trainer = Captured.trainer
    colours = ["red", "green", "blue", "yellow", "black"]
    records = [dict(record) | {"answers": colours * 2} for record in trainer.splits["train"].datasets[0].records]
    memories = [EpisodicMemory(trainer, {"object": chosen}) for chosen in (records, records[::-3])]
    answers = [
        {record_key(memory.record(0, i)): memory.batch([(0, i)]).train_prev_inds.tolist() for i in range(len(dataset))}
        for memory in memories
        for dataset in memory.datasets
    ]
    assert len({str(answer) for answer in answers[0].values()}) > 1
    assert answers[1] == {key: answers[0][key] for key in answers[1]}
