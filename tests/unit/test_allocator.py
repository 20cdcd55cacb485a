"""Where glibc is, large blocks are mapped each for itself, and go back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# A block of 24 MiB that is freed raises glibc's own bound; without the setting the next one stays with the process,
# below a small one that lives.
_CHILD = """
import ctypes, sys
from akpolicy.allocator import map_large_blocks
if sys.argv[1] == "mapped":
    assert map_large_blocks()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
libc.free(libc.malloc(24 << 20))
before = resident()
large = libc.malloc(20 << 20)
libc.memset(large, 1, 20 << 20)
small = [libc.malloc(100_000) for _ in range(20)]
libc.free(large)
print(resident() - before > 15 << 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other habits")
@pytest.mark.parametrize(("how", "stays"), [("mapped", "False"), ("left alone", "True")])
def test_a_large_block_that_was_freed_does_not_stay_below_small_ones(how: str, stays: str) -> None:
    done = subprocess.run([sys.executable, "-c", _CHILD, how], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == stays


# What lies in a heap was written to before; what is mapped is pages that nobody has touched.
_BUFFERS = """
import ctypes, sys
from akpolicy.allocator import CONNECTION_BUFFER_BYTES, map_large_blocks
if sys.argv[1] == "mapped":
    assert map_large_blocks(CONNECTION_BUFFER_BYTES)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
before = resident()
for _ in range(2):
    buffers = [libc.malloc(17 << 10) for _ in range(1000)]
    small = [libc.malloc(1000) for _ in range(1000)]
    for buffer in buffers:
        libc.memset(buffer, 1, 17 << 10)
        libc.free(buffer)
print(resident() - before > 8 << 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other habits")
@pytest.mark.parametrize(("how", "stays"), [("mapped", "False"), ("left alone", "True")])
def test_buffers_of_connections_that_are_gone_do_not_stay(how: str, stays: str) -> None:
    done = subprocess.run([sys.executable, "-c", _BUFFERS, how], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == stays
