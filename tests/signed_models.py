"""Key pairs, signed model directories, and what an attacker might do to them."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from contract import names, signing
from train.signing import PRIVATE_KEY_FILE, PUBLIC_KEY_FILE, Signer, make_keys

Damage = Callable[[Path], None]
OUTSIDE = "outside.skops"
"""What `link_out` makes beside the directory."""

LOADER = """\
import os

os.mkdir({!r})


class Model:
    def predict(self, rows):
        return rows


def _load_pyfunc(path):
    return Model()
"""


@dataclass(frozen=True)
class Keys:
    """A key pair in files."""

    directory: Path

    @property
    def private(self) -> Path:
        """What training signs with."""
        return self.directory / PRIVATE_KEY_FILE

    @property
    def public(self) -> Path:
        """What serving verifies by."""
        return self.directory / PUBLIC_KEY_FILE

    def sign(self, directory: Path, model_name: str, run_id: str) -> None:
        """Sign a model directory, as training does."""
        key = signing.private_key(self.private.read_bytes())
        Signer(key).sign(directory, model_name, run_id)


def new_keys(directory: Path) -> Keys:
    """A key pair of its own."""
    make_keys(directory)
    return Keys(directory)


def change_mlmodel(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a model's MLmodel."""
    file = directory / "MLmodel"
    content = yaml.safe_load(file.read_text())
    change(content)
    file.write_text(yaml.safe_dump(content))


def flip_a_bit(directory: Path) -> None:
    """One bit of the estimator's file."""
    file = directory / names.MODEL_FILE
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def add_a_file(directory: Path) -> None:
    """One that nothing reads."""
    (directory / "notes.txt").touch()


def add_a_link_out(directory: Path) -> None:
    """To a file of the machine that uploads it."""
    (directory / "notes.txt").symlink_to("/etc/hosts")


def remove_a_file(directory: Path) -> None:
    """One that serving doesn't read."""
    (directory / "requirements.txt").unlink()


def rename_a_file(directory: Path) -> None:
    """The same contents under another name."""
    (directory / "requirements.txt").rename(directory / "needs.txt")


def link_out(directory: Path) -> None:
    """The very bytes that were signed, but somewhere else."""
    outside = directory.parent / OUTSIDE
    shutil.move(directory / names.MODEL_FILE, outside)
    (directory / names.MODEL_FILE).symlink_to(outside)


def unsign(directory: Path) -> None:
    """Nothing is left of the signature."""
    (directory / names.MANIFEST_FILE).unlink()
    (directory / names.SIGNATURE_FILE).unlink()


def cut_the_signature(directory: Path) -> None:
    """Half of it."""
    file = directory / names.SIGNATURE_FILE
    file.write_bytes(file.read_bytes()[:32])


def rewrite_the_manifest(directory: Path) -> None:
    """It names the files as they are, and the signature is of before."""
    flip_a_bit(directory)
    signature = (directory / names.SIGNATURE_FILE).read_bytes()
    new_keys(directory.parent / "strangers").sign(directory, "m", "run-1")
    (directory / names.SIGNATURE_FILE).write_bytes(signature)


class _Payload:
    """Writes a marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def plant_a_pickle(marker: Path) -> Damage:
    """Let MLmodel name a pickle that makes `marker`."""

    def damage(directory: Path) -> None:
        (directory / "model.pkl").write_bytes(pickle.dumps(_Payload(marker)))

        def name_it(mlmodel: dict[str, Any]) -> None:
            mlmodel["flavors"]["sklearn"] |= {
                "pickled_model": "model.pkl",
                "serialization_format": "pickle",
            }
            mlmodel["flavors"]["python_function"]["model_path"] = "model.pkl"

        change_mlmodel(directory, name_it)

    return damage


def plant_a_pickle_as_skops(marker: Path) -> Damage:
    """Put a pickle that makes `marker` in the estimator's place."""

    def damage(directory: Path) -> None:
        (directory / names.MODEL_FILE).write_bytes(pickle.dumps(_Payload(marker)))

    return damage


def plant_code(marker: Path, *, says_so: bool) -> Damage:
    """Let MLmodel name a loader, in a folder of its own or in the directory, that makes `marker`.

    Without `says_so` it doesn't name the folder, as if the loader were installed.
    """

    def damage(directory: Path) -> None:
        (directory / "code").mkdir()
        (directory / "code" / "planted_loader.py").write_text(LOADER.format(str(marker)))

        def name_it(mlmodel: dict[str, Any]) -> None:
            mlmodel["flavors"]["python_function"]["loader_module"] = "planted_loader"
            if says_so:
                mlmodel["flavors"]["python_function"]["code"] = "code"

        change_mlmodel(directory, name_it)

    return damage


def plants(marker: Path) -> dict[str, Damage]:
    """All that would run if somebody read it in the usual way."""
    return {
        "pickle": plant_a_pickle(marker),
        "pickle as skops": plant_a_pickle_as_skops(marker),
        "code": plant_code(marker, says_so=True),
        "loader": plant_code(marker, says_so=False),
    }
