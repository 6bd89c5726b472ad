"""The picture of a training."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from cxrzoo.errors import StorageError
from cxrzoo.pretrain.figure import _smoothed, draw_log

LOG = "step,loss,effective_rank,alignment,knn\n" + "".join(
    f"{n},{9 - n / 30},{50 if n % 50 == 1 else ''},,{0.7 if n % 50 == 1 else ''}\n"
    for n in range(1, 121)
)


def test_a_panel_is_drawn_for_what_the_log_has(tmp_path):
    log, figure = tmp_path / "log.csv", tmp_path / "loss.png"
    log.write_text(LOG)
    assert draw_log(log, figure, title="moco-cxr")
    with Image.open(figure) as image:
        three = image.size
        assert np.asarray(image.convert("L")).std() > 10, "something is drawn"
    log.write_text("step,loss\n1,2.0\n2,1.0\n")
    assert draw_log(log, figure, title="moco-cxr")
    with Image.open(figure) as image:
        assert image.size[1] < three[1]


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    (tmp_path / "log.csv").write_text(LOG)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match=r"loss\.png"):
        draw_log(tmp_path / "log.csv", tmp_path / "loss.png", title="moco-cxr")


def test_smoothing_is_a_running_mean():
    values = np.random.default_rng(0).random(120)
    assert _smoothed(values)[60] == pytest.approx(values[35:85].mean())
    assert _smoothed(values)[9] == pytest.approx(values[:34].mean())
    assert _smoothed(values)[119] == pytest.approx(values[94:].mean())
    assert _smoothed(values[:1]) == values[:1]
