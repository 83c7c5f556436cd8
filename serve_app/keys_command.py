"""`python -m serve_app keys ...`: API keys made, listed and revoked, in a file."""

import argparse
import os
from pathlib import Path

from contract.strict import SettingsError
from serve_app.access import key_file, keys


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `keys` with a command for each action."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--file",
        type=Path,
        default=key_file.chosen(os.environ),
        help=f"where the keys are kept (default: ${key_file.FILE_VARIABLE}, else %(default)s)",
    )
    parser = commands.add_parser("keys", help="make, list or revoke API keys")
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    create = actions.add_parser(
        "create",
        parents=[shared],
        help="make a key",
        description="Make a key and print it: its secret is kept nowhere, and not shown again. "
        "A running service takes it within a few seconds.",
    )
    create.add_argument(
        "--scopes",
        default=keys.PREDICT,
        metavar="SCOPE,SCOPE",
        help=f"what it is for: {', '.join(keys.SCOPES)} (default: %(default)s)",
    )
    create.add_argument(
        "--rate",
        metavar="N",
        default=keys.UNLIMITED,
        help="requests a second that the whole service lets through (default: no limit)",
    )
    create.add_argument("--note", default="", help="whose it is, for people")
    create.set_defaults(ask=_create)
    listing = actions.add_parser("list", parents=[shared], help="show the keys, without secrets")
    listing.set_defaults(ask=_list)
    revoke = actions.add_parser(
        "revoke",
        parents=[shared],
        help="remove a key",
        description="Remove a key. A running service refuses it within a few seconds.",
    )
    revoke.add_argument("id", help="the part of the key before the dot")
    revoke.set_defaults(ask=_revoke)


def _create(options: argparse.Namespace) -> str:
    key, sent = keys.create(options.scopes, options.rate, options.note)
    key_file.add(options.file, key)
    return sent


def _list(options: argparse.Namespace) -> str:
    found = key_file.read(options.file)
    if not found:
        return f"{options.file} has no keys: nobody is let in"
    rows = [("ID", "SCOPES", "REQUESTS/S", "NOTE")]
    rows += [
        (
            key.id,
            ",".join(scope for scope in keys.SCOPES if scope in key.scopes),
            keys.UNLIMITED if key.rate is None else f"{key.rate:g}",
            key.note,
        )
        for key in found
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _revoke(options: argparse.Namespace) -> str:
    key_id = options.id.partition(".")[0]
    if not key_id:
        raise SettingsError("name a key by its id, the part before the dot")
    key_file.remove(options.file, key_id)
    return f"{key_id} is revoked"
