"""The optimizer beyond the recorded steps, which tests/parity/check_srm_search.py compares."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from SRM.checkpoint import load_checkpoint, save_checkpoint
from SRM.optimizer import FormerAdamW, optimizer_of
from SRM.settings import parse


def test_decay_groups_follow_the_published_names() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    needed = ["--cl_setting", "scene", "--task_seq", "abcdef", "--model_dir_root", "x", "--data_dir", "."]
    optimizer = optimizer_of(model, parse(needed), fused=True)
    decays = {id(p): group["late_decay"] for group in optimizer.param_groups for p in group["params"]}
    by_name = {name: decays[id(parameter)] for name, parameter in model.named_parameters()}
    assert by_name["transformer.h.0.ln_1.weight"] == by_name["transformer.wte.weight"] == 0.01
    assert {decay for name, decay in by_name.items() if name.endswith("bias")} == {0.0}
    assert {decay for name, decay in by_name.items() if not name.endswith("bias")} == {0.01}


def test_steps_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    """The number of steps decides epsilon, so it must be known again."""
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


def test_steps_with_infinite_gradients_are_left_out_under_a_gradient_scaler() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = FormerAdamW([{"params": [weight], "weight_decay": 0.1}], lr=0.1, eps=0.1)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale((weight * torch.inf).sum()).backward()
    scaler.step(optimizer)
    assert weight.tolist() == [1, 1, 1] and not optimizer.steps
