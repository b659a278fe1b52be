"""EWC and MAS: what is important, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from method_runs import Captured, Methods
from mmf.common.report import Report
from torch import nn

from mmclvqa.continual.importance import Importances, importance, read_importances, write_importances
from mmclvqa.continual.optimizers import WeightRegAdamW, WeightRegSGD
from mmclvqa.trainers.evaluation import prepare

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
            trainer.compute_loss(Report(batch, output)).backward()
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
    assert all(torch.equal(value, before.omega[name]) for name, value in Captured.trainer.before.omega.items())


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


@pytest.mark.parametrize(("kind", "plain"), [(WeightRegAdamW, torch.optim.AdamW), (WeightRegSGD, torch.optim.SGD)])
def test_the_pull_is_that_of_the_equation(kind: type, plain: type) -> None:
    torch.manual_seed(0)
    models = [nn.Linear(3, 2) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    omega = {name: torch.rand_like(p) for name, p in models[0].named_parameters()}
    anchor = {name: torch.randn_like(p) for name, p in models[0].named_parameters()}
    pulled = kind(models[0].parameters(), lr=0.1)
    pulled.regularize(models[0], Importances(omega, anchor), 0.5)
    free = plain(models[1].parameters(), lr=0.1)
    points = torch.randn(5, 3)
    for _ in range(3):
        models[1].load_state_dict(models[0].state_dict())
        for model, optimizer in zip(models, (pulled, free), strict=True):
            optimizer.zero_grad()
            model(points).square().mean().backward()
            optimizer.step()
        for (name, parameter), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
            expected = other - 0.1 * 2 * 0.5 * omega[name] * (other - anchor[name])
            if kind is WeightRegSGD:  # AdamW's moments went with other weights in the two
                torch.testing.assert_close(parameter, expected)
            assert not torch.equal(parameter, other)


def test_one_adamw_step_is_pulled_by_the_equation() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    holder = nn.ParameterDict({"w": parameter})
    optimizer = WeightRegAdamW(holder.parameters(), lr=0.1, weight_decay=0.0)
    optimizer.regularize(
        holder, Importances({"w": torch.tensor([1.0, 100.0])}, {"w": torch.zeros(2)}), 1.0
    )
    parameter.grad = torch.zeros(2)
    optimizer.step()
    # 1 - 0.1 * 2 * 1 * 1; the second one would overshoot and ends at its anchor.
    torch.testing.assert_close(parameter.detach(), torch.tensor([0.8, 0.0]))


def test_dropout_plays_no_part_in_importance() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    batches = [(torch.ones(2, 4), 2)]
    once, again = (importance(network, iter(batches), lambda x: network(x).sum(), torch.square) for _ in range(2))
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert network.training


def test_a_pickled_table_by_name_is_read(tmp_path: Path) -> None:
    import pickle

    network = nn.Linear(2, 1)
    table = {
        name: {"omega": torch.rand_like(p), "init_val": p.detach().clone()} for name, p in network.named_parameters()
    }
    path = tmp_path / "reg_params.pkl"
    path.write_bytes(pickle.dumps(table))
    found = read_importances(path, network)
    for name, entry in table.items():
        assert torch.equal(found.omega[name], entry["omega"]) and torch.equal(found.anchor[name], entry["init_val"])
    write_importances(tmp_path / "own.safetensors", found)
    assert read_importances(tmp_path / "own.safetensors", network).omega["weight"].equal(found.omega["weight"])
    assert set(safetensors.torch.load_file(tmp_path / "own.safetensors")) == {
        "omega.weight", "omega.bias", "anchor.weight", "anchor.bias",
    }  # fmt: skip


@pytest.mark.parametrize("key", ["name", "number"])
@pytest.mark.parametrize("saved_by", ["pickle", "torch"])
def test_pickled_tables_of_either_kind_are_read(tmp_path: Path, key: str, saved_by: str) -> None:
    import pickle

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
    for (name, _), entry in zip(network.named_parameters(), entries, strict=True):
        assert torch.equal(found.omega[name], entry["omega"]) and torch.equal(found.anchor[name], entry["init_val"])


def test_importances_do_not_depend_on_the_batch_size_of_evaluation(methods: Methods) -> None:
    whole, small = (methods.learn("object", *reg("ewc", *words), name=name) for name, words in (
        ("whole", ()), ("small", ("training.eval_batch_size=4",)),
    ))  # fmt: skip
    parts = [safetensors.torch.load_file(folder / "models" / "reg_params.safetensors") for folder in (whole, small)]
    assert all(torch.equal(parts[0][name], parts[1][name]) for name in parts[0])


def test_a_weight_beyond_float32_leaves_unimportant_parameters_finite() -> None:
    holder = nn.ParameterDict({"w": nn.Parameter(torch.tensor([1.0, 2.0]))})
    optimizer = WeightRegAdamW(holder.parameters(), lr=0.1)
    optimizer.regularize(holder, Importances({"w": torch.tensor([0.0, 1.0])}, {"w": torch.zeros(2)}), 1e42)
    holder["w"].grad = torch.zeros(2)
    optimizer.step()
    assert holder["w"][0] > 0.9 and holder["w"][1] == 0
