"""A manifest is of exact files, of one model and of one run, or it is refused."""

import json
import os
from pathlib import Path

import pytest

from contract import manifest, names
from contract.manifest import Manifest, ManifestError
from contract.model_directory import OddFileError, list_files

FILES = {"MLmodel": "a" * 64, "model.skops": "b" * 64}
MANIFEST = Manifest(model_name="m", run_id="r", files=FILES)


def test_a_manifest_comes_back_as_it_was_written() -> None:
    """The same facts are the same bytes, whatever the order of the files."""
    content = manifest.to_bytes(MANIFEST)
    assert manifest.parse(content) == MANIFEST
    backwards = MANIFEST.model_copy(update={"files": dict(reversed(FILES.items()))})
    assert manifest.to_bytes(backwards) == content
    manifest.check(MANIFEST, "m", "r", FILES)
    manifest.check(MANIFEST, "m", None, FILES)


@pytest.mark.parametrize(
    ("model_name", "run_id", "files", "says"),
    [
        ("n", "r", FILES, "signed as 'm', not as 'n'"),
        ("m", "s", FILES, "of run r, not of run s"),
        ("m", "r", FILES | {"MLmodel": "c" * 64}, "'MLmodel' was changed"),
        ("m", "r", FILES | {"x.pkl": "c" * 64}, "'x.pkl' was added"),
        ("m", "r", {"MLmodel": "a" * 64}, "'model.skops' is missing"),
        ("m", "r", {}, "'MLmodel' is missing, 'model.skops' is missing"),
        ("m", "r", FILES | {f"{n}": "c" * 64 for n in range(5)}, "'2' was added and 2 more"),
        ("m", "r", {"mlmodel": "a" * 64, "model.skops": "b" * 64}, "'MLmodel' is missing"),
    ],
)
def test_what_a_manifest_does_not_name_is_named(
    model_name: str, run_id: str, files: dict[str, str], says: str
) -> None:
    """On one line, with the first few files."""
    with pytest.raises(ManifestError, match=says) as refused:
        manifest.check(MANIFEST, model_name, run_id, files)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "another/1"},
        {"files": {"MLmodel": "short"}},
        {"files": None},
        {"run_id": ""},
        {"model_name": 3},
        {"more": 1},
    ],
)
def test_what_is_no_manifest_is_refused(change: dict[str, object]) -> None:
    """By the key at fault."""
    content = json.loads(manifest.to_bytes(MANIFEST)) | change
    with pytest.raises(ManifestError, match=next(iter(change))):
        manifest.parse(json.dumps(content).encode())


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]"])
def test_bytes_that_are_no_json_object_are_refused(content: bytes) -> None:
    """None of them is an error of another kind."""
    with pytest.raises(ManifestError, match="can't be read"):
        manifest.parse(content)


def test_one_digest_stands_for_names_and_contents() -> None:
    """Nothing can move from a name to a content, or from one file to another."""
    digests = [
        manifest.digest_of(files)
        for files in (
            FILES,
            {"MLmodel": "b" * 64, "model.skops": "a" * 64},
            {"MLmodel": "a" * 64},
            {"MLmodel": "a" * 64, "model.skop": "b" * 64},
            {},
        )
    ]
    assert len(set(digests)) == len(digests)
    assert manifest.digest_of(dict(reversed(FILES.items()))) == digests[0]


def test_every_file_is_listed_but_what_is_written_beside_the_model(tmp_path: Path) -> None:
    """Hidden ones, and those in folders, too."""
    for name in ("a", ".hidden", "folder/b", f"folder/{names.MANIFEST_FILE}"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    expected = set(list_files(tmp_path))
    assert expected == {"a", ".hidden", "folder/b", f"folder/{names.MANIFEST_FILE}"}
    for name in (names.MANIFEST_FILE, names.SIGNATURE_FILE, names.EXPORT_FILE):
        (tmp_path / name).touch()
    (tmp_path / "inside").symlink_to("a")
    assert set(list_files(tmp_path)) == expected | {"inside"}


@pytest.mark.parametrize("name", ["odd", names.MANIFEST_FILE, "folder/odd"])
@pytest.mark.parametrize("target", ["/etc/passwd", "..", "folder", "nothing", "odd", "pipe"])
def test_what_is_no_file_of_the_models_own_is_refused(
    tmp_path: Path, name: str, target: str
) -> None:
    """A link out of the directory, to a folder in it, to nothing, to itself; a pipe."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    if target == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        place = tmp_path / "folder" if target == "folder" else target
        (tmp_path / name).symlink_to(place)
    with pytest.raises(OddFileError):
        list_files(tmp_path)
