"""The workflow that checks pull requests on the results, and the page for contributors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from cxrzoo.cli import main
from cxrzoo.submit.bundle import Bundle
from tests.hub.server import running_hub

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "validate.yml"
PAGE = ROOT / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def job() -> dict:
    return yaml.safe_load(WORKFLOW.read_text())["jobs"]["validate"]


def test_it_has_no_secrets_and_may_only_read(job):
    text = WORKFLOW.read_text()
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
    assert "secrets." not in text
    assert "permissions" not in job


def test_what_is_typed_into_it_reaches_the_shell_as_variables_only(job):
    assert not [step for step in job["steps"] if "${{" in step.get("run", "")]


def test_actions_are_pinned_by_commit(job):
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action) for action in used)


def test_its_steps_check_a_pull_request(job, sound: Bundle, tmp_path):
    """The steps as they are, in a shell, on a bundle whose grid the package does not know."""
    with running_hub() as hub:
        repo = hub.repo("datasets/lab/results")
        repo.commit({"README.md": b"# Results\n"})
        files = {f"my-encoder/{name}": content for name, content in sound.files.items()}
        repo.commit({"README.md": b"# Results\n", **files}, "refs/pr/7")
        script = "\n".join(s["run"] for s in job["steps"] if s.get("name", "install") != "install")
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        done = subprocess.run(
            ["bash", "-euc", script],
            cwd=tmp_path,
            env={
                **kept,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HF_ENDPOINT": hub.endpoint,
                "HF_HOME": str(tmp_path / "hf"),
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_UPDATE_CHECK": "1",
                "NO_PROXY": "127.0.0.1,localhost",
                "REPOSITORY": "lab/results",
                "PULL_REQUEST": "7",
            },
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert "refused: 1 problem" in done.stderr
    assert "unknown grid 'tiny'" in done.stderr
    assert (tmp_path / "head" / "my-encoder" / "bundle.json").is_file()
    assert sorted(p.name for p in (tmp_path / "base").iterdir()) == [".cache", "README.md"]


def test_the_page_names_only_options_that_there_are():
    text = PAGE.read_text().replace("\\\n", " ")
    commands = re.findall(r"^\s*(cxrzoo (?:submit|validate) .*)$", text, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        name = command.split()[1]
        known = CliRunner().invoke(main, [name, "--help"]).output
        for option in re.findall(r"--[a-z-]+", command):
            assert option in known, command
    assert "cxrzoo validate head --base base" in text
