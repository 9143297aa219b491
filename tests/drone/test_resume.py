"""Stages of a survey under way: what is stored comes back the same, and only for the same request."""

from __future__ import annotations

import shutil
from dataclasses import fields, is_dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drone.resume import StageStore
from drone.types import DenseCloud
from geoevidence.types import Message
from tests.drone import sample_block as sample


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if is_dataclass(one):
        return type(one) is type(other) and all(_same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if hasattr(one, "items"):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)):
        return type(one) is type(other) and len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other) or (one != one and other != other)


def test_values_come_back_equal(tmp_path: Path) -> None:
    block = sample.block(4)
    store = StageStore(tmp_path / "work", {"a": 1}, shared={"flight": block.flight, "crs": block.flight.crs})
    value = {
        "block": block,
        "odd": (float("nan"), float("inf"), -0.0, 1e-310, 0.1, 3, True, None, date(2024, 10, 20), [1, ("x",)]),
        "message": Message(id="drone.gap_unregistered", values={"photo": "a", "reason": Message(id="drone.no_scale", values={})}),
        "array": np.arange(12, dtype=np.uint16).reshape(3, 4).T,
    }
    made = store.once("all", lambda: value)
    assert _same(value, made) and _same(value, store.load("all"))
    assert made["block"].flight is block.flight
    # what was stored is not made again
    assert _same(store.once("all", lambda: pytest.fail("made again")), value)


def test_another_request_starts_anew(tmp_path: Path) -> None:
    StageStore(tmp_path / "work", {"a": 1}, shared={}).save("x", 1)
    assert StageStore(tmp_path / "work", {"a": 1}, shared={}).load("x") == 1
    assert StageStore(tmp_path / "work", {"a": 2}, shared={}).load("x") is None


def test_a_damaged_stage_counts_as_not_finished(tmp_path: Path) -> None:
    store = StageStore(tmp_path / "work", {}, shared={})
    cloud = sample.block(4).points
    value = DenseCloud(
        points=cloud,
        colours=np.zeros((len(cloud), 3), np.uint8),
        views=np.ones(len(cloud), np.uint8),
        height_sd=np.ones(len(cloud), np.float32),
    )
    store.save("cloud", value)
    path = tmp_path / "work" / "cloud.stage"
    good = path.read_bytes()
    for where in (len(good) // 3, len(good) // 2):
        path.write_bytes(good[:where] + bytes([good[where] ^ 1]) + good[where + 1 :])
        assert store.load("cloud") is None
    path.write_bytes(good[: len(good) // 2])
    assert store.load("cloud") is None
    path.write_bytes(good)
    assert _same(store.load("cloud"), value)
    shutil.rmtree(tmp_path / "work")
    assert store.load("cloud") is None


def test_what_cannot_be_stored_is_said(tmp_path: Path) -> None:
    store = StageStore(tmp_path / "work", {}, shared={})
    for value in (object(), np.array([object()])):
        with pytest.raises(TypeError):
            store.save("x", value)
    assert store.load("x") is None
