"""EWC and MAS: what is important, and what becomes of it."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from method_runs import Captured, Methods
from mmf.common.report import Report
from mmf.common.sample import SampleList
from torch import nn

from mmclvqa.clove.tasks import parse_order
from mmclvqa.methods.base import StepContext, setting
from mmclvqa.methods.ewc import EWC
from mmclvqa.methods.importances import compute_importances, read_importances, write_importances
from mmclvqa.training.loading import prepare

CL = ("training.trainer=CL", "optimizer.type=weight_reg_adamw", "training.callbacks=[{'type':'captured'}]")


def reg(name: str, *words: str) -> tuple[str, ...]:
    return (*CL, f"training.CL.reg_type={name}", *words)


def direct(name: str) -> dict[str, torch.Tensor]:
    """Ω by its definition, a batch and a parameter at a time, of the run that has just ended; mini has no dropout."""
    trainer = Captured.trainer
    network = trainer.network.train()
    sums, records = {key: torch.zeros_like(p) for key, p in network.named_parameters()}, 0
    trainer.splits["train"].datasets[0].set_epoch(0)
    for _, batch, dataset in trainer.splits["train"].evaluation_batches():
        batch = prepare(batch, dataset)
        network.zero_grad()
        output = network(batch)
        if name == "ewc":
            trainer.task_loss(Report(batch, output)).backward()
        else:
            (torch.softmax(output["scores"], dim=-1) ** 2).mean().backward()
        for key, parameter in network.named_parameters():
            if parameter.grad is not None:
                sums[key] += parameter.grad**2 if name == "ewc" else parameter.grad.abs()
        records += len(output["scores"])
    network.zero_grad()
    return {key: value / records for key, value in sums.items()}


@pytest.mark.parametrize("name", ["ewc", "mas"])
def test_importances_are_those_of_the_definition_and_add_up(methods: Methods, name: str) -> None:
    first = methods.learn("object", *reg(name)) / "models" / "reg_params.safetensors"
    expected = direct(name)
    found = read_importances(first, Captured.trainer.network)
    assert found.omega.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found.omega[key], value, rtol=1e-5, atol=1e-5 * float(value.max()) + 1e-12)
    assert sum(float(value.sum()) for value in found.omega.values()) > 0
    assert all(torch.equal(found.anchor[key], methods.weights("object")[key]) for key in expected)
    assert methods.stored("object") == {
        "records": 0, "bytes": found.bytes, "what": "importances and weights of all parameters",
    }  # fmt: skip

    second = methods.learn(
        "attribute", *reg(name, f"training.CL.reg_params_pth={first}"), methods.resume_file("object")
    )
    both = read_importances(second / "models" / "reg_params.safetensors", Captured.trainer.network)
    for key, value in direct(name).items():
        total = found.omega[key] + value
        torch.testing.assert_close(both.omega[key], total, rtol=1e-5, atol=1e-5 * float(total.max()) + 1e-12)


def test_the_published_name_of_the_importances_means_their_file(methods: Methods) -> None:
    first = methods.learn("object", *reg("ewc"))
    words = (f"training.CL.reg_params_pth={first / 'models/reg_params.pkl'}", methods.resume_file("object"))
    methods.learn("attribute", *reg("ewc", *words))
    before = read_importances(first / "models/reg_params.safetensors", Captured.trainer.network)
    read = Captured.trainer.methods[0].previous.omega
    assert all(torch.equal(value, before.omega[name]) for name, value in read.items())


def test_no_pull_is_plain_adamw_and_a_huge_one_keeps_important_weights(methods: Methods) -> None:
    first = methods.learn("object", *reg("ewc")) / "models" / "reg_params.safetensors"
    start = methods.resume_file("object")
    before = f"training.CL.reg_params_pth={first}"
    methods.learn("attribute", "optimizer.type=AdamW", start, name="plain")
    methods.learn("attribute", *reg("ewc", before, "training.CL.reg_lambda=0"), start, name="zero")
    methods.learn("attribute", *reg("ewc", before, "training.CL.reg_lambda=1e30"), start, name="huge")
    plain, zero, huge = (methods.weights("attribute", name) for name in ("plain", "zero", "huge"))
    assert all(torch.equal(plain[key], zero[key]) for key in plain)
    importances = read_importances(first, Captured.trainer.network)
    for key, omega in importances.omega.items():
        assert torch.equal(huge[key][omega > 1e-20], importances.anchor[key][omega > 1e-20]), key
    assert any(not torch.equal(huge[key], plain[key]) for key in plain)


def pulled(optimizer: torch.optim.Optimizer, omega: list[float], anchor: list[float], weight: float) -> None:
    """Apply the pull to the one parameter of an optimizer, as after its step."""
    method = EWC.__new__(EWC)
    parameter = optimizer.param_groups[0]["params"][0]
    method.settings = EWC.Settings(weight)
    method._terms = {parameter: (torch.tensor(omega), torch.tensor(anchor))}
    method.after_step(SimpleNamespace(optimizer=optimizer))


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_the_pull_is_that_of_the_equation(kind: type) -> None:
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    pulled(kind([parameter], lr=0.1), [1.0, 100.0], [0.5, 0.0], 1.0)
    # 1 - 0.1 * 2 * 1 * (1 - 0.5); the second one would overshoot and ends at its anchor.
    torch.testing.assert_close(parameter.detach(), torch.tensor([0.9, 0.0]))


def test_dropout_plays_no_part_in_importance() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    batch = SampleList({"points": torch.ones(2, 4)})
    once, again = (
        compute_importances(network, iter([batch]), lambda b: network(b.points).sum(), torch.square) for _ in range(2)
    )
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert network.training


@pytest.mark.parametrize("key", ["name", "number"])
@pytest.mark.parametrize("saved_by", ["pickle", "torch"])
def test_pickled_tables_are_read_and_written_as_safetensors(tmp_path: Path, key: str, saved_by: str) -> None:
    network = nn.Linear(2, 1)
    entries = [{"omega": torch.rand_like(p), "init_val": nn.Parameter(p.detach() + 1)} for p in network.parameters()]
    keys = [name for name, _ in network.named_parameters()] if key == "name" else range(2)
    table = dict(zip(keys, entries, strict=True)) | {"lambda": 1.0}
    path = tmp_path / "reg_params.pkl"
    if saved_by == "torch":
        torch.save(table, path)
    else:
        path.write_bytes(pickle.dumps(table))
    found = read_importances(path, network)
    write_importances(tmp_path / "own.safetensors", found)
    again = read_importances(tmp_path / "own.safetensors", network)
    for (name, _), entry in zip(network.named_parameters(), entries, strict=True):
        for read in (found, again):
            assert torch.equal(read.omega[name], entry["omega"]) and torch.equal(read.anchor[name], entry["init_val"])
    names = {"omega.weight", "omega.bias", "anchor.weight", "anchor.bias"}
    assert set(safetensors.torch.load_file(tmp_path / "own.safetensors")) == names


def test_importances_do_not_depend_on_the_batch_size_of_evaluation(methods: Methods) -> None:
    whole, small = (methods.learn("object", *reg("ewc", *words), name=name) for name, words in (
        ("whole", ()), ("small", ("training.eval_batch_size=4",)),
    ))  # fmt: skip
    parts = [safetensors.torch.load_file(folder / "models" / "reg_params.safetensors") for folder in (whole, small)]
    assert all(torch.equal(parts[0][name], parts[1][name]) for name in parts[0])


def test_a_weight_beyond_float32_leaves_unimportant_parameters_finite() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    pulled(torch.optim.AdamW([parameter], lr=0.1), [0.0, 1.0], [0.0, 0.0], 1e42)
    assert parameter[0] == 1 and parameter[1] == 0


def test_a_subclass_passes_on_the_settings_that_the_published_code_does_not_have() -> None:
    class Mine(EWC):
        name = "mine"

        @dataclass(frozen=True)
        class Settings:
            reg_lambda: float = setting(1.0, "weight", published="reg_lambda")
            gamma: float = setting(0.5, "decay")

    order = parse_order("functional", "oarlks")
    step = StepContext("functional", "oarlks", order, 1, "previous", "root")
    overrides = Mine.overrides(Mine.Settings(reg_lambda=100.0, gamma=0.9), step)
    assert "training.CL.reg_lambda=100.0" in overrides and "training.CL.mine.gamma=0.9" in overrides
    assert not [one for one in EWC.overrides(EWC.Settings(reg_lambda=100.0), step) if "CL.ewc." in one]
