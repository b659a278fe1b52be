"""Where in a task order a method stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmclvqa.clove.tasks import SETTINGS, Task, parse_order, task
from mmclvqa.configuration import ConfigError


def tasks_before(settings: Mapping[str, Any], method: str) -> list[Task]:
    """The tasks that were learned before ``cur_task``, in learning order.

    Args:
        settings: ``training.CL``.
        method: what needs to know, for messages.

    Raises:
        ConfigError: a key is missing, or no setting.
        TaskError: an illegal order, or no such task.
    """
    for name in ("cl_setting", "task_order", "cur_task"):
        if not settings[name]:
            raise ConfigError(f"training.CL.{name} is missing; {method} needs it")
    if settings.cl_setting not in SETTINGS:
        raise ConfigError(f"training.CL.cl_setting={settings.cl_setting}: it is one of {', '.join(SETTINGS)}")
    order = parse_order(settings.cl_setting, str(settings.task_order))
    return order[: order.index(task(settings.cl_setting, settings.cur_task))]
