"""The schedule, early stopping and the watch for NaN, each on its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from mmclvqa.clove.errors import TrainingError
from mmclvqa.configuration import ConfigError, default_config_path, package_defaults
from mmclvqa.start_up import without_compiler
from mmclvqa.training.optimization import EarlyStopping, LossMeter, build_optimizer, pythia_factor

PUBLISHED = SimpleNamespace(
    use_warmup=True, warmup_factor=0.2, warmup_iterations=1000, lr_steps=[14000, 19000], lr_ratio=0.1
)


def alone(value):
    return [value]


@pytest.mark.parametrize(
    ("update", "factor"),
    [(0, 0.2), (500, 0.6), (1000, 1.0), (13999, 1.0), (14000, 0.1), (18999, 0.1), (19000, 0.01), (24000, 0.01)],
)
def test_pythia_schedule_warms_up_and_steps_down(update: int, factor: float) -> None:
    assert pythia_factor(update, PUBLISHED) == pytest.approx(factor)


def test_pythia_schedule_without_warm_up() -> None:
    for change in ({"use_warmup": False}, {"warmup_iterations": 0}):
        assert pythia_factor(0, SimpleNamespace(**vars(PUBLISHED) | change)) == 1.0


def stopping(**settings):
    return EarlyStopping(SimpleNamespace(
        **{"criteria": "d/acc", "minimize": False, "patience": 10, "enabled": True} | settings
    ))


def test_early_stopping_waits_for_patience_updates_without_a_better_value() -> None:
    early = stopping()
    seen = [(early.update(u, {"val/d/acc": v}), early.stopped) for u, v in ((5, 0.1), (10, 0.3), (15, 0.3), (20, 0.2))]
    assert seen == [(True, False), (True, False), (False, False), (False, False)]
    early.update(21, {"val/d/acc": 0.3})
    assert early.stopped and early.best_update == 10


def test_early_stopping_minimises_and_leaves_out_nan() -> None:
    early = stopping(criteria="val/total_loss", minimize=True)
    values = [1.0, float("nan"), 0.5, 0.7]
    assert [early.update(u, {"val/total_loss": v}) for u, v in enumerate(values)] == [True, False, True, False]
    assert early.best_value == 0.5


def test_early_stopping_keeps_its_state() -> None:
    early, other = stopping(), stopping()
    early.update(5, {"val/d/acc": 0.4})
    other.load_state_dict(early.state_dict())
    assert not other.update(6, {"val/d/acc": 0.4}) and other.best_update == 5


def test_early_stopping_names_what_is_evaluated() -> None:
    with pytest.raises(ConfigError, match="d/acc is not evaluated.*val/d/other"):
        stopping().update(1, {"val/d/other": 1.0})


def test_loss_meter_averages_over_updates() -> None:
    meter = LossMeter(torch.device("cpu"))
    for update, loss in enumerate((1.0, 3.0), 1):
        for weight in (0.25, 0.75):
            meter.add({"train/d/bce": torch.tensor([loss])}, torch.tensor(loss), weight)
        assert float(meter.end_update(update, None)) == loss
    assert meter.averages(alone) == {"train/d/bce": 2.0, "train/total_loss": 2.0}


def test_loss_meter_names_the_first_update_that_is_not_finite() -> None:
    meter = LossMeter(torch.device("cpu"))
    for update, (loss, norm) in enumerate(((1.0, 1.0), (1.0, float("inf")), (float("nan"), 1.0)), 1):
        meter.add({}, torch.tensor(loss), 1.0)
        meter.end_update(update, torch.tensor(norm))
    with pytest.raises(TrainingError, match="at update 2"):
        meter.check(alone)


@pytest.mark.parametrize("name", ["AdamW", "Adam", "SGD", "Adamax", "RMSprop"])
def test_an_optimizer_without_the_compiler_makes_the_same_updates(name: str) -> None:
    def trained(cls: type[torch.optim.Optimizer]) -> list[torch.Tensor]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 3)
        optimizer = cls(layer.parameters(), lr=0.1, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: 1 / (update + 1))
        for _ in range(4):
            optimizer.zero_grad()
            layer(torch.ones(2, 3)).square().sum().backward()
            optimizer.step()
            schedule.step()
            optimizer.load_state_dict(optimizer.state_dict())
        return [weight.detach() for weight in layer.parameters()]

    plain = getattr(torch.optim, name)
    assert without_compiler(plain).__name__ == name
    assert all(map(torch.equal, trained(plain), trained(without_compiler(plain))))


def test_optimizers_from_elsewhere_are_used_as_they_are() -> None:
    class Own(torch.optim.SGD):
        pass

    assert without_compiler(Own) is Own


def test_an_optimizer_with_any_keyword_gets_the_default_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(torch.optim.SGD):
        def __init__(self, params: Any, **settings: Any) -> None:
            self.given = settings
            super().__init__(params, lr=settings["lr"])

    monkeypatch.setattr(torch.optim, "Own", Own, raising=False)
    params = package_defaults(default_config_path()).optimizer.params
    config = OmegaConf.create({"optimizer": {"type": "Own", "params": params}})
    assert build_optimizer(torch.nn.Linear(2, 2), config).given == dict(params)
