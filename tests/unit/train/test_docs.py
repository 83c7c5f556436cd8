"""What docs/training.md shows can be used as it is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml

from train.__main__ import _parse
from train.settings import TrainSettings

TEXT = (Path(__file__).parents[3] / "docs" / "training.md").read_text()


def test_settings_shown_are_valid() -> None:
    """The example for one's own data has no misspelt key."""
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert TrainSettings.model_validate(yaml.safe_load(block)).task == "classification"


def test_commands_shown_are_understood() -> None:
    """Every command line in the document parses; the integration tests run their like."""
    lines = re.findall(r"^python -m train.*$", TEXT, re.MULTILINE)
    given = [_parse(shlex.split(line, comments=True)[3:]) for line in lines]
    assert [arguments.command for arguments in given] == ["run", "run", "promote", "rollback"]
