"""The command line: exit codes, one-line errors, and the JSON that scripts rely on."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs import cli
from pipeline.data.omniglot import Omniglot
from pipeline.runs import RunFolder
from tests.pipeline.data.archives import write_small_omniglot
from tests.pipeline.runs_for_tests import at_home
from tests.processes import ROOT

TINY = [
    "workers.count=0",
    "meta.steps=2",
    "meta.batch_size=2",
    "inner.num_steps=3",
    "evaluation.num_steps=3",
    "data.num_train_tasks=3",
    "data.num_test_tasks=2",
    "model.num_filters=4",
    "task.num_ways=3",
    "task.batch_size=6",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Runs of this module, which does without Ray and any server."""
    folder = tmp_path_factory.mktemp("runs")
    with at_home(folder):
        yield folder


@pytest.fixture(scope="module")
def outerloop(home):
    """Runs a command in this process; gives its exit code and what it wrote."""

    def call(*words):
        with pytest.MonkeyPatch.context() as patch:
            out, err = Captured(), Captured()
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            code = cli.run(words)
        return code, str(out), str(err)

    threads = torch.get_num_threads()
    yield call
    torch.set_num_threads(threads)


class Captured:
    """What was written, also to a console that was made before the capture began."""

    encoding = "utf-8"

    def __init__(self):
        self.parts = []

    def write(self, text):
        self.parts.append(text)
        return len(text)

    def flush(self):
        pass

    def isatty(self):
        return False

    def __str__(self):
        return "".join(self.parts)


def last_json(out):
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def trained(outerloop):
    """The run of a tiny experiment, by its JSON."""
    code, out, err = outerloop("train", "quickstart", *TINY, "--json")
    assert code == 0, err
    return last_json(out)


BAD_INPUT = {
    "unknown experiment": (["train", "quickstrat"], "did you mean 'quickstart'?"),
    "unknown section": (["train", "quickstart", "metaa.steps=3"], "did you mean 'meta'?"),
    "unknown key": (["train", "quickstart", "meta.stepz=3"], "override meta.stepz=3: unknown key"),
    "no override": (["train", "quickstart", "meta.steps"], "expected key=value"),
    "algorithm": (["train", "quickstart", "algorithm.name=maple"], "unknown meta-learner 'maple'"),
    "option": (["train", "quickstart", "algorithm.options.norms=true"], "norms"),
    "data set": (["train", "quickstart", "data.name=nope"], "data set 'nope'"),
    "type": (["train", "quickstart", "meta.steps=many"], "meta.steps=many: expected a"),
    "range": (["train", "quickstart", "inner.lr=-1"], "expected a number above 0, got -1"),
    "baseline": (["train", "quickstart", "evaluation.baselines=[magic]"], "baseline 'magic'"),
    "baseline twice": (
        ["train", "quickstart", "evaluation.baselines=[scratch,scratch]"],
        "'scratch' is there twice",
    ),
    "device": (["train", "quickstart", "workers.device=tpu"], "workers.device"),
    "blocks": (["train", "quickstart", "model.num_blocks=5"], "model.num_blocks"),
    "batch of one": (["train", "quickstart", "task.batch_size=1"], "batch-norm needs at least 2"),
    "name": (["show", "quickstart", "name=a/b"], "override name=a/b: expected at most 64 letters"),
    "endless list": (["show", "quickstart", "seed=" + 9999 * "["], "is no YAML value"),
    "ray client": (["train", "quickstart", "workers.address=ray://h:1"], "workers.address=auto"),
    "password": (["train", "quickstart", "tracking.uri=http://u:pw@h"], "MLFLOW_TRACKING_URI"),
    "token": (["train", "quickstart", "tracking.uri=http://h?token=pw"], "MLFLOW_TRACKING_URI"),
    "resumed password": (["train", "--resume", "absent", "tracking.uri=http://u:pw@h"], "absent"),
    "password elsewhere": (["show", "quickstart", "seed=http://u:pw@h"], "got 'http://***@h'"),
    "store": (["train", "quickstart", "tracking.uri=nowhere"], "expected an MLflow server"),
    "no experiment": (["train"], "expected EXPERIMENT"),
    "missing file": (["show", "absent.yaml"], "absent.yaml: cannot be read"),
    "unknown run": (["evaluate", "absent"], "unknown run 'absent'"),
    "resume unknown run": (["train", "--resume", "absent"], "unknown run 'absent'"),
    "no run": (["compare", str(ROOT)], "is no run"),
    "fetch": (["data", "fetch", "nope"], "data set 'nope'"),
    "unknown command": (["trian"], "trian"),
    "unknown option": (["train", "--bogus"], "--bogus"),
    "port": (["ui", "--port", "0"], "--port"),
    "missing argument": (["evaluate"], "RUN"),
    "missing subcommand": (["data"], "outerloop --help"),
}


