"""The console scripts ``mmf_run`` and ``mmf_predict``: MMF's entry with the plugin loaded.

A problem that the user can mend is one line on stderr and exit code 1; a fault of the code keeps its
traceback. Several GPUs: ``accelerate launch -m mmclvqa.cli ...`` or ``torchrun ... -m mmclvqa.cli ...``.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Mapping

from mmclvqa.clove.errors import CloveError
from mmclvqa.process_exit import INTERRUPTED, leave_process_group, run_program

USAGE = "mmf_run config=EXP_CONFIG/functional/cl_object_unicl_standalone.yaml model=unicl dataset=clvqa [key=value ...]"


def run(opts: list[str] | None = None, predict: bool = False) -> None:
    """Train and evaluate as the words say; see ``mmclvqa/configs/defaults.yaml`` for every key.

    Args:
        opts: ``key=value`` words; None takes those of the command line and ends the process.
        predict: only write predictions (``evaluation.predict=true``).

    Raises:
        SystemExit: with code 1 after a one-line error, 130 after Ctrl-C.
    """
    if opts is None:
        run_program(lambda: run(sys.argv[1:], predict))
    args = _parse(opts)
    if predict:
        args.opts.append("evaluation.predict=true")
    try:
        _main(args, predict)
    except (CloveError, OSError) as error:
        sys.exit(f"error: {_one_line(error)}")
    except KeyboardInterrupt:
        print("interrupted; checkpoint.resume=True continues from the last checkpoint", file=sys.stderr)
        sys.exit(INTERRUPTED)


def predict(opts: list[str] | None = None) -> None:
    """Write predictions of the evaluated splits; see :func:`run`."""
    run(opts, predict=True)


def _parse(opts: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        usage=USAGE, description="Train, evaluate or predict with MMF; every key is in mmclvqa/configs."
    )
    parser.add_argument("-co", "--config_override", help="JSON text merged over the configuration file")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="key=value words")
    args = parser.parse_args(opts)
    if not args.opts:
        parser.error("no key=value words given")
    return args


def _main(args: argparse.Namespace, predict: bool) -> None:
    # The CPU fallback of torch's attention and MMF's own 2020 code warn about things users cannot change.
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Read when torch is imported. Data loading processes share the cores with torch's threads, which
    # would otherwise spin while they wait for one another.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from accelerate import PartialState
    from mmf.common.registry import registry
    from mmf.utils.build import build_config, build_trainer
    from mmf.utils.configuration import Configuration
    from mmf.utils.env import set_seed
    from mmf.utils.logger import Logger

    configuration = Configuration(args)
    configuration.args = args
    config = configuration.get_config()
    PartialState(cpu=config.training.device == "cpu")
    try:
        config.training.seed = set_seed(config.training.seed)
        registry.register("seed", config.training.seed)
        if predict:
            # Predicting never trains, so the train split need not be read.
            words = [word for word in config.run_type.split("_") if word != "train"]
            config.run_type = "_".join(words) or "inference"
        _check_trainer(config.training.trainer, registry.mapping["trainer_name_mapping"])
        config = build_config(configuration)
        registry.register("writer", Logger(config, name="mmf"))
        trainer = build_trainer(config)
        trainer.load()
        if predict:
            trainer.inference()
        else:
            trainer.train()
    finally:
        leave_process_group()


def _check_trainer(name: str, registered: Mapping[str, type]) -> None:
    legal = [known for known in registered if known != "base_trainer"]
    if name not in legal:
        raise CloveError(f"training.trainer={name}: no such trainer; legal are {', '.join(legal)}")


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    run()
