"""Callbacks, which observe training without changing the loop.

A callback is a class that is registered by name and listed in ``training.callbacks``::

    @register_callback("watch_loss")
    class WatchLoss(Callback):
        def __init__(self, limit: float) -> None: ...

    training:
      callbacks:
      - type: watch_loss
        params: {limit: 0.02}

``kmeans_store``, which the published configurations list, is accepted and has no effect, because k-means replay stores
its exemplars without a callback.

Each hook gets the trainer: ``trainer.network`` is the bare model, ``trainer.num_updates`` the number of updates,
``trainer.config`` the configuration and ``trainer.splits`` the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.text import did_you_mean

_REGISTERED: dict[str, type[Callback]] = {}
_WITHOUT_EFFECT = ("kmeans_store",)


class Callback:
    """Base of callbacks, whose hooks do nothing; ``params`` of the configuration are passed to ``__init__``."""

    def on_train_start(self, trainer: Any) -> None:
        """Called before the first update, also of a resumed run, whose checkpoint is loaded by then."""

    def on_gradients(self, trainer: Any) -> None:
        """Called when the gradients of an update are complete (averaged over processes, unscaled), before clipping."""

    def on_update_end(self, trainer: Any) -> None:
        """Called after the step of optimizer and schedule; ``trainer.num_updates`` includes this update."""

    def on_validation_end(self, trainer: Any, evaluations: list[Any]) -> None:
        """Called after an evaluation of the val split, before its checkpoint is written."""

    def on_train_end(self, trainer: Any) -> None:
        """Called when the model has its final (best) weights, before ``<model>_final.pth`` is written.

        If the run is killed during this call, it is called again when the run resumes.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs: tensors, numbers, strings, and lists and dicts of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


class Callbacks:
    """The callbacks of a run, called in the order of the configuration.

    Args:
        settings: ``training.callbacks``.

    Raises:
        ConfigError: an entry has no ``type``, an unknown name, or invalid ``params``.
    """

    def __init__(self, settings: Sequence[Mapping[str, Any]] | None) -> None:
        entries = list(settings or [])
        for entry in entries:
            if not isinstance(entry, Mapping) or "type" not in entry:
                raise ConfigError(f"training.callbacks: {entry} is not of the form {{type: name, params: {{...}}}}")
        self._callbacks = [
            (entry["type"], build_callback(entry)) for entry in entries if entry["type"] not in _WITHOUT_EFFECT
        ]

    @property
    def names(self) -> list[str]:
        """Return the registered names of the callbacks."""
        return [name for name, _ in self._callbacks]

    def __call__(self, hook: str, *args: Any) -> None:
        """Call the hook named ``hook`` of each callback."""
        for _, callback in self._callbacks:
            getattr(callback, hook)(*args)

    def state_dict(self) -> list[dict[str, Any]]:
        """Return name and state of each callback."""
        return [{"type": name, "state": callback.state_dict()} for name, callback in self._callbacks]

    def load_state_dict(self, states: Sequence[Mapping[str, Any]]) -> list[str]:
        """Restore the state of each callback and return the names of those without an entry in ``states``."""
        remaining = list(states)
        without = []
        for name, callback in self._callbacks:
            saved = next((entry for entry in remaining if entry["type"] == name), None)
            if saved is None:
                without.append(name)
                continue
            remaining.remove(saved)
            callback.load_state_dict(saved["state"])
        return without


def register_callback(name: str) -> Callable[[type[Callback]], type[Callback]]:
    """Register a callback class under ``name`` (class decorator)."""

    def register(cls: type[Callback]) -> type[Callback]:
        _REGISTERED[name] = cls
        return cls

    return register


def build_callback(entry: Mapping[str, Any]) -> Callback:
    """Build the callback of an entry ``{type, params}`` of ``training.callbacks``."""
    name = entry["type"]
    if not isinstance(name, str) or name not in _REGISTERED:
        registered = f"registered: {', '.join(sorted(_REGISTERED))}" if _REGISTERED else "none is registered"
        raise ConfigError(
            f"training.callbacks: no callback named {name!r} ({registered}; env.user_dir=FILE registers your own)"
            f"{did_you_mean(name, _REGISTERED)}"
        )
    try:
        return _REGISTERED[name](**(entry.get("params") or {}))
    except TypeError as error:
        raise ConfigError(f"training.callbacks: params of {name}: {error}") from None
