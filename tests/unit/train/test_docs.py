"""What docs/training.md shows can be used as it is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml

from train.settings import TrainSettings

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "training.md").read_text()


def test_settings_shown_are_valid() -> None:
    """The example for one's own data has no misspelt key."""
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert TrainSettings.model_validate(yaml.safe_load(block)).task == "classification"


def test_commands_shown_have_their_target_and_settings() -> None:
    """Every `make` line names a target of the Makefile, and a file that is there by CONFIG."""
    (block,) = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in block.splitlines():
        make, target, *variables = shlex.split(line)
        assert (make, target in targets) == ("make", True), line
        for variable in variables:
            name, _, value = variable.partition("=")
            assert name != "CONFIG" or (ROOT / value).is_file(), line
