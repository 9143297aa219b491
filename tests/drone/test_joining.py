"""Parts of a simulated flight, adjusted one by one, come together where the truth is, within the error that is stated."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from drone.camera import project
from drone.georeference import georeference
from drone.joining import (
    JoinConfig,
    PartGround,
    Territory,
    corrected_block,
    field_sd,
    join,
    scale_sd,
    shared_points,
    shift_of,
)
from drone.types import ErrorField, Reconstruction
from drone.whole import ground_of
from geoevidence.errors import ConfigError
from tests.drone.simulated_block import GSD, SIZE, Simulated, simulate

PER_STRIP, HALF, REACH = 8, 4, 2


def _part(sim: Simulated, names: list[str], control: bool) -> Reconstruction:
    """The photos of a part, adjusted by themselves."""
    model = sim.model
    index = np.array([model.names.index(name) for name in names])
    back = np.full(len(model.names), -1)
    back[index] = np.arange(len(index))
    here = back[model.obs_photo] >= 0
    seen = np.bincount(model.obs_point[here], minlength=len(model.points)) >= 2
    here &= seen[model.obs_point]
    row = np.cumsum(seen) - 1
    part = replace(
        model,
        names=tuple(names),
        R=model.R[index],
        C=model.C[index],
        points=model.points[seen],
        obs_photo=back[model.obs_photo[here]],
        obs_point=row[model.obs_point[here]],
        obs_pixel=model.obs_pixel[here],
    )
    flight = replace(
        sim.flight,
        photos=tuple(photo for photo in sim.flight.photos if photo.name in names),
        ground_points=tuple(
            point for point in sim.flight.ground_points if control and sum(name in names for name in point.observations) >= 2
        ),
    )
    block = georeference(part, flight)
    return replace(block, parameters={"adjust": {"gps_offset_floor": ["0.02", "0.02", "0.03"]}})


def _truth(sim: Simulated, block: Reconstruction) -> NDArray[np.float64]:
    """True position of each tie point, found by its first observation."""
    model = sim.model
    pixels = model.obs_pixel.astype(np.float32)
    known = {
        (model.names[p], x, y): k
        for p, k, x, y in zip(model.obs_photo, model.obs_point, pixels[:, 0].tolist(), pixels[:, 1].tolist(), strict=True)
    }
    names = sorted(block.poses)
    first = block.track_offsets[:-1]
    return np.array(
        [
            sim.X[known[names[p], x, y]]
            for p, (x, y) in zip(block.track_photos[first], block.track_pixels[first].tolist(), strict=True)
        ]
    )


@cache
def halves(control: bool, seed: int = 3) -> tuple[Simulated, tuple[Reconstruction, ...], tuple[PartGround, ...], Territory]:
    """Two parts of 32 photos, divided across the strips; control points, if any, in the first part alone."""
    sim = simulate(seed, strips=4, per_strip=PER_STRIP, points=1500, control=8 if control else 0)
    names = list(sim.model.names)
    strip, k = np.divmod(np.arange(len(names)), PER_STRIP)
    along = np.where(strip % 2 == 0, k, PER_STRIP - 1 - k)
    members = [[n for n, a in zip(names, along, strict=True) if a < HALF + REACH]]
    members.append([n for n, a in zip(names, along, strict=True) if a >= HALF - REACH])
    shared = set(members[0]) & set(members[1])
    blocks = tuple(_part(sim, part, control and i == 0) for i, part in enumerate(members))
    grounds = tuple(ground_of(i, block, shared) for i, block in enumerate(blocks))
    owner = np.where(along < HALF, 0, 1)
    centres = np.array([blocks[owner[i]].poses[name].C for i, name in enumerate(names)])
    return sim, blocks, grounds, Territory(centres, owner)


def test_control_of_one_part_holds_the_other() -> None:
    sim, blocks, grounds, territory = halves(True)
    assert [block.accuracy.control for block in blocks] == ["ground_points", "gps"]
    found = join(grounds, territory=territory, control_sd=np.full(3, 0.004))
    before = blocks[1].points - _truth(sim, blocks[1])
    fixed = corrected_block(blocks[1], found.corrections[1])
    after = fixed.points - _truth(sim, blocks[1])
    assert np.linalg.norm(np.median(before, axis=0)) > 0.5
    # stated: no part of the joint field is worse than a metre's worth of GPS, and the truth lies within four of its sd
    rows = np.flatnonzero(territory.of(fixed.points) == 1)
    sd = np.sqrt((found.field.at(fixed.points[rows, :2]) ** 2).sum(axis=2))
    off = np.median(after[rows], axis=0)
    assert (np.abs(off) < 4 * sd.mean(axis=0)).all() and (sd.mean(axis=0) < [0.1, 0.1, 0.3]).all()
    assert (np.abs(off) < 0.1 * np.abs(np.median(before[rows], axis=0)) + [0.03, 0.03, 0.15]).all()
    seam = found.seams[0]
    assert (seam.first, seam.second, seam.photos) == (0, 1, 16) and seam.points > 300
    assert seam.before[0] > 0.5 and seam.after[0] < GSD and seam.after[1] < 2 * GSD
    # the part with control points gives way least
    moved = [np.abs(found.corrections[k].factor).max() for k in (0, 1)]
    assert moved[0] < 0.1 * moved[1]


def test_what_all_parts_have_in_common_stays_in_the_field() -> None:
    """The offset of all positions (stated 1.5 and 3 m) cannot be averaged away by dividing a flight."""
    _, blocks, grounds, territory = halves(False)
    found = join(grounds, territory=territory, control_sd=np.zeros(3))
    sd = field_sd(found.field)
    alone = [field_sd(block.error_field) for block in blocks if block.error_field is not None]
    assert (sd >= 0.99 * np.array([1.5, 1.5, 3.0])).all() and (sd <= 1.05 * np.max(alone, axis=0)).all()
    # lengths are those of a longer block: no worse than the parts' own
    own = [scale_sd(block.error_field) for block in blocks if block.error_field is not None]
    assert 0.2 * min(own) < scale_sd(found.field) < max(own)


def test_a_corrected_photo_sees_its_points_where_it_saw_them() -> None:
    _, blocks, grounds, territory = halves(True)
    found = join(grounds, territory=territory, control_sd=np.zeros(3))
    before, after = blocks[1], corrected_block(blocks[1], found.corrections[1])
    owner = np.repeat(np.arange(len(before.points)), np.diff(before.track_offsets))
    for index, name in enumerate(sorted(before.poses)):
        mine = before.track_photos == index
        seen = [project(b.cameras["cam"], b.poses[name], b.points[owner[mine]]) for b in (before, after)]
        # a metre of shift and a tilt are followed exactly; bending within one photo is not
        assert np.sqrt(((seen[0] - seen[1]) ** 2).sum(axis=1).mean()) < 0.15
    turn = after.poses[name].R
    assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-12)


def test_order_of_parts_changes_nothing() -> None:
    _, _, grounds, territory = halves(True)
    one = join(grounds, territory=territory, control_sd=np.zeros(3))
    other = join(grounds[::-1], territory=territory, control_sd=np.zeros(3))
    for number in (0, 1):
        assert np.allclose(one.corrections[number].factor, other.corrections[number].factor, atol=1e-6)
    assert np.allclose(field_sd(one.field), field_sd(other.field), rtol=1e-3)


def test_a_part_without_neighbours_stays_where_it_is() -> None:
    _, _, grounds, territory = halves(False)
    far = replace(grounds[1], names=tuple(f"X{name}" for name in grounds[1].names))
    found = join((grounds[0], far), territory=territory, control_sd=np.zeros(3))
    assert found.alone == (0, 1) and found.seams == () and found.misfit == 0.0
    assert all(not correction.factor.any() for correction in found.corrections.values())


def _field(modes: NDArray[np.float64]) -> ErrorField:
    return ErrorField(origin=(0.0, 0.0), spacing=(50.0, 50.0), factor=modes.astype(np.float32))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_known_errors_come_back(seed: int) -> None:
    """Two parts whose errors are drawn from their fields: their difference is found, the stiffer one moves less."""
    rng = np.random.default_rng(seed)
    shift, tilt = np.zeros((3, 3, 3, 3)), np.zeros((1, 3, 3, 3))
    for axis in range(3):
        shift[axis, :, :, axis] = 1.0
    tilt[0, :, :, 2] = np.array([-1.0, 0.0, 1.0])[None, :]
    modes = np.concatenate([shift, tilt])
    sizes = (0.02, 0.2)
    z = [rng.normal(size=4), rng.normal(size=4)]
    truth = np.column_stack([rng.uniform(0, 100, (400, 2)), rng.uniform(0, 3, 400)])
    pixels = rng.uniform(0, 1000, (800, 2)).astype(float)
    grounds = []
    for k in range(2):
        field = _field(modes * sizes[k])
        grounds.append(
            PartGround(
                number=k,
                names=("a", "b"),
                points=truth + np.einsum("nxk,k->nx", field.at(truth[:, :2]), z[k]) + rng.normal(0, 0.001, truth.shape),
                offsets=np.arange(0, 801, 2),
                photos=np.tile([0, 1], 400),
                pixels=pixels,
                field=field,
                gsd=0.01,
                footprint=100.0,
                offset_sd=np.zeros(3),
            )
        )
    territory = Territory(np.array([[0.0, 50.0], [100.0, 50.0]]), np.array([0, 1]))
    found = join(grounds, territory=territory, control_sd=np.zeros(3))
    places = np.array([[20.0, 30.0], [80.0, 70.0]])
    corrections = [shift_of(found.corrections[k], places) for k in (0, 1)]
    real = [np.einsum("nxk,k->nx", grounds[k].field.at(places), z[k]) for k in (0, 1)]
    # the difference is seen to what a median place in a sloping cell of 25 m leaves, and shared out as the squares of the fields
    assert np.allclose(corrections[0] - corrections[1], real[0] - real[1], atol=0.01)
    assert np.allclose(corrections[0], (real[0] - real[1]) / 101, atol=0.01)
    assert found.seams[0].points == 400 and found.seams[0].after[1] < 0.005
    sd = field_sd(found.field)
    # both parts now share the stiffer one's error, which their two photos count once
    assert (sd > [0.015, 0.015, 0.015]).all() and (sd < [0.04, 0.04, 0.05]).all()


def test_points_are_the_same_only_with_two_photos_to_say_so() -> None:
    _, _, grounds, _ = halves(False)
    a, b = grounds
    rows = shared_points(a, b, same_px=1.0)
    assert len(rows[0]) == len(set(rows[0].tolist())) == len(set(rows[1].tolist())) > 300
    # true pairs: the simulated observations are the same numbers in both parts
    first = {tuple(np.round(a.pixels[o], 3)) for k in rows[0][:50] for o in range(a.offsets[k], a.offsets[k + 1])}
    second = {tuple(np.round(b.pixels[o], 3)) for k in rows[1][:50] for o in range(b.offsets[k], b.offsets[k + 1])}
    assert len(first & second) >= 100
    none = shared_points(a, replace(b, pixels=b.pixels + 50.0 * SIZE[0]), same_px=1.0)
    assert len(none[0]) == 0
    one_photo = replace(b, names=tuple(name if i == 0 else f"X{name}" for i, name in enumerate(b.names)))
    assert len(shared_points(a, one_photo, same_px=1.0)[0]) == 0


def test_parts_that_contradict_their_errors_widen_them() -> None:
    _, _, grounds, territory = halves(False)
    wrong = replace(grounds[1], points=grounds[1].points + [30.0, 0.0, 0.0])
    plain = join(grounds, territory=territory, control_sd=np.zeros(3))
    found = join((grounds[0], wrong), territory=territory, control_sd=np.zeros(3))
    assert plain.misfit < 4 < found.misfit
    assert scale_sd(found.field) > scale_sd(plain.field)


@pytest.mark.parametrize(("name", "value"), [("same_px", 0.0), ("cells", 5.0), ("huber", 0.0), ("nodes", 1000), ("misfit", 0.5)])
def test_settings_are_checked(name: str, value: float) -> None:
    with pytest.raises(ConfigError):
        JoinConfig(**{name: value})  # type: ignore[arg-type]
