"""Measure this service and its peers: `python -m benchmarks [run | report | install]`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks import environments, facts, floors, model, picture, report, results, servers, wrk
from benchmarks.errors import BenchError
from benchmarks.floors import Floor
from benchmarks.loads import Lengths
from benchmarks.measure import Bench, Plan
from benchmarks.results import Results
from benchmarks.running import ROOT
from benchmarks.servers import OURS, STARLETTE, Peer
from contract.strict import SettingsError
from launcher import console, processes, signals
from launcher.errors import LaunchError

HERE: Final = Path(__file__).parent
SCRATCH: Final = ROOT / "var" / "bench"
ROWS: Final = (1, 10, 100, 1_000, 10_000, 100_000)
QUICK_ROWS: Final = (1, 1_000, 100_000)

COMMANDS: Final = """\
commands:
  run       measure, and write results.json, RESULTS.md and the pictures (the default)
  report    make RESULTS.md and the pictures anew from results.json
  install   only make the peers' environments, under benchmarks/.venvs

A whole run writes into benchmarks/; with --quick or --only it writes into var/bench/, as its
figures are not what the project reports. Let nothing else run on the machine.

exit codes:
  1 a floor is missed, or a server could not be measured   2 something is missing   130 Ctrl-C
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    signals.arm()
    try:
        return int(_COMMANDS[options.command](options))
    except signals.Stopped as stopped:
        return stopped.exit_code
    except (BenchError, SettingsError, LaunchError) as error:
        console.complain(str(error))
        return 2


def _parser() -> argparse.ArgumentParser:
    names = [OURS, *servers.peers()]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=COMMANDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", choices=sorted(_COMMANDS), default="run")
    parser.add_argument("--rounds", type=_positive, help="rounds over all servers (3)")
    parser.add_argument("--seconds", type=_positive, help="length of each load (4)")
    parser.add_argument(
        "--variant-rounds", type=int, help="rounds that also vary workers and models (1)"
    )
    parser.add_argument(
        "--only", metavar="NAME,NAME", default="", help=f"only these of {', '.join(names)}"
    )
    parser.add_argument(
        "--quick", action="store_true", help="see that it works: 1 round, 1 s a load"
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _plan(options: argparse.Namespace, peers: dict[str, Peer]) -> Plan:
    known = [OURS, STARLETTE, *(name for name in peers if name != STARLETTE)]
    chosen = [name for name in options.only.split(",") if name] or known
    if unknown := set(chosen) - set(known):
        raise BenchError(
            f"--only: no server called {', '.join(sorted(unknown))}: choose of {', '.join(known)}"
        )
    quick = options.quick
    seconds = options.seconds or (1 if quick else 4)
    variants = options.variant_rounds
    return Plan(
        names=tuple(name for name in known if name in chosen),
        rounds=options.rounds or (1 if quick else 3),
        variant_rounds=(0 if quick else 1) if variants is None else variants,
        lengths=Lengths(
            seconds=seconds,
            short_seconds=max(1, seconds // 4),
            warm_up_seconds=1,
            rows=QUICK_ROWS if quick else ROWS,
        ),
    )


def _run(options: argparse.Namespace) -> int:
    processes.adopt_orphans()
    wrk.path()
    peers = servers.peers()
    plan = _plan(options, peers)
    is_whole = not (options.quick or options.only)
    target = HERE if is_whole else SCRATCH
    target.mkdir(parents=True, exist_ok=True)
    _install(plan, peers)
    with console.step("the models"):
        kinds = (model.LINEAR, model.BOOSTING)
        models = {kind: model.write(kind, SCRATCH / "models" / kind) for kind in kinds}
    if load := facts.busy():
        console.complain(f"the machine is busy (load {load:.1f}): the figures will be off")
    command = " ".join(["python -m benchmarks", *sys.argv[1:]])
    found = Results(facts.gather(plan, peers, command, is_whole=is_whole))
    file = target / "results.json"
    Bench(plan, found, peers, models, keep=lambda: found.write(SCRATCH / "last.json")).run()
    found.write(file)
    return _conclude(found, target)


def _install(plan: Plan, peers: dict[str, Peer]) -> None:
    for name in plan.names:
        if name != OURS:
            with console.step(f"the environment of {name}"):
                environments.ensure(peers[name])


def _report(options: argparse.Namespace) -> int:
    for target in (HERE, SCRATCH):
        if (target / "results.json").is_file():
            return _conclude(results.read(target / "results.json"), target)
    raise BenchError(f"no results in {HERE} or {SCRATCH}: `make bench` measures")


def _only_install(options: argparse.Namespace) -> int:
    peers = servers.peers()
    _install(_plan(options, peers), peers)
    return 0


def _conclude(found: Results, target: Path) -> int:
    """Write report and pictures, print the floors, and return the exit code."""
    picture.draw(found, target)
    (target / "RESULTS.md").write_text(report.write(found))
    table = floors.check(found)
    for line in table:
        console.say(_line(line))
    console.say(f"written: {target / 'RESULTS.md'}")
    if not found.facts.is_whole:
        return 1 if found.failures else 0
    return 0 if all(line.met for line in table) and not found.failures else 1


def _line(floor: Floor) -> str:
    mark = {True: "met    ", False: "MISSED ", None: "-      "}[floor.met]
    return f"{mark}{floor.row:<72}{floor.wanted:>16}{floor.measured:>24}"


_COMMANDS: Final = {"run": _run, "report": _report, "install": _only_install}


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
