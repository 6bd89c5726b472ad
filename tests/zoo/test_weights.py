"""Safetensors as bytes: what passes for one, and what only looks like something else."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from cxrzoo.errors import WeightsError
from cxrzoo.zoo.weights import check_header, looks_like_pickle, read_safetensors

SHAPES = st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=6)
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


@given(shapes=SHAPES, dtypes=st.lists(st.sampled_from(DTYPES), min_size=6, max_size=6))
def test_whatever_safetensors_writes_passes_the_check(shapes, dtypes):
    tensors = {
        f"t{n}": torch.zeros(shape, dtype=dtype)
        for n, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=False))
    }
    content = save(tensors, {"format": "pt"})
    check_header(content)
    assert set(read_safetensors(content, "x")) == set(tensors)


@pytest.mark.parametrize("beginning", [b"\x80", b"PK"])
def test_a_header_whose_length_looks_like_a_pickle_is_none(beginning):
    length = int.from_bytes(beginning.ljust(2, b"\x01"), "little") // 8 * 8
    for padding in range(length):
        content = save({"a": torch.ones(2)}, {"padding": "x" * (length - padding)})
        if content[: len(beginning)] == beginning:
            break
    else:
        pytest.fail(f"no padding makes a file that begins with {beginning!r}")
    assert not looks_like_pickle(content)
    assert read_safetensors(content, "x")["a"].tolist() == [1, 1]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_called_one(protocol):
    content = pickle.dumps({"a": 1}, protocol=protocol)
    with pytest.raises(WeightsError, match="is a pickle, not a safetensors file"):
        read_safetensors(content, "x")


@given(content=st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_and_never_crash(content):
    with pytest.raises(WeightsError):
        read_safetensors(content, "x")


@given(cut=st.integers(0, 200))
def test_a_truncated_file_is_refused(cut):
    content = save({"a": torch.ones(30)})
    with pytest.raises(WeightsError):
        read_safetensors(content[: min(cut, len(content) - 1)], "x")
