"""Starts many runs of two processes quickly, by forking.

As a script, ``forked_runs.py PROGRAM LIMIT PORTS [argument ...]``, it imports the libraries of ``mmf_run`` or SRM once
and forks two processes for each run. Each process executes the complete command line as under torchrun, with its rank
in the environment and the store at the port of the run. The exit codes of each run are printed in one line. After
LIMIT seconds, the processes of a run write their stacks and are aborted.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

PROCESSES = 2
RUN = "{run}"
"""Placeholder for the number of the run in arguments."""
LIMIT = 60
"""Time limit of a run in seconds; it normally takes a few seconds."""


def many_runs(program: str, runs: int, arguments: list[str], busy: bool = False) -> list[tuple[int, ...]]:
    """Return the exit codes of the two processes of each run of ``mmf_run`` or SRM.

    Args:
        program: ``mmf_run`` or ``SRM``.
        runs: number of runs.
        arguments: arguments of the command line, see :data:`RUN`.
        busy: whether to keep two cores busy during the runs.
    """
    from torch.distributed import TCPStore

    stores = [TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in range(runs)]
    ports = ",".join(str(store.port) for store in stores)
    root = Path(__file__).resolve().parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 if busy else 0)]
    try:
        command = [sys.executable, __file__, program, str(LIMIT), ports, *arguments]
        done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    print(done.stdout[-20000:], done.stderr[-20000:], sep="\n")
    exit_code_lists = re.findall(r"^run \d+: exit codes \[(.+)\]", done.stdout, re.MULTILINE)
    return [tuple(map(int, codes.split(", "))) for codes in exit_code_lists]


def load(program: str) -> None:
    """Import the slow libraries before forking."""
    if program == "mmf_run":
        import mmclvqa.cli  # noqa: F401, I001
        from mmf.utils.build import build_trainer  # noqa: F401
    else:
        import SRM.run  # noqa: F401


def start(program: str, arguments: list[str], rank: int, port: str) -> int:
    """Fork a process of a run and return its process ID."""
    pid = os.fork()
    if pid:
        return pid
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(PROCESSES), "LOCAL_WORLD_SIZE": str(PROCESSES)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    sys.argv = [program, *arguments]
    if program == "mmf_run":
        from mmclvqa import cli

        sys.exit(cli.run())
    else:
        from mmclvqa.process_exit import run_program
        from SRM.train import main

        run_program(lambda: main(arguments))


def exit_codes(pids: list[int], limit: float) -> list[int]:
    """Return the exit codes of processes (negative: signal), which are aborted after ``limit`` seconds."""
    codes: dict[int, int] = {}
    deadline = time.monotonic() + limit
    overdue = False
    while len(codes) < len(pids):
        for pid in set(pids) - set(codes):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
            elif overdue or time.monotonic() > deadline:
                os.kill(pid, signal.SIGABRT)
        overdue = overdue or time.monotonic() > deadline
        time.sleep(0.02)
    return [codes[pid] for pid in pids]


def main(program: str, limit: float, ports: list[str], arguments: list[str]) -> None:
    faulthandler.enable()
    load(program)
    for run, port in enumerate(ports):
        words = [word.replace(RUN, str(run)) for word in arguments]
        began = time.monotonic()
        pids = [start(program, words, rank, port) for rank in range(PROCESSES)]
        codes = exit_codes(pids, limit)
        print(f"run {run}: exit codes {codes}, {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    name, limit, ports, *arguments = sys.argv[1:]
    main(name, float(limit), ports.split(","), arguments)
