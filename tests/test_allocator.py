import subprocess
import sys

from webhookd import allocator

HOLES = """
import ctypes
from pathlib import Path
from webhookd.allocator import LARGE, map_large_blocks

def resident():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split(maxsplit=1)[0]) * 1024

assert map_large_blocks()
bytearray(6 * LARGE)  # freed at once: glibc takes the next ones from the heap
blocks, between = [], []
for _ in range(8):
    blocks.append(bytearray(b"x") * LARGE)
    between.append(bytearray(LARGE // 4))
full = resident()
blocks.clear()
print(full - resident() >= 7 * LARGE)
"""


def test_large_blocks_leave_no_holes():
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    assert done.stdout.strip() == "True"


def test_a_c_library_that_cannot_be_told_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
    assert allocator.map_large_blocks() is False
