"""The command line of training; the exit code says what happened."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from contract.tracking import bound_waits
from train import signing
from train.errors import TrainError
from train.progress import Progress
from train.settings import read

DEFAULT_CONFIG = Path("train_config.yaml")
LONGEST_REASON = 1_000
INTERRUPTED = 130
COMMANDS = ("run", "promote", "rollback", "sign", "signing-key")

EPILOG = """\
exit codes:
  0  promoted, made challenger, or nothing has changed
  2  bad data, settings or arguments: nothing was recorded
  3  the gate refused the model: its run is kept, nothing was registered
  4  MLflow or Ray out of reach, or no CPU free in time

environment:
  MLFLOW_TRACKING_URI         the MLflow server (or MLFLOW_SERVER_HOST)
  RAY_ADDRESS                 the Ray cluster; without it, one is started for the job
  ENDEAVOUR_SIGNING_KEY_FILE  the private key that models are signed with; without it, none is
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = _parse(sys.argv[1:] if arguments is None else arguments)
    _keep_libraries_quiet()
    try:
        print(_run(given), flush=True)
    except TrainError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr, flush=True)
        return INTERRUPTED
    return 0


def _run(given: argparse.Namespace) -> str:
    if given.command == "signing-key":
        return _make_keys(given.to)
    settings = read(given.config)
    from train import job  # noqa: PLC0415  # MLflow takes seconds: not for --help or a bad config

    if given.command == "promote":
        version = str(given.version)
        return job.promote(settings.model_name, version, given.reason, os.environ).message
    if given.command == "rollback":
        return job.roll_back(settings.model_name, given.reason, os.environ).message
    if given.command == "sign":
        return job.sign(settings.model_name, str(given.version), os.environ).message
    return job.run(settings, os.environ, Progress(job.STEPS)).message


def _make_keys(directory: Path) -> str:
    private, public = signing.make_keys(directory)
    return (
        f"{private}: the private key, for training only; nobody else may read it\n"
        f"{public}: the public key, for the service"
    )


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; without a command it means `run`."""
    if not arguments or arguments[0] not in (*COMMANDS, "-h", "--help"):
        arguments = ["run", *arguments]
    return _parser().parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train",
        description="Train a model, let the gate judge it, and promote it in MLflow's registry, "
        "or have a rollout decide on that.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    run = commands.add_parser("run", help="train, judge, record, promote (the default)")
    promote = commands.add_parser("promote", help="make a version champion by hand")
    promote.add_argument("--version", type=_version, required=True, help="the version's number")
    rollback = commands.add_parser("rollback", help="make the previous champion champion again")
    for command in (promote, rollback):
        command.add_argument(
            "--reason", type=_reason, required=True, help="why; it is put on record"
        )
    sign = commands.add_parser(
        "sign",
        help="sign a version that is registered",
        description="Sign what MLflow holds of a version now, whoever has put it there, with the "
        "key that ENDEAVOUR_SIGNING_KEY_FILE names. Look at it first.",
    )
    sign.add_argument("--version", type=_version, required=True, help="the version's number")
    keys = commands.add_parser(
        "signing-key",
        help="make a key pair to sign models with",
        description=f"Write {signing.PRIVATE_KEY_FILE}, readable by its owner only, and "
        f"{signing.PUBLIC_KEY_FILE}; nothing is overwritten.",
    )
    keys.add_argument("--to", type=Path, required=True, metavar="DIR", help="where they are put")
    for command in (run, promote, rollback, sign):
        command.add_argument(
            "--config",
            type=Path,
            default=DEFAULT_CONFIG,
            help="the settings (default: %(default)s)",
        )
    return parser


def _version(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no version number: 1, 2, 3, ...")
    return int(text)


def _reason(text: str) -> str:
    reason = text.strip()
    if not reason or len(reason) > LONGEST_REASON:
        raise argparse.ArgumentTypeError(f"a reason has 1 to {LONGEST_REASON} characters")
    return reason


def _keep_libraries_quiet() -> None:
    bound_waits()
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")


if __name__ == "__main__":
    sys.exit(main())