@pytest.mark.parametrize(("words", "said"), BAD_INPUT.values(), ids=list(BAD_INPUT))
def test_bad_input_is_one_line_and_exit_2(words, said, outerloop, home):
    before = sorted(os.listdir(home))
    code, out, err = outerloop(*words, "--json")
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert "pw" not in err
    assert last_json(out) == {"error": err.removeprefix("error: ").strip(), "exit_code": 2}
    assert sorted(os.listdir(home)) == before


def test_an_address_without_a_cluster_is_bad_input(outerloop):
    code, _, err = outerloop("train", "quickstart", "workers.address=127.0.0.1:1", "--json")
    starting, error = err.splitlines()
    assert (code, starting) == (2, "starting 2 workers…")
    assert "no Ray cluster answers there" in error


@pytest.mark.ray
def test_ray_that_cannot_start_here_has_failed_and_no_address_is_to_blame(home, tmp_path):
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "train", "quickstart"],
        cwd=ROOT, env={**os.environ, "RAY_TMPDIR": str(tmp_path / "file")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: Ray could not start: ")
    assert done.stderr.endswith("workers.count=0 runs without it\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_bad_input(outerloop):
    code, _, err = outerloop("train", "quickstart", "workers.count=0", "workers.device=cuda")
    assert (code, err.count("\n")) == (2, 1)
    assert "torch sees 0 GPU(s)" in err


def anchors(start, opening, again, closing):
    """A text of nine lines, each of which repeats the one before it eight times."""
    lines = [f"a0: &a0 {start}"]
    for here in range(1, 9):
        items = ", ".join(again.format(key, here - 1) for key in range(8))
        lines.append(f"a{here}: &a{here} {opening}{items}{closing}")
    return "\n".join(lines).encode()


NO_YAML = {
    "open bracket": b"a: [",
    "a list": b"- 1",
    "nothing": b"",
    "no text": b"\xff\xfe\x00",
    "an object": b"seed: !!python/object:os.system {}",
    "mappings that repeat one another": anchors("{x: 1}", "{", "x{}: *a{}", "}"),
    "lists that repeat one another": anchors("[1]", "[", "*a{1}", "]"),
    "merges of one another": anchors("{x: 1}", "{<<: [", "*a{1}", "]}"),
}


@pytest.mark.parametrize("content", NO_YAML.values(), ids=list(NO_YAML))
def test_yaml_that_is_none_is_refused(content, outerloop, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    code, _, err = outerloop("train", str(path))
    assert (code, err.count("\n")) == (2, 1)
    assert str(path) in err


def test_missing_data_says_how_to_get_it(outerloop, tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_DATA", str(tmp_path))
    code, _, err = outerloop("train", "leap-omniglot")
    assert (code, err.count("\n")) == (2, 1)
    assert "outerloop data fetch omniglot" in err


def test_home_that_cannot_be_written_is_one_line(outerloop, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "file"))
    code, _, err = outerloop("train", "quickstart", *TINY)
    assert (code, err.count("\n")) == (2, 1)
    assert "OUTERLOOP_HOME" in err


def test_interrupt_is_exit_130(outerloop, monkeypatch):
    def interrupted(console):
        raise KeyboardInterrupt

    monkeypatch.setattr("jobs.datasets.show", interrupted)
    code, out, err = outerloop("data", "list", "--json")
    assert (code, err) == (130, "error: interrupted\n")
    assert last_json(out) == {"error": "interrupted", "exit_code": 130}


def sigterm_handler():
    """Exits as Ray's handler of that name does once its processes stand."""
    sys.exit(1)


def exits_with(code):
    return lambda: sys.exit(code)


BEFORE = "interrupted by SIGTERM before the run began"
EXITS = {
    "Ray's early handler": (exits_with(signal.SIGTERM), 130, BEFORE),
    "Ray's late handler": (sigterm_handler, 130, BEFORE),
    "as a shell counts signals": (exits_with(143), 130, BEFORE),
    "by name": (exits_with("The process receives a SIGTERM."), 130, BEFORE),
    "of the contract": (exits_with(2), 2, "ended with exit code 2"),
    "of no contract": (exits_with(7), 1, "ended with exit code 7"),
    "with a line": (exits_with("no way on"), 1, "no way on"),
}


@pytest.mark.parametrize(("leave", "code", "line"), EXITS.values(), ids=list(EXITS))
def test_exit_from_below_has_a_line_and_a_code_of_the_contract(
    leave, code, line, outerloop, monkeypatch
):
    monkeypatch.setattr("jobs.datasets.show", lambda console: leave())
    got, out, err = outerloop("data", "list", "--json")
    assert (got, err) == (code, f"error: {line}\n")
    assert last_json(out) == {"error": line, "exit_code": code}


def test_train_reports_the_contract(trained, home):
    keys = "run_id run_dir mlflow_run_id outer_steps inner_steps wall_s parameters_sha256 final"
    assert set(keys.split()) <= trained.keys()
    assert trained["outer_steps"] == 2
    assert trained["inner_steps"] == 2 * 2 * 3
    assert trained["run_dir"] == str(home / trained["run_id"])
    assert set(trained["final"]["auc"]) >= {"mean", "ci95", "tasks"}
    assert list(trained["baselines"]) == ["scratch"]
    assert os.path.getsize(trained["plot"]) > 1000


def test_evaluate_reports_the_same_figures_as_train(trained, outerloop):
    code, out, _ = outerloop("--json", "evaluate", trained["run_id"])
    methods = last_json(out)["methods"]
    assert code == 0
    assert methods == {"leap": trained["final"], **trained["baselines"]}


def test_resume_goes_on_to_the_longer_budget(outerloop):
    _, out, _ = outerloop("train", "quickstart", *TINY, "name=longer", "--json")
    run = last_json(out)
    code, out, _ = outerloop("train", "--resume", "longer", "meta.steps=3", "--json")
    again = last_json(out)
    assert (code, again["outer_steps"], again["run_id"]) == (0, 3, run["run_id"])
    assert again["mlflow_run_id"] == run["mlflow_run_id"]
    assert outerloop("train", "--resume", "longer", "inner.lr=0.5")[0] == 2


def test_compare_shows_every_method_once(trained, outerloop):
    other = [*TINY, "algorithm.name=reptile"]
    _, out, _ = outerloop("train", "quickstart", *other, "--json")
    ids = [trained["run_id"], last_json(out)["run_id"]]
    code, out, _ = outerloop("compare", *ids, "--json")
    result = last_json(out)
    assert code == 0
    assert result["runs"] == ids
    assert list(result["methods"]) == ["leap", "reptile", "scratch"]
    code, out, _ = outerloop("compare", *ids)
    assert [line for line in out.splitlines() if len(line) > 80 and "plot:" not in line] == []
    for method in result["methods"]:
        assert f"│ {method}" in out


def test_plain_output_of_train_says_where_to_look(outerloop, home):
    code, out, err = outerloop("train", "quickstart", *TINY, "seed=5")
    assert (code, err) == (0, "")
    for text in ("step 2/2", "inner steps/s", "tasks in flight", "ETA", "outer grad", "loss"):
        assert text in out
    for text in ("scratch", str(home), "meta-test.png", "outerloop ui"):
        assert text in out


def test_experiments_list_is_quick_and_needs_no_torch():
    script = (
        "import sys; from jobs import cli; cli.run(['experiments']); print('torch' in sys.modules)"
    )
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "quickstart" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
    assert time.monotonic() - begun < 30  # a second or so on an idle machine


def test_real_command_exits_with_its_code():
    command = [sys.executable, "-m", "jobs.cli"]
    done = subprocess.run(
        [*command, "--json", "show", "nope"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown experiment 'nope'")
    assert "Traceback" not in done.stderr
    assert last_json(done.stdout)["exit_code"] == 2


def test_data_list_says_what_is_there(outerloop, tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_DATA", str(tmp_path))
    code, out, _ = outerloop("data", "list", "--json")
    sets = last_json(out)["datasets"]
    assert code == 0
    assert sets["glyphs"]["present"]
    assert not sets["omniglot"]["present"]


def test_data_list_says_which_whole_data_sets_are_there(outerloop, tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_DATA", str(tmp_path))
    pictures = pa.table(
        {"image": [b"", b"", b""], "label": [0, 1, 0], "class_name": ["cat", "dog", "cat"]}
    )
    for name in ("mnist", "usps"):
        (tmp_path / name).mkdir()
    pq.write_table(pictures, tmp_path / "mnist" / "train.parquet")
    (tmp_path / "usps" / "train.parquet").write_bytes(b"torn")
    code, out, _ = outerloop("data", "list", "--json")
    sets = last_json(out)["image_sets"]
    assert code == 0
    assert (sets["mnist"]["num_images"], sets["mnist"]["num_classes"]) == (3, 2)
    assert sets["mnist"]["present"]
    assert not sets["usps"]["present"]
    assert "is no Parquet file" in sets["usps"]["problem"]
    assert str(tmp_path / "cifar10" / "train.parquet") in sets["cifar10"]["problem"]


def test_data_fetch_prints_and_reports_the_sha256_of_each_file(outerloop, tmp_path, monkeypatch):
    wanted = {"images_background.zip": {"Greek": 2}, "images_evaluation.zip": {"Angelic": 1}}
    monkeypatch.setattr(Omniglot, "alphabets", wanted)
    monkeypatch.setenv("OUTERLOOP_DATA", str(tmp_path / "root"))
    source = write_small_omniglot(tmp_path / "source")
    code, out, err = outerloop("data", "fetch", "omniglot", "--from", str(source))
    assert (code, err) == (0, "")
    files = last_json(outerloop("--json", "data", "fetch", "omniglot")[1])["files"]
    for file, line in zip(files, out.splitlines(), strict=True):
        digest = hashlib.sha256((source / Path(file["path"]).name).read_bytes()).hexdigest()
        assert line.endswith(f"SHA-256 {digest}")
        assert file["sha256"] == digest


def test_ui_without_runs_or_with_a_server_elsewhere(outerloop, tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path))
    code, _, err = outerloop("ui")
    assert (code, err.count("\n")) == (2, 1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    code, out, _ = outerloop("ui")
    assert code == 0
    assert "http://mlflow.example:5000" in out


def test_json_leaves_progress_to_stderr(outerloop):
    code, out, err = outerloop("--json", "train", "quickstart", *TINY, "seed=6")
    assert (code, out.count("\n")) == (0, 1)
    assert "step 2/2" in err
    assert "meta-test 4/4" in err


def test_log_holds_command_versions_host_progress_warnings_and_result(trained, home):
    log = (home / trained["run_id"] / "log.txt").read_text()
    for text in ("command: ", "outerloop 0.", "torch ", "ray ", "mlflow ", "host: ", "step 2/2"):
        assert text in log
    for method in ("leap", "scratch"):
        assert f"meta-test of {method}: auc 0." in log
    assert all(line[:4].isdigit() for line in log.splitlines())


def test_resume_says_where_it_goes_on(outerloop, trained):
    code, out, _ = outerloop("train", "--resume", trained["run_id"])
    assert code == 0
    assert f"run {trained['run_id']} is finished (2 outer steps)" in out
    code, out, _ = outerloop("train", "--resume", trained["run_id"], "meta.steps=3")
    assert "goes on from outer step 2 of 3" in out


def test_a_budget_that_ended_a_run_is_told_of_in_the_last_line(outerloop):
    code, out, _ = outerloop("train", "quickstart", *TINY, "meta.max_inner_steps=1")
    assert code == 0
    last = out.splitlines()[-1]
    assert last.startswith("ended by meta.max_inner_steps=1 after 1 of 2 outer steps; to train on:")
    assert last.endswith("meta.max_inner_steps=12")


def test_no_outer_steps_is_said_to_train_nothing(outerloop):
    code, out, _ = outerloop("train", "quickstart", *TINY[:1], *TINY[2:], "meta.steps=0")
    assert code == 0
    assert "meta.steps=0: nothing is trained" in out


def test_runs_are_listed_with_their_states(outerloop, tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path))
    assert last_json(outerloop("runs", "--json")[1]) == {"runs": []}
    ids = [
        last_json(outerloop("train", "quickstart", *TINY, f"name={name}", "--json")[1])["run_id"]
        for name in ("finished", "unfinished", "damaged", "running")
    ]
    budget = ("name=budget", "meta.max_inner_steps=1")
    ids.append(last_json(outerloop("train", "quickstart", *TINY, *budget, "--json")[1])["run_id"])
    (tmp_path / ids[1] / "summary.json").unlink()
    (tmp_path / ids[2] / "config.yaml").write_text("algorithm: 3")
    with RunFolder(tmp_path / ids[3]).locked():
        code, out, _ = outerloop("runs", "--json")
    rows = {row["run_id"]: row for row in last_json(out)["runs"]}
    assert code == 0
    states = ["finished", "unfinished", "damaged", "running", "finished"]
    assert [rows[i]["state"] for i in ids] == states
    assert rows[ids[4]]["ended_by"] == "meta.max_inner_steps"
    assert "finished by meta.max_inner_steps" in " ".join(outerloop("runs")[1].split())
    first = rows[ids[0]]
    assert (first["experiment"], first["method"]) == ("finished", "leap")
    assert (first["outer_steps"], first["num_outer_steps"]) == (2, 2)
    assert ids[0] in outerloop("runs")[1]


def test_mlflow_has_a_log_that_says_how_the_run_ended(trained, home):
    (path,) = home.glob(f"mlartifacts/**/{trained['mlflow_run_id']}/**/log.txt")
    log = path.read_text()
    assert log.count("INFO ended well at outer step") == log.count("INFO command: ") > 0


def test_a_mistake_of_ours_is_in_the_log_with_its_place(outerloop, monkeypatch, home):
    monkeypatch.setattr(RunFolder, "write_summary", lambda *_: 1 / 0)
    code, _, err = outerloop("train", "quickstart", *TINY, "name=mistaken")
    assert code == 1
    assert "ZeroDivisionError" in err
    (run,) = home.glob("mistaken-*")
    log = (run / "log.txt").read_text()
    assert "INFO ended: division by zero\nTraceback (most recent call last)" in log


def test_an_error_of_the_system_without_a_word_is_told_by_its_name(outerloop, monkeypatch):
    def no_answer(*_):
        raise TimeoutError

    monkeypatch.setattr(RunFolder, "write_summary", no_answer)
    code, _, err = outerloop("train", "quickstart", *TINY, "name=timeout")
    line = "error: TimeoutError; checkpoint at outer step 2; go on with: outerloop train --resume"
    assert code == 1
    assert err.startswith(line)  # no advice about the disk


def test_full_disk_names_path_and_way_on(outerloop, monkeypatch):
    """A file that cannot be written at the run's end; what was trained is in a checkpoint."""
    monkeypatch.setattr(RunFolder, "write_summary", lambda *_: os.write(full.fileno(), b"x"))
    with open("/dev/full", "wb", buffering=0) as full:
        code, _, err = outerloop("train", "quickstart", *TINY, "name=full")
    assert (code, err.count("\n")) == (1, 1)
    assert "full-" in err
    assert "No space left on device" in err
    assert "checkpoint at outer step 2; go on with: outerloop train --resume full-" in err


def test_version_and_short_help(capfd):
    assert cli.run(["--version"]) == 0
    assert capfd.readouterr().out.startswith("outerloop 0.")
    for words in (["-h"], ["train", "-h"]):
        assert cli.run(words) == 0
        assert "Usage" in capfd.readouterr().out


@pytest.fixture
def nobody():
    """A pipe to write to, whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def real_command(*words, **streams):
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *words], cwd=ROOT, text=True, check=False, **streams
    )


@pytest.mark.parametrize("words", ["show quickstart", "show quickstart --json", "--help"])
def test_a_reader_that_has_gone_is_no_error(words, nobody):
    done = real_command(*words.split(), stdout=nobody, stderr=subprocess.PIPE)
    assert done.returncode == 0
    assert "error:" not in done.stderr.lower()


def test_training_goes_on_when_its_reader_has_gone(nobody, home):
    words = ("train", "quickstart", *TINY, "name=unread")
    done = real_command(*words, stdout=nobody, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")
    (run,) = home.glob("unread-*")
    assert RunFolder(run).read_summary()["counts"]["outer_steps"] == 2
    assert "ended well at outer step 2" in (run / "log.txt").read_text()


def test_the_result_is_printed_when_the_reader_of_the_progress_has_gone(nobody):
    words = ("train", "quickstart", *TINY, "--json")
    done = real_command(*words, stderr=nobody, stdout=subprocess.PIPE)
    assert (done.returncode, last_json(done.stdout)["outer_steps"]) == (0, 2)


def test_an_error_that_nobody_reads_has_its_exit_code(nobody):
    done = real_command("show", "absent", stderr=nobody, stdout=subprocess.PIPE)
    assert done.returncode == 2


def in_a_shell(command):
    """Run the command line with the streams that it names."""
    return subprocess.run(
        ["sh", "-c", f'"$0" -m jobs.cli {command}', sys.executable],
        cwd=ROOT, text=True, check=False, capture_output=True,
    )  # fmt: skip


@pytest.mark.parametrize("command", ["runs >&-", "runs <&- >&- 2>&-", "--help >&-"])
def test_a_stream_that_is_closed_takes_all_in_silence(command, home):
    done = in_a_shell(command)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("command", ["runs", "runs --json 2>&1 >/dev/full", "--help", "--version"])
def test_a_full_disk_under_the_standard_output_is_named(command, home):
    command = command if ">" in command else f"{command} >/dev/full"
    done = in_a_shell(command)
    line = "error: standard output: No space left on device\n"
    assert done.returncode == 1
    assert (done.stdout + done.stderr).endswith(line)
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_error_keeps_its_code_where_it_cannot_be_said():
    assert in_a_shell("show absent 2>/dev/full").returncode == 2
    done = in_a_shell("show absent --json >/dev/full")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "unknown experiment 'absent'" in done.stderr


def test_evaluate_refuses_a_damaged_summary_before_the_meta_test(trained, outerloop):
    summary = Path(trained["run_dir"]) / "summary.json"
    whole = summary.read_bytes()
    summary.write_text("{")
    for words in (["evaluate", trained["run_id"]], ["train", "--resume", trained["run_id"]]):
        code, out, err = outerloop(*words)
        assert (code, out) == (2, "")  # not one line of progress
        assert err.startswith(f"error: {summary}: is no JSON")
    summary.write_bytes(whole)


def test_evaluate_names_a_damaged_checkpoint_once(trained, outerloop):
    newest = max((Path(trained["run_dir"]) / "checkpoints").glob("step-*"))
    longer = f"meta.steps={int(newest.name[5:]) + 1}"
    code, _, err = outerloop("train", "--resume", trained["run_id"], longer)
    assert code == 0, err
    newest = max((Path(trained["run_dir"]) / "checkpoints").glob("step-*"))
    (newest / "manifest.json").write_text("{}")
    code, out, err = outerloop("evaluate", trained["run_id"])
    assert code == 0, err
    log = (newest.parent.parent / "log.txt").read_text()
    assert "is damaged" not in log  # before the run's log is open it is told, and not once more
    assert (out + err).count("is damaged") <= 1
