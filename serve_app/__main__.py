"""Look at, or export, the model that would be served: `python -m serve_app check | export`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from contract import strict
from contract.tracking import MlflowUnreachableError
from serve_app import registry, settings
from serve_app.model_errors import ModelError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Exit code: 0 done, 2 wrong settings or model, 4 MLflow out of reach."""
    options = _parser().parse_args(arguments)
    try:
        config = strict.read_yaml(options.config)
        chosen = settings.resolve(settings.args_of(config), os.environ)
        line: str = options.command(chosen, options)
    except (strict.SettingsError, ModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except MlflowUnreachableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    print(line)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serve_app", description=__doc__)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--config", type=Path, default=Path("serve_config.yaml"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser(
        "check", parents=[shared], help="check that settings and model can be served"
    )
    check.set_defaults(command=_check)
    export = commands.add_parser(
        "export", parents=[shared], help="write the champion into a directory"
    )
    export.add_argument("--to", type=Path, required=True, help="the directory; replaced if a model")
    export.set_defaults(command=_export)
    return parser


def _check(chosen: settings.Settings, options: argparse.Namespace) -> str:
    version = registry.resolve(chosen)
    registry.load(version, chosen)
    return f"{version.name} version {version.version} can be served"


def _export(chosen: settings.Settings, options: argparse.Namespace) -> str:
    version = registry.export(chosen, options.to)
    return f"{version.name} version {version.version} written to {options.to}"


if __name__ == "__main__":
    sys.exit(main())
