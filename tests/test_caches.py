"""oneDNN keeps few programs, unless torch is there already or the user says otherwise."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bigbatch.caches import FEW, keep_few


def test_few_are_kept_where_nobody_said_otherwise():
    environ = {}
    assert keep_few(environ, ())
    assert environ == FEW
    assert keep_few(environ, ("torch",))  # a child of ours


def test_what_the_user_says_stays():
    environ = {"LRU_CACHE_CAPACITY": "500", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "3"}
    said = dict(environ)
    assert keep_few(environ, ("torch",))
    assert environ == said


def test_it_is_too_late_when_torch_is_there():
    environ = {}
    assert not keep_few(environ, ("torch",))
    assert environ == {}


CODE = """
import bigbatch, torch
from bigbatch.model.products import has_onednn, onednn_linear

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

weight = torch.randn(512, 512)
if not has_onednn():
    print("none")
else:
    with torch.inference_mode():
        for rows in (900, 901, 902):
            onednn_linear(torch.randn(rows, 512), weight)
        before = resident()
        for rows in range(500, 900):
            onednn_linear(torch.randn(rows, 512), weight)
    print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_products_of_many_shapes_take_no_more_memory():
    """400 shapes: with the default caches 200 MiB and more."""
    told = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True
    ).stdout.strip()
    if told == "none":
        pytest.skip("this torch has no oneDNN")
    assert float(told) < 60
