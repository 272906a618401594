"""What a process and its descendants use, read from /proc: CPU time, memory, files, threads."""

import os
import re
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants that live."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def cpu(pid: int) -> float:
    """Return the seconds of CPU, user and system, that a process tree has used; children that ended count."""
    # fields 11 to 14 after the state: user and system of the process, then of the children it has waited for
    return sum(int(tick) for each in tree(pid) for tick in _stat(each)[11:15]) / TICK


def rss(pid: int) -> float:
    """Return the resident memory of a process tree, in MB (10^6 bytes)."""
    return sum(_status(each, "VmRSS") for each in tree(pid)) / 1e6


def peak(pid: int) -> float:
    """Return the most memory that a process was ever seen with, in MB (10^6 bytes), or since `forget_peak`."""
    return _status(pid, "VmHWM") / 1e6


def forget_peak(pid: int) -> None:
    """Let the peak begin anew with what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def fds(pid: int) -> int:
    """Return how many files a process tree has open."""
    return sum(len(list(Path(f"/proc/{each}/fd").iterdir())) for each in tree(pid))


def threads(pid: int) -> int:
    """Return how many threads a process tree has."""
    return sum(len(list(Path(f"/proc/{each}/task").iterdir())) for each in tree(pid))


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return []


def _status(pid: int, name: str) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(rf"{name}:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else 0
