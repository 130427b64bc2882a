"""What lies beside the package: files for people who work on it, which no other test would open."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from objectness.version import __version__

ROOT = Path(__file__).parents[1]
YAML = (
    *sorted((ROOT / ".github").rglob("*.yml")),
    ROOT / ".pre-commit-config.yaml",
    ROOT / "CITATION.cff",
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_yaml_can_be_read(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_the_workflow_does_what_ci_does() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step["run"] for step in workflow["jobs"]["run"]["steps"] if "run" in step]
    assert commands == [".ci/run"]
    assert re.findall(r"^make (.*)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE) == ["check", "test"]


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert PROJECT["version"] == citation["version"] == __version__
    assert citation["license"] == PROJECT["license"]


def test_every_package_for_development_is_pinned() -> None:
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    extras = PROJECT["optional-dependencies"]
    named = {name for name in [*PROJECT["dependencies"], *extras["dev"]] if not name.startswith("objectness[")}
    names = {re.split(r"[<>=]", name)[0].lower().replace("_", "-") for name in named}
    assert names <= {name.lower().replace("_", "-") for name in pinned}


def test_files_that_contributing_names_are_there() -> None:
    named = re.findall(r"`((?:[\w-]+/)*[\w-]+(?:\.py|\.md|/))`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(named) > 10
    places = (ROOT, ROOT / "src" / "objectness", ROOT / "src" / "objectness" / "runtimes")
    assert [name for name in named if not any((place / name).exists() for place in places)] == []
