"""Keys are read from a file and a variable, and changed while a service runs."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contract.strict import SettingsError
from serve_app.__main__ import main
from serve_app.access import key_file, keys
from serve_app.access.key_file import VARIABLE, KeySource


def headers(sent: str) -> list[tuple[bytes, bytes]]:
    """What a client sends."""
    return [(b"x-api-key", sent.encode())]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where there's no file yet."""
    return tmp_path / "var" / "api_keys"


def test_a_new_file_is_its_owners_alone(file: Path) -> None:
    """And later keys join the earlier ones, below its comment."""
    first, _ = keys.create("predict")
    second, _ = keys.create("admin")
    key_file.add(file, first)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o640)
    key_file.add(file, second)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert key_file.read(file) == [first, second]
    assert file.read_text().startswith("#")


def test_keys_made_at_once_are_all_there(file: Path) -> None:
    """Each change waits for the one before."""
    made = [keys.create("predict")[0] for _ in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: key_file.add(file, key), made))
    assert set(key_file.read(file)) == set(made)


def test_a_service_follows_its_file(file: Path) -> None:
    """New keys are let in, revoked ones are not, and both at once while keys are exchanged."""
    old, old_sent = keys.create("predict")
    new, new_sent = keys.create("predict")
    key_file.add(file, old)
    source = KeySource(file, {})
    assert source.is_on
    key_file.add(file, new)
    assert source.keyring.find(headers(new_sent)) is None
    source.refresh()
    assert source.keyring.find(headers(old_sent)) == old
    assert source.keyring.find(headers(new_sent)) == new
    key_file.remove(file, old.id)
    source.refresh()
    assert source.keyring.find(headers(old_sent)) is None
    assert source.keyring.find(headers(new_sent)) == new


@pytest.mark.parametrize("breaks", ["no keys at all", None])
def test_a_file_that_cannot_be_read_changes_nothing(
    file: Path, breaks: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The keys that were in force stay so, and the log says why, once."""
    key, sent = keys.create("predict")
    key_file.add(file, key)
    source = KeySource(file, {})
    content = file.read_text()
    file.unlink()
    if breaks is not None:
        file.write_text(breaks)
    source.refresh()
    assert source.keyring.find(headers(sent)) == key
    assert "the API keys stay as they were" in caplog.text
    file.write_text(content)
    source.refresh()
    assert source.keyring.find(headers(sent)) == key


def test_the_variable_and_the_file_are_one_ring(file: Path) -> None:
    """A variable alone will do; a key that stands in both is refused."""
    one, one_sent = keys.create("predict")
    two, two_sent = keys.create("admin")
    alone = KeySource(None, {VARIABLE: f"{one}; {two}"})
    assert alone.is_on
    assert alone.keyring.find(headers(two_sent)) == two
    key_file.add(file, two)
    both = KeySource(file, {VARIABLE: str(one)})
    assert both.keyring.find(headers(one_sent)) == one
    assert both.keyring.find(headers(two_sent)) == two
    with pytest.raises(SettingsError, match="stands twice"):
        KeySource(file, {VARIABLE: str(two)})


def test_without_either_nobody_is_asked_for_a_key(file: Path) -> None:
    """But a file that was named must be there, and with an empty one nobody is let in."""
    assert not KeySource(None, {}).is_on
    assert not KeySource(None, {VARIABLE: " "}).is_on
    with pytest.raises(SettingsError, match="can't be read"):
        KeySource(file, {})
    file.parent.mkdir()
    file.touch()
    assert KeySource(file, {}).is_on


def test_the_command_line_makes_lists_and_revokes(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The secret is shown once, by the command that made it."""
    at = ["--file", str(file)]
    create = ["keys", "create", *at, "--scopes", "predict, admin", "--rate", "10"]
    assert main([*create, "--note", "the shop"]) == 0
    sent = capsys.readouterr().out.strip()
    assert KeySource(file, {}).keyring.find(headers(sent))
    key_id, secret = sent.split(".")
    assert main(["keys", "list", *at]) == 0
    listed = capsys.readouterr().out
    assert listed.splitlines()[1].split() == [key_id, "predict,admin", "10", "the", "shop"]
    assert secret not in listed + file.read_text()
    assert main(["keys", "revoke", *at, sent]) == 0
    assert capsys.readouterr().out == f"{key_id} is revoked\n"
    assert main(["keys", "list", *at]) == 0
    assert "nobody is let in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["create", "--scopes", "root"], "no scope 'root'"),
        (["create", "--rate", "often"], "got 'often'"),
        (["create", "--note", "a;b"], "without `;`"),
        (["revoke", "edv_nobody"], "has no key edv_nobody"),
        (["revoke", ".x"], "name a key by its id"),
    ],
)
def test_what_makes_no_sense_changes_nothing(
    file: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2, the file as it was."""
    key_file.add(file, keys.create("predict")[0])
    before = file.read_bytes()
    assert main(["keys", *arguments, "--file", str(file)]) == 2
    assert says in capsys.readouterr().err
    assert file.read_bytes() == before
    assert {one.name for one in file.parent.iterdir()} == {"api_keys", "api_keys.lock"}


def test_a_list_of_no_file_says_the_way_out(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Make one."""
    assert main(["keys", "list", "--file", str(file)]) == 2
    assert "keys create" in capsys.readouterr().err


def test_a_read_that_failed_for_a_moment_is_tried_again(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else a key that was revoked then would be in force for ever; it is said once."""
    key, sent = keys.create("predict")
    key_file.add(file, key)
    source = KeySource(file, {})
    key_file.remove(file, key.id)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(OSError(24, "x")))
        for _ in range(3):
            source.refresh()
    assert source.keyring.find(headers(sent)) == key
    assert caplog.text.count("the API keys stay as they were") == 1
    source.refresh()
    assert source.keyring.find(headers(sent)) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_file_stays_its_owners(file: Path) -> None:
    """A service under another user must see that a key was revoked."""
    key, _ = keys.create("predict")
    key_file.add(file, key)
    os.chown(file, 10001, 10001)
    key_file.remove(file, key.id)
    assert (file.stat().st_uid, file.stat().st_gid) == (10001, 10001)
