"""CPU time and memory of everything that a server started, and CPU time of everybody else."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

import psutil

from launcher import processes


@dataclass(frozen=True)
class Clock:
    """CPU seconds so far: of the server's processes, of the load generator, of the machine."""

    server_s: float
    load_s: float
    machine_s: float

    def since(self, start: Clock) -> Clock:
        """Return what was used from `start` to here."""
        return Clock(
            self.server_s - start.server_s,
            self.load_s - start.load_s,
            self.machine_s - start.machine_s,
        )

    @property
    def elsewhere_s(self) -> float:
        """What neither the server nor the load has used."""
        return max(0.0, self.machine_s - self.server_s - self.load_s)


def read() -> Clock:
    """Return the clock of this moment; the server is all that descends from this process."""
    used = os.times()
    machine = psutil.cpu_times()
    idle = machine.idle + getattr(machine, "iowait", 0.0)
    return Clock(
        server_s=sum(map(_cpu_s, processes.descendants())),
        load_s=used.user + used.system + used.children_user + used.children_system,
        machine_s=_total(machine) - idle,
    )


def memory_bytes() -> int:
    """Return the memory of the server's processes, shared pages counted once (PSS)."""
    return sum(map(_memory_bytes, processes.descendants()))


def _total(times: object) -> float:
    # On Linux guest time is part of user time.
    fields = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    return float(sum(getattr(times, name, 0.0) for name in fields))


def _cpu_s(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0


def _memory_bytes(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        memory = process.memory_full_info()
        return int(getattr(memory, "pss", memory.rss))
    return 0
