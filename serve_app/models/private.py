"""A directory that belongs to this user alone: what is served is kept in it."""

import os
from pathlib import Path
from typing import Final

from serve_app.model_errors import ModelError

OWNER_ONLY: Final = 0o700


def own(directory: Path) -> None:
    """Make it, readable by its owner only. Raises ModelError if it is another user's."""
    try:
        directory.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
        owner = directory.stat().st_uid
        if owner == os.getuid():
            directory.chmod(OWNER_ONLY)
            return
    except OSError as error:
        raise ModelError(
            f"{directory} can't hold copies of models: {error}: set MODEL_CACHE_DIR"
        ) from error
    raise ModelError(
        f"{directory} belongs to user {owner}, who could change the models in it: "
        "set MODEL_CACHE_DIR to a directory of your own"
    )
