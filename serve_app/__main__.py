"""What operators ask: `check`, `export` (the model), `rollout` (of a running service), `keys`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from contract import proxies, strict
from contract.tracking import MlflowUnreachableError
from serve_app import keys_command, rollout_command, settings
from serve_app.control.seed import seed
from serve_app.model_errors import ModelError
from serve_app.models import registry


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0 done, 1 the service failed, 2 wrong settings or model, 3 the rollout can't do this now,
    4 MLflow or the service out of reach.
    """
    options = _parser().parse_args(arguments)
    proxies.keep_loopback_off()
    try:
        if "ask" in options:
            print(options.ask(options))
            return 0
        config = strict.read_yaml(options.config)
        chosen = settings.resolve(settings.args_of(config), os.environ)
        line: str = options.command(chosen, options)
    except (strict.SettingsError, ModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except MlflowUnreachableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    except rollout_command.ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
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
    rollout_command.add_parsers(commands)
    keys_command.add_parsers(commands)
    return parser


def _check(chosen: settings.Settings, options: argparse.Namespace) -> str:
    table = seed(chosen)
    version = table.champion.version
    says = f"{version.name} version {version.version} can be served"
    return f"{says}, from this node's cache" if table.is_from_cache else says


def _export(chosen: settings.Settings, options: argparse.Namespace) -> str:
    version = registry.export(chosen, options.to)
    return f"{version.name} version {version.version} written to {options.to}"


if __name__ == "__main__":
    sys.exit(main())
