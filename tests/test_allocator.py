"""Commands keep freed memory: a batch does not pay for the pages of the one before."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PAGES_OF_TEN = """
import resource, torch
for _ in range(30):
    torch.ones(12 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(12 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
COMMAND = "from cxrzoo.cli import main; main(['list', '--json'], standalone_mode=False)\n"


def pages(first: str) -> int:
    """Page faults of ten tensors of 48 MiB, one after the other, once thirty have come and gone."""
    program = [sys.executable, "-c", first + PAGES_OF_TEN]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_a_command_keeps_the_memory_it_frees():
    assert pages(COMMAND) * 10 < pages("")
