"""The console scripts ``mmf_run`` and ``mmf_predict``: MMF's command line with the plugin.

A user error is reported in one line on stderr with exit code 1; a bug shows its traceback. To use several GPUs, run
``accelerate launch -m mmclvqa.cli ...`` or ``torchrun ... -m mmclvqa.cli ...``.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Mapping

from mmclvqa.clove.errors import CloveError
from mmclvqa.clove.text import INTERRUPTED, error_line
from mmclvqa.configuration import PluginConfiguration
from mmclvqa.lazy import prepare_libraries
from mmclvqa.process_exit import PROCESS_TIMEOUT, leave_process_group, run_program

USAGE = "mmf_run config=EXP_CONFIG/functional/cl_object_unicl_standalone.yaml model=unicl dataset=clvqa [key=value ...]"


def run(opts: list[str] | None = None, predict: bool = False) -> None:
    """Train and evaluate as the configuration specifies; ``mmclvqa/configs/defaults.yaml`` lists all keys.

    Args:
        opts: ``key=value`` overrides; None reads the command line and ends the process.
        predict: whether to write predictions only, as with ``evaluation.predict=true``.

    Raises:
        SystemExit: with code 1 after a user error, 130 after Ctrl-C.
    """
    if opts is None:
        run_program(lambda: run(sys.argv[1:], predict))
    args = _parse(opts)
    try:
        _main(args, predict)
    except (CloveError, OSError) as error:
        sys.exit(f"error: {error_line(error)}")
    except KeyboardInterrupt:
        print("interrupted; checkpoint.resume=True resumes from the last checkpoint", file=sys.stderr)
        sys.exit(INTERRUPTED)


def predict(opts: list[str] | None = None) -> None:
    """Write predictions for the splits of ``run_type``; see :func:`run`."""
    run(opts, predict=True)


def _parse(opts: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        usage=USAGE,
        description="Train, evaluate or predict with MMF; mmclvqa/configs lists all configuration keys.",
        allow_abbrev=False,  # or --config would be --config_override
    )
    parser.add_argument("-co", "--config_override", help="JSON object merged into the configuration file")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="configuration overrides of the form key=value")
    # Words after the first override are not options, except this one.
    args = parser.parse_args(["--help"] if {"-h", "--help"}.intersection(opts) else opts)
    if not args.opts:
        parser.error("no configuration overrides (key=value) are given")
    return args


def _main(args: argparse.Namespace, predict: bool) -> None:
    # The CPU fallback of torch's attention and MMF's code of 2020 issue warnings that users cannot act on.
    warnings.filterwarnings("ignore", category=FutureWarning)
    prepare_libraries()
    # Importing torch and MMF takes seconds, so that errors in the configuration are reported before.
    configuration = PluginConfiguration(args)
    from accelerate import PartialState
    from mmf.common.registry import registry
    from mmf.utils.build import build_config, build_trainer
    from mmf.utils.env import set_seed
    from mmf.utils.logger import Logger

    from mmclvqa.training.distributed import runs_on_cpu

    forget_earlier_run()
    config = configuration.get_config()
    PartialState(cpu=runs_on_cpu(config.training), timeout=PROCESS_TIMEOUT)
    try:
        config.training.seed = set_seed(config.training.seed)
        registry.register("seed", config.training.seed)
        if predict:
            config.evaluation.predict = True
            # Prediction does not train, so the train split is not read.
            run_types = [part for part in config.run_type.split("_") if part != "train"]
            if not run_types:
                raise CloveError(
                    f"run_type={config.run_type}: mmf_predict does not train; set it to val, test or val_test"
                )
            config.run_type = "_".join(run_types)
        _check_trainer(config.training.trainer, registry.mapping["trainer_name_mapping"])
        config = build_config(configuration)
        # The trainer checks run_type before the logger makes the save folder.
        trainer = build_trainer(config)
        registry.register("writer", Logger(config, name="mmf"))
        trainer.load()
        if predict:
            trainer.inference()
        else:
            trainer.train()
    finally:
        leave_process_group()


def forget_earlier_run() -> None:
    """Remove what an earlier run of this process has left in MMF.

    MMF would use its processors again, with their vocabularies, and would write this run's log to its files as well.
    """
    from mmf.common.registry import registry

    from mmclvqa.training.progress import LOGGERS

    # The registered configuration may be a later one than that of the run. Unlike keys(), iterating imports all of MMF.
    prefixes = tuple(f"{dataset}_" for dataset in registry.mapping["builder_name_mapping"].keys())  # noqa: SIM118
    for key in [key for key in registry.mapping["state"] if key.startswith(prefixes)]:
        registry.unregister(key)
    logging.captureWarnings(False)
    for logger in map(logging.getLogger, LOGGERS):
        for handler in list(logger.handlers):
            handler.close()
            logger.removeHandler(handler)


def _check_trainer(name: str, registered: Mapping[str, type]) -> None:
    if name == "base_trainer" or name not in registered:
        expected = [trainer for trainer in registered if trainer != "base_trainer"]
        raise CloveError(f"training.trainer={name}: no such trainer; expected one of: {', '.join(expected)}")


if __name__ == "__main__":
    run()
