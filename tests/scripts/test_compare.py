"""``compare.sh`` and the demo: which scripts they run, what they say, what they do when a method fails."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from script_runs import Stage

COMPARE = "run_scripts/compare.sh"
RUN = "exp/clvqa/save/functional/setting_1_oarlks"
SRM = "distilgpt2_replay_qag_seq_not_use_gt_task_token_1.5"


def named(output: str) -> list[str]:
    """The methods in the order in which they were begun."""
    return re.findall(r"^== \d+ of \d+: (.+)$", output, re.MULTILINE)


def report(calls: list[str]) -> list[str]:
    """What the report was made of, and where it went."""
    assert calls[-1].startswith("python -m mmclvqa.evaluation.report ")
    return calls[-1].split()[3:]


def test_the_demo_is_fine_tuning_and_srm_on_clove_mini(run: Stage) -> None:
    code, calls, output = run("run_scripts/demo.sh", CLOVE_ROOT="/w")
    assert code == 0, output
    assert calls[0] == "python -m mmclvqa.clove mini /w"
    assert named(output) == ["ft", "srm_1.5"]
    trained = [call.split()[1] for call in calls if call.startswith("mmf_run")]
    assert trained[0] == "exp/clvqa/save/stand_alone/functional/unicl_object" and len(set(trained)) == 11
    (srm,) = [call for call in calls if "SRM/train.py" in call]
    assert srm.endswith("--n_train_epochs 15 @SRM/mini.args")
    sweeps = [f"{RUN}/val_{exp}/sweep.json" for exp in ("ft", SRM)]
    assert report(calls) == [*sweeps, "--out", "report/functional_oarlks"]
    code, calls, output = run("run_scripts/demo.sh", CLOVE_ROOT="/w")
    assert code == 0 and not any(call.startswith("mmf_run") or "SRM/train.py" in call for call in calls)
    assert len(calls) == 4  # clove-mini, two sweeps, the report


def test_setting_order_and_seed_come_from_the_environment(run: Stage) -> None:
    code, _, output = run("run_scripts/demo.sh", DEMO_SETTING="scene", DRY_RUN="1", SEED="7", ROOT="/r")
    assert code == 0 and "setting_1_abcdef" in output and "SRM/train.py" in output
    assert output.count("training.seed=7") == 11 + 1 + 2  # each training, the first task twice, both sweeps
    words = "".join(output.split()).replace("'", "").replace("\\", "")
    assert "@SRM/mini.args--n_train_epochs8--seed7" in words
    code, calls, _ = run("run_scripts/demo.sh", DEMO_ORDER="lkosra")
    assert code == 0 and report(calls)[-1] == "report/functional_lkosra"
    assert report(calls)[0] == "exp/clvqa/save/functional/setting_438_lkosra/val_ft/sweep.json"


def test_every_seed_has_experiments_of_its_own(run: Stage) -> None:
    for seed, name in (("", "demo"), ("7", "demo_seed_7")):
        _, _, output = run("run_scripts/demo.sh", DRY_RUN="1", SEED=seed, ROOT="")
        assert f"'env.save_dir={run.project}/runs/{name}/exp" in output


def test_all_methods_are_run_and_reported_together(run: Stage) -> None:
    code, calls, output = run(COMPARE)
    assert code == 0, output
    methods = ["chance", "ft", "ewc", "mas", "gem", "agem", "rnd_replay_0.1", "rnd_replay_0.02"]
    methods += ["maskimg_rnd_replay_0.02", "kmeans_replay_0.02", "srm_1.5", "multitask"]
    assert named(output) == methods
    *results, flag, out = report(calls)
    places = [f"{RUN}/val_{SRM if name == 'srm_1.5' else name}/sweep.json" for name in methods[1:-1]]
    multitask = "exp/clvqa/save/multitask/val_unicl_functional_incremental/sweep.json"
    assert results == ["exp/clvqa/save/chance/functional.json", *places, multitask]
    assert (flag, out) == ("--out", "report/functional_oarlks")
    trained = [call for call in calls if call.startswith("mmf_run")]
    # Nine methods train five tasks, three of them six; the first task alone; all tasks at once.
    assert len(trained) == len(set(trained)) == 10 * 5 + 3 + 1 + 1
    assert not any("mmclvqa.clove" in call for call in calls)


def test_a_method_that_fails_is_named_and_the_others_are_reported(run: Stage) -> None:
    code, calls, output = run(COMPARE, METHODS="ft mas rnd_replay_0.1", FAIL="reg_type=mas")
    assert code != 0 and output.splitlines()[-1].startswith("error: failed: mas;")
    assert [place.rpartition("/val_")[2] for place in report(calls)[:2]] == [
        "ft/sweep.json",
        "rnd_replay_0.1/sweep.json",
    ]
    code, calls, output = run(COMPARE, METHODS="ft mas rnd_replay_0.1")
    assert code == 0 and sum(call.startswith("mmf_run") for call in calls) == 6
    assert len(report(calls)) == 3 + 2


def test_where_everything_fails_there_is_no_report(run: Stage) -> None:
    code, calls, output = run(COMPARE, METHODS="ft", FAIL="config=")
    assert code != 0 and "failed: ft" in output and not any("report" in call for call in calls)


def test_methods_run_side_by_side(run: Stage) -> None:
    methods = "chance ft ewc mas srm_1.5 multitask"
    code, alone, _ = run(COMPARE, METHODS=methods)
    assert code == 0
    shutil.rmtree(run.root)
    # Each of the programs takes a moment, so that the second script finds the first one at work.
    code, calls, output = run(COMPARE, METHODS=methods, JOBS="3", SLEEP="0.1")
    assert code == 0, output
    # What is shared (the first task alone) is done once; what comes out is in the same order.
    assert sorted(calls) == sorted(alone) and report(calls) == report(alone)
    assert sorted(named(output)) == sorted(methods.split())
    trained = [call.split("/")[-2] for call in calls if call.startswith("mmf_run")]
    assert sum(one != other for one, other in zip(trained, trained[1:], strict=False)) > 10
    # The screen has the headlines, a log for each method everything.
    assert re.search(r"^\[srm_1.5\] # \[2/8\] SRM: exp/clvqa/", output, re.MULTILINE)
    log = (run.root / "report/functional_oarlks/logs/ewc.log").read_text()
    assert log.count("# [") == 7


def test_a_shared_step_is_never_taken_twice_at_once(run: Stage) -> None:
    code, calls, output = run(COMPARE, METHODS="ft gem srm_1.5", JOBS="3", SLEEP="0.3")
    assert code == 0, output
    assert calls[0].endswith("stand_alone/functional/unicl_object")
    assert sum(call.endswith("unicl_object") for call in calls) == 1
    assert output.index("[ft] # [2/7]") < output.index("== 2 of 3: gem")


def test_of_methods_side_by_side_one_may_fail(run: Stage) -> None:
    code, calls, output = run(COMPARE, METHODS="ft mas rnd_replay_0.1", FAIL="reg_type=mas", JOBS="2")
    assert code != 0 and output.splitlines()[-1].startswith("error: failed: mas;")
    assert "[mas] error: reg_type=mas" in output and len(report(calls)) == 2 + 2
    code, calls, output = run(COMPARE, METHODS="ft mas rnd_replay_0.1", JOBS="2")
    assert code == 0 and sum(call.startswith("mmf_run") for call in calls) == 6


def test_ctrl_c_ends_methods_side_by_side(run: Stage) -> None:
    process = run.start(COMPARE, METHODS="ewc mas", JOBS="2", SLEEP="3")
    deadline = time.monotonic() + 20
    while len(run.log.read_text().splitlines()) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=10) != 0
    time.sleep(4)
    assert len(run.log.read_text().splitlines()) == 2 and not list(run.root.rglob("unicl_final.pth"))


def test_a_number_of_jobs_is_a_number(run: Stage) -> None:
    code, calls, output = run(COMPARE, JOBS="two")
    assert code != 0 and not calls and output.splitlines()[-1].startswith("error: JOBS=two: ")


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"METHODS": "ft lwf"}, "method lwf: there is no run_scripts/mmclvqa/functional/F_run_lwf_S1.sh"),
        ({"METHODS": "srm_0.4"}, "method srm_0.4: there is no"),
        ({"ORDER": "skalro"}, "no scripts for task order skalro of the functional setting; python generate_run"),
        ({"SETTING": "other"}, "no scripts for task order oarlks of the other setting"),
    ],
)
def test_what_there_is_no_script_for_is_said_before_anything_runs(
    run: Stage, told: dict[str, str], message: str
) -> None:
    code, calls, output = run(COMPARE, **told)
    assert code != 0 and not calls
    assert output.splitlines()[-1].startswith(f"error: {message}")


def test_data_that_cannot_be_made_end_it_with_the_command_that_helps(run: Stage) -> None:
    code, calls, output = run("run_scripts/demo.sh", CLOVE_ROOT="/w", MINI_ARGS="--train 9", FAIL="clove mini")
    assert code != 0 and len(calls) == 1
    assert output.splitlines()[-1] == "  python -m mmclvqa.clove mini '/w' --overwrite --train 9"
    assert "error: clove mini" in output and str(run.root) in output


def left(output: str) -> list[int]:
    """The minutes that were said to be left, step by step."""
    return [int(minutes) for minutes in re.findall(r"^# about (\d+) min left of everything$", output, re.MULTILINE)]


def measured(run: Stage, *lines: str) -> Path:
    """Steps that have been measured before."""
    file = run.root / "exp/clvqa/step_seconds.tsv"
    file.parent.mkdir(parents=True)
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def test_each_step_says_how_long_is_left_of_everything(run: Stage) -> None:
    _, _, output = run(COMPARE, METHODS="ft srm_1.5", EXPECTED="train=60 srm=120 evaluate=30")
    # Eleven trainings (both methods share the first task's), SRM, two evaluations; the latter tell it themselves.
    assert left(output)[0] == 11 + 2 + 1 and len(left(output)) == 12


def test_what_was_measured_is_believed_more_than_what_was_expected(run: Stage) -> None:
    file = measured(run, "train\tft\t600", "train\tft\t3", "train\tfunctional\t60", "evaluate\tsweep\t60")
    _, _, output = run(COMPARE, METHODS="ft", EXPECTED="train=1 srm=1 evaluate=1")
    assert left(output)[0] == 1 + 5 * 10 + 1
    assert re.search(r"^train\tfunctional\t\d+$", file.read_text().split("evaluate", 1)[1], re.MULTILINE)


def test_a_step_is_believed_to_be_like_others_of_its_kind(run: Stage) -> None:
    measured(run, "train\tewc\t120", "srm\tdistilgpt2_replay\t120", "evaluate\tsweep\t60")
    _, _, output = run(COMPARE, METHODS="ft srm_1.5")
    assert left(output)[0] == 11 * 2 + 2 + 2


def test_side_by_side_the_longest_method_sets_the_end(run: Stage) -> None:
    told = {"METHODS": "ewc mas", "EXPECTED": "train=60 evaluate=60", "JOBS": "2"}
    _, _, output = run(COMPARE, **told)
    # Six trainings and an evaluation each, both at once.
    said = re.findall(r"^\[(\w+)\] # about (\d+) min left of everything$", output, re.MULTILINE)
    assert said[0] == ("ewc", "7") and ("mas", "7") in said


def test_no_time_is_guessed_where_nothing_is_known(run: Stage) -> None:
    _, _, output = run(COMPARE, METHODS="ft")
    # Until the sweep has been seen once, nobody knows how long it takes.
    assert not left(output)
