"""``python -m mmclvqa.experiments run``: run experiments with Snakemake and compare their results."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.experiment_paths import MODEL
from mmclvqa.clove.files import write_json
from mmclvqa.clove.tasks import SETTINGS, setting_names
from mmclvqa.clove.text import INTERRUPTED, run_command
from mmclvqa.experiments import planning
from mmclvqa.experiments.costs import cost_lines
from mmclvqa.experiments.finished import PROJECT, check_prompts, unfinished, warnings_of
from mmclvqa.experiments.profiles import JobSharing, job_sharing, profile_folder, profile_runtimes, read_profile
from mmclvqa.experiments.progress import Journal
from mmclvqa.experiments.root import (
    GPU,
    check_device,
    check_root,
    config_folder,
    make_mini,
    read_preset,
    shell_exports,
    step_variables,
)
from mmclvqa.experiments.scripts import command
from mmclvqa.experiments.steps import DEFAULT_METHODS, Step
from mmclvqa.user_code import import_user_code

WORKFLOW = Path(__file__).parent / "workflow"
INSTALL = "pip install -r workflow_requirements.txt"
CONFIG = PROJECT / "EXP_CONFIG"
MINI = CONFIG / "mini"
"""Configuration files of clove-mini, which is generated for them."""
PROGRAMS = Path(sys.executable).parent
"""Folder that comes first in ``PATH``, so that steps use this environment's ``mmf_run`` and ``python``."""
POLL_SECONDS = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0; 1 after a failed step or an error; 130 after Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    end = argv.index("--") if "--" in argv else len(argv)
    args = _parser().parse_args(argv[:end])
    return run_command(lambda: _run(args, argv[end + 1 :]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mmclvqa.experiments", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run", help="run experiments", epilog="Arguments after -- are passed to Snakemake unchanged."
    )
    run.add_argument("--setting", nargs="+", default=[], help=f"names or YAML files (default: {SETTINGS[0]})")
    run.add_argument("--order", nargs="+", default=[], help="task orders (default: the first reported one)")
    run.add_argument(
        "--method",
        nargs="+",
        default=[],
        metavar="NAME[:SETTING=VALUE,...]",
        help="methods with their settings; NAME+NAME combines two (default: those of the published comparison, plus "
        "more_methods in workflow.yaml)",
    )
    run.add_argument("--seed", nargs="+", type=int, default=[], help="run all experiments with each of these seeds")
    run.add_argument("--grid", metavar="paper|FILE.yaml", help="run the published comparison, or the blocks of a file")
    run.add_argument("--config", default=str(CONFIG), help="folder of configuration files (default: EXP_CONFIG)")
    run.add_argument("--model", default=MODEL, metavar="NAME", help=f"registered answer model (default: {MODEL})")
    run.add_argument(
        "--user_dir", default=os.environ.get("MMF_USER_DIR"), metavar="PATH",
        help="Python file or package with custom methods and models (default: $MMF_USER_DIR)",
    )  # fmt: skip
    run.add_argument("--cores", type=int, help="steps to run in parallel on this machine (default: cores, at most 4)")
    run.add_argument("--gpus", help="GPUs to distribute steps to, such as 0,1,2,3 (0,0: two steps per GPU)")
    run.add_argument("--profile", help="Snakemake profile: a folder, or a name in profiles/")
    run.add_argument("--dry-run", action="store_true", help="print the commands of all unfinished steps")
    return parser


def _run(args: argparse.Namespace, extra: list[str]) -> int:
    if args.user_dir:
        import_user_code(args.user_dir)
    gpus, profile = _checked(args), profile_folder(args.profile or "local")
    profile_values = read_profile(profile)
    jobs = profile_values.get("jobs")
    parallel = jobs if isinstance(jobs, int) else max(args.cores or min(os.cpu_count() or 1, 4), len(gpus))
    config = config_folder(args.config, "--config ")
    is_mini = config.resolve() == MINI
    root = Path(os.environ.get("ROOT") or PROJECT / "runs" / ("demo" if is_mini else "clvqa")).absolute()
    data = Path(os.environ.get("CLOVE_ROOT") or PROJECT / ("runs/clove-mini" if is_mini else "data/clove")).absolute()
    setting_names(data)
    check_device()
    variables = step_variables(config) | {
        "ROOT": str(root), "CLOVE_ROOT": str(data), "CONFIG": str(config),
        "DEVICE": gpus[0] if gpus else os.environ.get("DEVICE", "0"),
    }  # fmt: skip
    if args.user_dir:
        variables["MMF_USER_DIR"] = str(Path(args.user_dir).absolute())
    runs = _runs(args, read_preset(config).get("more_methods", []))
    steps = planning.plan(runs)
    pending, older = unfinished(steps, root)
    for file in dict.fromkeys(step.arguments[0] for step in pending if step.arguments[0].startswith("config=")):
        name = file.removeprefix("config=$CONFIG/")
        if not (config / name).is_file():
            raise ConfigError(f"--config {args.config}: there is no file {config / name}; choose another folder")
    search_path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    is_submitted = profile_values.get("executor") == "slurm" and not args.dry_run
    if is_submitted and not shutil.which("sbatch", path=search_path):
        raise ConfigError(f"{profile}: its jobs are submitted to SLURM, but this machine has no program sbatch")
    sharing = job_sharing(profile)
    if importlib.util.find_spec("snakemake"):
        if args.profile or extra:
            _check_snakemake(["--profile", str(profile), *extra])
    elif not args.dry_run:
        raise ConfigError(f"running experiments needs Snakemake: {INSTALL}")
    if is_mini and not args.dry_run:
        make_mini(data)
    if data.is_dir() or not args.dry_run:
        check_root(root, data, mark=not args.dry_run)
    if data.is_dir():
        check_prompts(pending, variables)
        for line in warnings_of(steps, pending, older, root, variables):
            print(f"warning: {line}", file=sys.stderr)
    if args.dry_run:
        if pending:
            print(f"# variables and folder of the commands, for bash\n{shell_exports(variables)}")
            print(f"export PATH={shlex.quote(str(PROGRAMS))}:$PATH\ncd {shlex.quote(str(PROJECT))}\n")
        print("\n\n".join(f"# {step.title}\n{command(step)}" for step in pending), end="\n\n")
        # The minutes of profiles/local are those of CLOVE with the published configuration.
        runtimes = {} if config.resolve() != CONFIG and not args.profile else profile_runtimes(profile)
        lines = cost_lines(pending, Journal(root), runtimes, f"profile {profile.name}", parallel)
        if sharing.steps_per_job > 1:
            repeated = set(pending)
            num_jobs = sum(not repeated.isdisjoint(group) for group in planning.job_groups(steps, sharing))
            lines.append(f"{num_jobs} jobs of at most {sharing.steps_per_job} steps")
        for line in lines:
            print(f"# {line}")
        return 0
    code = 0
    for output in (root / planning.below_root(step.output) for step in pending):
        if output.is_file():  # Snakemake would not run the step
            output.unlink()
    if pending:
        environment = variables | {
            "GPUS": " ".join(gpus), "PROFILE": str(profile / "config.yaml"), "PROJECT": str(PROJECT),
            "PATH": search_path,
        }  # fmt: skip
        if args.cores or not args.profile:
            extra = ["--cores", str(parallel), *extra]
        code = _snakemake(["--profile", str(profile), *extra], environment, root, steps, sharing, parallel)
    return max(code, _report(runs, root, data, variables.get("MMF_USER_DIR")))


def _checked(args: argparse.Namespace) -> list[str]:
    """Return the GPUs, after a check of all arguments that are numbers."""
    if args.cores is not None and args.cores < 1:
        raise ConfigError(f"--cores {args.cores}: must be a whole number above 0")
    for seed in args.seed:
        if not 0 <= seed <= planning.MAX_SEED:
            raise ConfigError(f"--seed {seed}: must be a whole number from 0 to {planning.MAX_SEED}")
    gpus = (args.gpus or "").replace(",", " ").split()
    if wrong := [gpu for gpu in gpus if not GPU.fullmatch(gpu)]:
        raise ConfigError(f"--gpus {args.gpus}: {wrong[0]} is not a GPU; give numbers, such as 0,1, or names (GPU-...)")
    return gpus


def _check_snakemake(arguments: list[str]) -> None:
    """Check arguments of Snakemake and the options of a profile.

    Raises:
        ConfigError: Snakemake refuses them.
    """
    code = "import sys; from snakemake.cli import parse_args; parse_args(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2].partition("error: ")
        raise ConfigError(f"Snakemake refuses its arguments or the profile: {reason[2] or reason[0]}")


def _runs(args: argparse.Namespace, more_methods: list[str]) -> list[planning.Run]:
    if args.grid:
        unusable = ["setting", "order", "method", *([] if args.grid == "paper" else ["seed"])]
        if unused := [f"--{name}" for name in unusable if getattr(args, name)]:
            raise ConfigError(f"{' and '.join(unused)}: --grid {args.grid} determines this; leave it out")
        if args.grid == "paper":
            return planning.paper_runs(args.seed, [args.model])
        return planning.grid_runs(args.grid, [args.model])
    methods = args.method or [*DEFAULT_METHODS, *more_methods]
    return planning.runs_of(args.setting or SETTINGS[:1], args.order, methods, args.seed, [args.model])


def _snakemake(
    arguments: list[str],
    environment: dict[str, str],
    root: Path,
    steps: Sequence[Step],
    sharing: JobSharing,
    parallel: int,
) -> int:
    """Run the workflow, show its progress and return the exit code."""
    # Jobs of a cluster read the plan when they start. Its name depends on its content, because another workflow may use
    # the same folder; it is relative, because Snakemake reads the value as YAML.
    journal = Journal(root)
    content = {"steps": planning.as_json(steps, sharing)}
    plan = journal.folder / f"plan_{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}.json"
    write_json(plan, content)
    kinds = {planning.below_root(step.output): step.kind for step in steps}
    command_line = [
        sys.executable, "-m", "mmclvqa.experiments.run_snakemake", "--snakefile", str(WORKFLOW / "Snakefile"),
        "--directory", str(root), "--quiet", "host", "progress", "reason", "rules",
        "--config", f"plan={plan.relative_to(root)}", *arguments,
    ]  # fmt: skip
    environment = os.environ | environment | {"JOURNAL": str(journal.path)}
    in_jobs = f" in {len(planning.job_groups(steps, sharing))} jobs" if sharing.steps_per_job > 1 else ""
    print(f"{len(kinds)} steps{in_jobs}; the log of each step is beside its output in {root}", flush=True)
    with TemporaryFile() as stderr:
        process = subprocess.Popen(command_line, env=environment, stdout=subprocess.DEVNULL, stderr=stderr)
        try:
            while process.poll() is None:
                journal.show_news(kinds, parallel)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_SECONDS)
        except KeyboardInterrupt:
            process.wait()
            print("interrupted; run the same command to resume", file=sys.stderr)
            return INTERRUPTED
        journal.show_news(kinds, parallel)
        if not process.returncode:
            return 0
        failures = journal.failures(kinds)
        if not failures:
            stderr.seek(0)
            message = stderr.read().decode(errors="replace").strip()[-2000:]
            print(f"{message}\nerror: Snakemake ended with exit code {process.returncode}", file=sys.stderr)
    for line in failures:
        print(f"error: {line}", file=sys.stderr)
    return 1


def _report(runs: Sequence[planning.Run], root: Path, data: Path, user_dir: str | None) -> int:
    """Write one HTML report per setting, order and model that compares the finished runs; return the exit code."""
    pages: dict[str, list[Path]] = {}
    for run in runs:
        setting, order, model = run.experiment.setting, run.experiment.order, run.experiment.model
        name = f"{setting}_{order}" + ("" if model == MODEL else f"_{model}")
        pages.setdefault(name, []).append(root / run.result)
    environment, code = os.environ | {"CLOVE_ROOT": str(data)}, 0
    for name, results in pages.items():
        files = [str(file) for file in dict.fromkeys(results) if file.exists()]
        if files:
            out = str(root / "report" / name)
            command_line = [sys.executable, "-m", "mmclvqa.evaluation.report", *files, "--out", out]
            command_line += ["--user_dir", user_dir] if user_dir else []
            done = subprocess.run(command_line, cwd=PROJECT, env=environment, check=False)
            code = max(code, done.returncode)
    return code


if __name__ == "__main__":
    sys.exit(main())
