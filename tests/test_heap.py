"""Memory that services give back: run in processes of their own, for a heap cannot be made anew."""

import asyncio
import json
import os
import platform
import subprocess
import sys
from typing import Any

import pytest

from shared import heap

glibc_only = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no such heaps")

_PRELUDE = """
import ctypes, json, os, random, sys, tempfile
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

libc = ctypes.CDLL(None)

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc.mallinfo2.restype = Info

def used_bytes():
    return libc.mallinfo2().uordblks

def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def heaps():
    "How many there are once eight threads have asked for memory at the same time."
    barrier = Barrier(8)
    def ask(_):
        barrier.wait()
        return bytes(5_000)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(8)))
    with tempfile.NamedTemporaryFile() as file:
        libc.fopen.restype = ctypes.c_void_p
        stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
        libc.malloc_info(0, stream)
        libc.fclose(stream)
        return open(file.name).read().count("<heap nr=")
"""

_SHARED = """
from shared.heap import share_heaps
print(json.dumps([share_heaps(), heaps()]))
"""

_CONVOLUTIONS = """
import torch
torch.set_num_threads(1)
layer = torch.nn.Conv2d(16, 16, 3)
sizes = [(8 + number // 40, 8 + number % 40) for number in range(1_600)]
random.Random(0).shuffle(sizes)
def look(some):
    with torch.inference_mode():
        for height, width in some:
            layer(torch.zeros(1, 16, height, width))
look(sizes[:500])
before = used_bytes()
look(sizes[500:900])
print(json.dumps([heaps(), used_bytes() - before]))
"""


def run(code: str, **environment: str) -> Any:
    """What a process prints last, read as JSON."""
    inherited = {name: value for name, value in os.environ.items() if "CACHE_CAPACITY" not in name}
    command = [sys.executable, "-c", _PRELUDE + code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**inherited, **environment})
    return json.loads(done.stdout.splitlines()[-1])


@glibc_only
def test_threads_share_two_heaps() -> None:
    done, heaps = run(_SHARED)
    assert done
    assert heaps <= 2
    assert run("print(heaps())") > 4


@glibc_only
def test_whoever_says_how_many_heaps_is_obeyed() -> None:
    done, heaps = run(_SHARED, MALLOC_ARENA_MAX="3")
    assert not done
    assert heaps == 3


@glibc_only
def test_free_memory_in_the_midst_of_a_heap_is_given_back() -> None:
    code = """
from shared.heap import trim
blocks = [number.to_bytes(2, "big") * 30_000 for number in range(2_000)]
last, full = blocks[-1], resident_bytes()
del blocks
freed = resident_bytes()
print(json.dumps([full - freed, trim(), full - resident_bytes()]))
"""
    before, done, after = run(code)
    assert before < 20e6
    assert done
    assert after > 100e6


async def test_memory_is_given_back_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    thrice, times = asyncio.Event(), 0
    loop = asyncio.get_running_loop()

    def trim() -> bool:
        nonlocal times
        times += 1
        if times == 3:
            loop.call_soon_threadsafe(thrice.set)
        return True

    monkeypatch.setattr(heap, "trim", trim)
    monkeypatch.setattr(heap, "_glibc", object)
    task = asyncio.create_task(heap.keep_trimmed(0.001))
    await asyncio.wait_for(thrice.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_with_another_c_library_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_glibc", lambda: None)
    assert not heap.share_heaps()
    assert not heap.trim()
    await asyncio.wait_for(heap.keep_trimmed(), 1)


@glibc_only
@pytest.mark.parametrize("service", ["receiver", "transmitter"])
def test_a_service_keeps_neither_heaps_nor_what_was_prepared_for_each_size(service: str) -> None:
    code = f"""
from {service}.__main__ import main
try:
    main(["--tls-cert", sys.executable])  # without a key: it gives up
except SystemExit:
    pass
"""
    heaps, grown_bytes = run(code + _CONVOLUTIONS)
    assert heaps <= 2
    assert grown_bytes < 1e6


@glibc_only
def test_without_that_more_is_kept_for_each_size() -> None:
    _, grown_bytes = run(_CONVOLUTIONS)
    assert grown_bytes > 2e6
