"""Start, stop and train: `python -m launcher run | train | export | secrets | accounts | stop`."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from contract import names, proxies
from contract.strict import SettingsError
from contract.tracking import tracking_uri
from launcher import console, layout, mlflow_accounts, signals, state, stop, training
from launcher.errors import LaunchError, SettingError, UnreachableError
from launcher.system import Options, System

ENVIRONMENT = """\
environment:
  PORT, MLFLOW_PORT, RAY_DASHBOARD_PORT   ports of the service (8000), MLflow (5000) and Ray's
                                          dashboard (8265); all others move by themselves
  MODEL_SERVED    mlflow: the registry's champion; local: the directory MODEL_DIR
  MLFLOW_TRACKING_URI or MLFLOW_SERVER_HOST   an MLflow server of your own, instead of a new one
  RAY_API_SERVER_ADDRESS, RAY_AUTH_TOKEN_PATH   for train: a cluster other than the one run here

exit codes:
  1 the system could not start, or ended by itself   2 wrong settings, a taken port
  4 nothing answers; train ends with the job's own code
"""


SECRETS = Path("var/secrets")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    parser = _parser()
    options, others = parser.parse_known_args(arguments)
    if others and options.command is not _train:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    options.others = others
    proxies.keep_loopback_off()
    signals.arm()
    try:
        code: int = options.command(options)
    except signals.Stopped as stopped:
        console.say("stopped")
        return stopped.exit_code
    except SettingsError as error:
        console.complain(str(error))
        return SettingError.exit_code
    except LaunchError as error:
        console.complain(str(error))
        return error.exit_code
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m launcher",
        description=__doc__,
        epilog=ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="start MLflow, Ray and the service; Ctrl-C stops them")
    run.add_argument(
        "--train",
        metavar="CONFIG",
        nargs="?",
        const="train_config.yaml",
        help="train a first model if there's no champion, by train_config.yaml or CONFIG",
    )
    run.add_argument("--reload", action="store_true", help="deploy again on a change of the code")
    run.add_argument(
        "--network",
        action="store_true",
        help="in a container: bind Ray and MLflow to its network, not to loopback only",
    )
    run.set_defaults(command=_run)

    train = commands.add_parser(
        "train",
        help="submit the training job to the running cluster",
        epilog="What else is given here is passed on to `python -m train`; see its --help.",
    )
    train.set_defaults(command=_train)

    export = commands.add_parser("export", help="write the champion into a directory")
    export.add_argument("--to", type=Path, default=Path("var/model"), help="default: var/model")
    export.set_defaults(command=_export)

    make = commands.add_parser(
        "secrets", help="make the passwords that compose.production.yml needs"
    )
    make.add_argument("--to", type=Path, default=SECRETS, help=f"default: {SECRETS}")
    make.set_defaults(command=_secrets)

    tell = commands.add_parser("accounts", help="tell MLflow who may ask it, and for what")
    tell.add_argument("--secrets", type=Path, default=SECRETS, help=f"default: {SECRETS}")
    tell.set_defaults(command=_accounts)

    end = commands.add_parser("stop", help="stop the system that runs here")
    end.set_defaults(command=_stop)
    return parser


def _run(options: argparse.Namespace) -> int:
    chosen = Options(
        trains_by=options.train, reloads=options.reload, opens_to_network=options.network
    )
    System(layout.here(os.environ), chosen, os.environ).run()
    return 0


def _train(options: argparse.Namespace) -> int:
    here = layout.here(os.environ)
    if address := os.environ.get("RAY_API_SERVER_ADDRESS"):
        cluster = training.Cluster(address.rstrip("/"), here.token)
    else:
        run = state.require_running(here.state)
        if run.mlflow_uri is None:
            raise UnreachableError(
                "what runs here serves a directory, with no MLflow to train for: start it without "
                "MODEL_SERVED=local, or set MLFLOW_TRACKING_URI and run `python -m train` itself"
            )
        cluster = training.Cluster(run.dashboard, here.token)
    return training.run(cluster, here.root, options.others, os.environ)


def _export(options: argparse.Namespace) -> int:
    here = layout.here(os.environ)
    environ = {**os.environ, "MODEL_CACHE_DIR": str(here.model_cache)}
    if tracking_uri(os.environ) is None:
        environ["MLFLOW_TRACKING_URI"] = _mlflow_of(state.require_running(here.state))
    command = [sys.executable, "-m", "serve_app", "export", "--to", str(options.to.absolute())]
    return subprocess.run(command, env=environ, cwd=here.root, check=False).returncode


def _secrets(options: argparse.Namespace) -> int:
    for file in mlflow_accounts.make_secrets(options.to):
        console.say(str(file))
    return 0


def _accounts(options: argparse.Namespace) -> int:
    if (uri := tracking_uri(os.environ)) is None:
        raise SettingError("no MLflow server named: set MLFLOW_TRACKING_URI")
    model_name = os.environ.get("MODEL_NAME") or names.MODEL_NAME
    mlflow_accounts.establish(uri, options.secrets, model_name)
    console.say(f"MLflow knows {', '.join(mlflow_accounts.ACCOUNTS)}")
    return 0


def _mlflow_of(run: state.Run) -> str:
    if run.mlflow_uri is None:
        raise UnreachableError(
            "what runs here serves a directory, with no MLflow: set MLFLOW_TRACKING_URI, "
            "or start it without MODEL_SERVED=local"
        )
    return run.mlflow_uri


def _stop(options: argparse.Namespace) -> int:
    stop.stop(layout.here(os.environ))
    return 0


if __name__ == "__main__":
    sys.exit(main())
