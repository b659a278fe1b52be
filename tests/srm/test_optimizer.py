"""The optimizer and the learning-rate schedule; ``test_parity.py`` compares recorded steps of the published code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from SRM.optimizer import FormerAdamW, Schedule, build_optimizer
from SRM.settings import parse
from SRM.training import load_checkpoint, save_checkpoint


def test_decay_groups_follow_the_published_names() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    needed = ["--cl_setting", "scene", "--task_seq", "abcdef", "--model_dir_root", "x", "--data_dir", "."]
    optimizer = build_optimizer(model, parse(needed), fused=True)
    decays = {id(p): group["late_decay"] for group in optimizer.param_groups for p in group["params"]}
    by_name = {name: decays[id(parameter)] for name, parameter in model.named_parameters()}
    assert by_name["transformer.h.0.ln_1.weight"] == by_name["transformer.wte.weight"] == 0.01
    assert {decay for name, decay in by_name.items() if name.endswith("bias")} == {0.0}
    assert {decay for name, decay in by_name.items() if not name.endswith("bias")} == {0.01}


def test_steps_continue_exactly_from_a_checkpoint(tmp_path: Path) -> None:
    """The number of steps determines epsilon, so it must be restored."""
    gradients = torch.randn(6, 3, 2, generator=torch.Generator().manual_seed(0))

    def steps(model: torch.nn.Module, optimizer: FormerAdamW, chosen: torch.Tensor) -> None:
        for gradient in chosen:
            model.weight.grad = gradient.clone()
            optimizer.step()

    def fresh() -> tuple[torch.nn.Module, FormerAdamW]:
        model = torch.nn.Linear(2, 3, bias=False)
        torch.nn.init.ones_(model.weight)
        groups = [{"params": [model.weight], "weight_decay": 0.1}]
        return model, FormerAdamW(groups, lr=0.1, eps=0.1, fused=True)

    whole, optimizer = fresh()
    steps(whole, optimizer, gradients)
    model, optimizer = fresh()
    steps(model, optimizer, gradients[:3])
    save_checkpoint(tmp_path / "half.safetensors", model, optimizer, {})
    again, optimizer = fresh()
    load_checkpoint(tmp_path / "half.safetensors", again, optimizer)
    steps(again, optimizer, gradients[3:])
    torch.testing.assert_close(again.weight, whole.weight, rtol=0, atol=0)


def test_a_gradient_scaler_skips_steps_with_infinite_gradients() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = FormerAdamW([{"params": [weight], "weight_decay": 0.1}], lr=0.1, eps=0.1)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale((weight * torch.inf).sum()).backward()
    scaler.step(optimizer)
    assert weight.tolist() == [1, 1, 1] and not optimizer.steps


@pytest.mark.parametrize(
    ("style", "middle", "end"), [("linear", 0.5, 0.0), ("cos", 0.5, 0.0), ("const", 1.0, 1.0), ("None", 1.0, 1.0)]
)
def test_the_learning_rate_rises_to_its_peak_and_decays_in_its_style(style: str, middle: float, end: float) -> None:
    schedule = Schedule(peak=1.0, warm_up=100, total=1100, style=style)
    assert [schedule.rate(seen) for seen in (50, 100, 600, 1100)] == pytest.approx([0.5, 1.0, middle, end])


def test_without_warm_up_the_learning_rate_starts_at_its_peak() -> None:
    assert Schedule(2.0, 0, 10, "linear").rate(0) == 2.0
