"""Where a method hooks into training without changing the loop.

A callback is a class registered by name and listed in ``training.callbacks``::

    @register_callback("kmeans_store")
    class KMeansStore(Callback):
        def __init__(self, rate: float) -> None: ...

    training:
      callbacks:
      - type: kmeans_store
        params: {rate: 0.02}

A replay method whose records a callback keeps names it when it registers: ``register_callback("kmeans_store",
replay_method="kmeans")`` takes part in every run of that method, listed or not.

The trainer passes itself: ``trainer.network`` is the bare model, ``trainer.num_updates`` the updates
done, ``trainer.config`` the configuration, ``trainer.splits`` the data.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmclvqa.configuration import ConfigError

_REGISTERED: dict[str, type[Callback]] = {}
_OF_REPLAY_METHOD: dict[str, str] = {}


class Callback:
    """Does nothing; override what is needed. ``params`` of the configuration go to ``__init__``."""

    def on_train_start(self, trainer: Any) -> None:
        """Before the first update, also of a resumed run; the checkpoint's weights are loaded."""

    def on_gradients(self, trainer: Any) -> None:
        """The update's gradients are complete (averaged over processes, unscaled) and not clipped yet."""

    def on_update_end(self, trainer: Any) -> None:
        """After the optimizer's and the schedule's step; ``trainer.num_updates`` counts this update."""

    def on_validation_end(self, trainer: Any, evaluations: list[Any]) -> None:
        """After the val split was evaluated, before the checkpoint of that moment is written."""

    def on_train_end(self, trainer: Any) -> None:
        """The final (best) weights are in the model; ``<model>_final.pth`` is written after this.

        A run that is killed in here comes here again when it is resumed.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: tensors, numbers, strings, lists and dicts of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back :meth:`state_dict`."""


class Callbacks:
    """The callbacks of a run, called in the order of the configuration; that of the replay method comes last.

    Args:
        settings: ``training.callbacks``.
        replay_method: ``training.CL.replay_method`` of a run that replays; its callback need not be listed.

    Raises:
        ConfigError: an entry without ``type``, an unknown name, or ``params`` that it does not take.
    """

    def __init__(self, settings: Sequence[Mapping[str, Any]] | None, replay_method: str | None = None) -> None:
        entries = [_checked(entry) for entry in settings or []]
        implied = _OF_REPLAY_METHOD.get(replay_method or "")
        if implied and all(entry["type"] != implied for entry in entries):
            entries.append({"type": implied})
        self._callbacks = [(entry["type"], build_callback(entry)) for entry in entries]

    @property
    def names(self) -> list[str]:
        """What they are registered as."""
        return [name for name, _ in self._callbacks]

    def __call__(self, moment: str, *args: Any) -> None:
        """Call the method ``moment`` of each."""
        for _, callback in self._callbacks:
            getattr(callback, moment)(*args)

    def __iter__(self) -> Any:
        return (callback for _, callback in self._callbacks)

    def state_dict(self) -> list[dict[str, Any]]:
        """Name and state of each."""
        return [{"type": name, "state": callback.state_dict()} for name, callback in self._callbacks]

    def load_state_dict(self, states: Sequence[Mapping[str, Any]]) -> list[str]:
        """Give each its state back; returns the names of those that had none in ``states``."""
        remaining = list(states)
        without = []
        for name, callback in self._callbacks:
            found = next((entry for entry in remaining if entry["type"] == name), None)
            if found is None:
                without.append(name)
                continue
            remaining.remove(found)
            callback.load_state_dict(found["state"])
        return without


def register_callback(
    name: str, replay_method: str | None = None
) -> Callable[[type[Callback]], type[Callback]]:
    """Class decorator: makes a callback known as ``name``, and part of every run that replays by ``replay_method``."""

    def register(cls: type[Callback]) -> type[Callback]:
        _REGISTERED[name] = cls
        if replay_method:
            _OF_REPLAY_METHOD[replay_method] = name
        return cls

    return register


def build_callback(entry: Mapping[str, Any]) -> Callback:
    """The callback of one entry ``{type, params}`` of ``training.callbacks``."""
    name = entry["type"]
    if name not in _REGISTERED:
        close = difflib.get_close_matches(str(name), _REGISTERED, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        known = ", ".join(sorted(_REGISTERED)) or "none"
        raise ConfigError(f"training.callbacks: no callback named {name!r} (known: {known}){hint}")
    try:
        return _REGISTERED[name](**(entry.get("params") or {}))
    except TypeError as error:
        raise ConfigError(f"training.callbacks: params of {name}: {error}") from None


def _checked(entry: Any) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping) or "type" not in entry:
        raise ConfigError(f"training.callbacks: {entry} is not of the form {{type: name, params: {{...}}}}")
    return entry
