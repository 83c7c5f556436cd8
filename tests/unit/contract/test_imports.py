"""What the parts of the contract cost those that import them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_names_settings_and_addresses_are_read_without_mlflow() -> None:
    """MLflow takes seconds to import; only who moves aliases needs it."""
    code = (
        "import sys\n"
        "from contract import manifest, model_directory, model_types, names, signing\n"
        "from contract import standing, strict, tracking\n"
        "print('mlflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
