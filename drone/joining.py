"""Parts of a large flight, adjusted one by one -> one block: smooth corrections of each part, and the error that is left.

Neighbouring parts have photos, and tie points in them, in common; where they place such a point differently, the difference is
shared out in the shapes and sizes that the error field of each part allows (least-squares collocation). Control points and
positions count through these fields: what is tied to control gives way least. Each photo then follows the ground that it shows.
In: `PartGround` of each part. Out: a `Join` with corrections, the error field of the whole, and the residuals of every seam. No I/O, no
pictures; the same digits whatever the number of threads. What all parts have in common no seam can show: it stays in the field.
Sources: Moritz (1980), Advanced Physical Geodesy, part B (collocation); Huber (1964), doi 10.1214/aoms/1177703732; Birge (1932),
doi 10.1103/PhysRev.40.207; Umeyama (1991), doi 10.1109/34.88573.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from drone.adjustment import covariance_of, solved
from drone.types import ErrorField, Pose, Reconstruction
from drone.uncertainty import pivoted_factor, product
from geoevidence.errors import ConfigError

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
_FEW_POINTS = 5
"""A photo that shows fewer tie points follows its part as a whole; a cell of a seam with fewer is not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinConfig:
    """Settings of `join`.

    same_px: tie points of two parts are one when two shared photos or more have them this near to each other (px); matching moves a
        feature by up to half a pixel, differently in each part.
    cells: differences are taken in the median over cells of this part of a photo's shorter side (1).
    huber: cells that differ by more than this many of their sd count linearly.
    field_gsd: what the error fields are reduced to while joining (GSD); finer costs time. nodes: of the joint field, at most, an axis.
    misfit: parts that differ by more than this many times what their stated errors allow are said to.
    """

    same_px: float = 1.0
    cells: float = 0.25
    huber: float = 2.0
    field_gsd: float = 0.05
    nodes: int = 40
    misfit: float = 2.0

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "same_px": (0.1, 10),
            "cells": (0.02, 2),
            "huber": (1, 10),
            "field_gsd": (0.001, 1),
            "nodes": (4, 100),
            "misfit": (1, 100),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                found = str(getattr(self, name))
                raise ConfigError("drone.setting_out_of_range", setting=f"split.join.{name}", found=found, low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PartGround:
    """What joining needs of an adjusted part. Positions in m, (E, N, U).

    number: of the part. names: its registered photos, sorted. points: (N, 3) tie points seen in two shared photos or more; offsets:
    (N + 1,) of their observations; photos: (M,) index into names; pixels: (M, 2) col, row.
    field: what its adjustment may have left. gsd: m. footprint: shorter side of a photo on the ground, m. offset_sd: (3,) m that all
    parts are off by together as far as this one tells: by the offset of all positions, and by the focal length (heights), where the
    part rests on nothing else; zeros where it rests on control points.
    """

    number: int
    names: tuple[str, ...]
    points: Array
    offsets: Ints
    photos: Ints
    pixels: Array
    field: ErrorField
    gsd: float
    footprint: float
    offset_sd: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Seam:
    """How two parts differ where they show the same ground, (horizontal, vertical) m.

    photos, points: shared photos, and tie points found in both. before: root mean square difference of these points as the parts were
    adjusted; after: once joined; largest: of the medians of cells, once joined. centres: camera centres of the shared photos, once joined,
    (0, 0) where nobody has looked at them: they hang together with the focal length that each part found, more than the ground does.
    """

    first: int
    second: int
    photos: int
    points: int
    before: tuple[float, float]
    after: tuple[float, float]
    largest: tuple[float, float]
    centres: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Join:
    """The joint solution.

    corrections: part number -> its error as estimated, a field of one mode: position = stated - correction. field: what is left.
    seams: sorted. misfit: squares of the corrections over what the parts' errors let expect (1): above 1 the errors were stated too small, and
    `field` is widened by it. seam_sd: (horizontal per axis, vertical) m that cells of a seam still differ by.
    alone: parts that share no tie point with another.
    """

    corrections: Mapping[int, ErrorField]
    field: ErrorField
    seams: tuple[Seam, ...]
    misfit: float
    seam_sd: tuple[float, float]
    alone: tuple[int, ...]


def shared_points(first: PartGround, second: PartGround, *, same_px: float) -> tuple[Ints, Ints]:
    """Rows of `points` of both parts that are the same tie point: near each other in at least two shared photos; (k,), (k,)."""
    where = {name: index for index, name in enumerate(second.names)}
    owner_a = np.repeat(np.arange(len(first.points)), np.diff(first.offsets))
    owner_b = np.repeat(np.arange(len(second.points)), np.diff(second.offsets))
    pairs: list[Array] = []
    for index, name in enumerate(first.names):
        other = where.get(name)
        if other is None:
            continue
        a, b = np.flatnonzero(first.photos == index), np.flatnonzero(second.photos == other)
        if not len(a) or not len(b):
            continue
        away, near = cKDTree(second.pixels[b]).query(first.pixels[a], distance_upper_bound=same_px)
        found = np.isfinite(away)
        pairs.append(np.column_stack([owner_a[a[found]], owner_b[b[near[found]]], away[found]]))
    none = np.zeros(0, np.int64)
    if not pairs:
        return none, none
    every = np.concatenate(pairs)
    keys, inverse, votes = np.unique(every[:, :2].astype(np.int64), axis=0, return_inverse=True, return_counts=True)
    distance = np.bincount(inverse.ravel(), every[:, 2]) / votes
    keys, votes, distance = keys[votes >= 2], votes[votes >= 2], distance[votes >= 2]
    # the pair that more photos have, then the nearer one, is the pair
    for column in (0, 1):
        order = np.lexsort((keys[:, 1], keys[:, 0], distance, -votes))
        _, best = np.unique(keys[order, column], return_index=True)
        keep = np.sort(order[best])
        keys, votes, distance = keys[keep], votes[keep], distance[keep]
    return keys[:, 0], keys[:, 1]


def collapsed(field: ErrorField, z: Array) -> ErrorField:
    """The field of one mode that is `field` at z (K,)."""
    factor = np.einsum("k,krcx->rcx", z, field.factor.astype(np.float64))
    return replace(field, factor=factor[None].astype(np.float32))


def shift_of(correction: ErrorField, places: Array) -> Array:
    """(N, 3) m that the part is off by at places (N, 2 or 3), as estimated."""
    return correction.at(places[:, :2])[:, :, 0]


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """Medians over the cells of a seam: places (n, 2), differences (n, 3), their own sd (n, 3) m; of the parts first and second."""

    first: int
    second: int
    places: Array
    apart: Array
    sd: Array


def _cells(a: PartGround, b: PartGround, rows: tuple[Ints, Ints], size: float) -> _Cells:
    at, apart = (a.points[rows[0]] + b.points[rows[1]])[:, :2] / 2, a.points[rows[0]] - b.points[rows[1]]
    _, cell = np.unique(np.floor(at / size).astype(np.int64), axis=0, return_inverse=True)
    places, middles, spread = [], [], []
    for index in range(int(cell.max()) + 1 if len(cell) else 0):
        mine = cell.ravel() == index
        if mine.sum() < _FEW_POINTS:
            continue
        middle = np.median(apart[mine], axis=0)
        # a median too: it goes with that of a difference that slopes
        places.append(np.median(at[mine], axis=0))
        middles.append(middle)
        # sd of a median: sqrt(pi / 2) of that of the mean of normal errors
        scatter = 1.4826 * np.median(np.abs(apart[mine] - middle), axis=0)
        spread.append(math.sqrt(math.pi / 2 / int(mine.sum())) * scatter)
    count = len(places)
    return _Cells(
        a.number, b.number, np.reshape(places, (count, 2)), np.reshape(middles, (count, 3)), np.reshape(spread, (count, 3))
    )


def _reduced_field(part: PartGround, common_sd: Array, tolerance: float) -> ErrorField:
    """The part's field without what it has in common with all others, in fewer modes."""
    modes, rows, columns, _ = part.field.factor.shape
    flat = part.field.factor.astype(np.float64).reshape(modes, -1).T
    covariance = product(np.ascontiguousarray(flat), np.ascontiguousarray(flat.T))
    for axis in range(3):
        # not more than is there: it must not become indefinite
        least = float(np.diag(covariance)[axis::3].min())
        covariance[axis::3, axis::3] -= min(0.99 * common_sd[axis] ** 2, 0.9 * least if axis == 2 else math.inf)
    factor = pivoted_factor(covariance, tolerance)
    return replace(part.field, factor=factor.T.reshape(-1, rows, columns, 3).astype(np.float32))


def _multiplicity(parts: Sequence[PartGround]) -> dict[int, float]:
    """Part number -> how many parts, in the mean, its photos are in: what they say must not count as often.

    As the design effect of a sample (Kish 1965): the variance of the mean of parts that share photos is larger by about that much.
    """
    counts: dict[str, int] = {}
    for part in parts:
        for name in part.names:
            counts[name] = counts.get(name, 0) + 1
    return {part.number: sum(counts[name] for name in part.names) / len(part.names) for part in parts}


def _common_sd(parts: Sequence[PartGround]) -> Array:
    """(3,) m that all parts are off by together: the offset of positions, where no part rests on control points."""
    offsets = np.array([part.offset_sd for part in parts])
    return np.asarray(offsets.min(axis=0)) if (offsets > 0).all() else np.zeros(3)


def rms(values: Array) -> tuple[float, float]:
    """Horizontal and vertical root mean square of (n, 3) m; zeros without any."""
    if not len(values):
        return 0.0, 0.0
    return math.sqrt(float((values[:, :2] ** 2).sum(axis=1).mean())), math.sqrt(float((values[:, 2] ** 2).mean()))


def join(parts: Sequence[PartGround], *, territory: Territory, control_sd: Array, config: JoinConfig = JoinConfig()) -> Join:
    """The parts as one block.

    territory: which part a place belongs to. control_sd: (3,) m, standard uncertainty of the mean of all control points, which every
    part has in common; zeros without any.
    """
    gsd = float(np.median([part.gsd for part in parts]))
    tolerance = (config.field_gsd * gsd) ** 2
    common = _common_sd(parts)
    fields = {part.number: _reduced_field(part, common, tolerance) for part in parts}
    multiplicity = _multiplicity(parts)
    at = dict(zip(fields, np.concatenate([[0], np.cumsum([len(f.factor) for f in fields.values()])]).astype(int), strict=False))
    count = sum(len(field.factor) for field in fields.values())
    rows: dict[tuple[int, int], tuple[Ints, Ints]] = {}
    seams: list[_Cells] = []
    for i, a in enumerate(parts):
        for b in parts[i + 1 :]:
            if len(set(a.names) & set(b.names)) >= 2:
                found = shared_points(a, b, same_px=config.same_px)
                cells = _cells(a, b, found, config.cells * min(a.footprint, b.footprint))
                if len(cells.places):
                    rows[a.number, b.number] = found
                    seams.append(cells)
    z, posterior, noise = _collocated(seams, fields, at, count, multiplicity, gsd, config)
    # Squares of the corrections against what the parts' errors and the seams let expect of them.
    prior = np.concatenate([np.full(len(field.factor), multiplicity[number]) for number, field in fields.items()])
    expected = float((1 - np.diag(posterior) / prior).sum())
    misfit = float((z * z / prior).sum()) / expected if expected > 0.5 else 0.0
    corrections = {number: collapsed(field, z[at[number] : at[number] + len(field.factor)]) for number, field in fields.items()}
    field = _joint_field(
        parts,
        fields,
        at,
        max(misfit, 1.0) * posterior,
        max(misfit, 1.0),
        noise,
        np.hypot(common, control_sd),
        territory,
        gsd,
        config,
    )
    linked = {number for seam in seams for number in (seam.first, seam.second)}
    by_number = {part.number: part for part in parts}
    return Join(
        corrections=corrections,
        field=field,
        seams=tuple(
            _seam(by_number[cells.first], by_number[cells.second], rows[cells.first, cells.second], cells, corrections)
            for cells in seams
        ),
        misfit=misfit,
        seam_sd=noise,
        alone=tuple(part.number for part in parts if part.number not in linked),
    )


def _collocated(
    seams: Sequence[_Cells],
    fields: Mapping[int, ErrorField],
    at: Mapping[int, int],
    count: int,
    multiplicity: Mapping[int, float],
    gsd: float,
    config: JoinConfig,
) -> tuple[Array, Array, tuple[float, float]]:
    """z (count,), its covariance (count, count), and what cells differ by beyond it: (horizontal per axis, vertical) m.

    z has the expectation 0 before the seams are looked at, and a part's variance is its multiplicity. Robust: Huber's weights, as the
    seams' own scatter about the fields is found in rounds.
    """
    prior = np.eye(count)
    for number, field in fields.items():
        mine = np.arange(at[number], at[number] + len(field.factor))
        prior[mine, mine] = 1 / multiplicity[number]
    z, posterior, noise = np.zeros(count), np.diag(1 / np.diag(prior)), (0.0, 0.0)
    if not seams:
        return z, posterior, noise
    designs = [(fields[s.first].at(s.places), -fields[s.second].at(s.places)) for s in seams]
    apart = np.concatenate([s.apart for s in seams])
    own = np.concatenate([s.sd for s in seams])
    floor = 0.02 * gsd
    scatter = np.array([0.2 * gsd, 0.2 * gsd, 0.4 * gsd])
    weight = np.ones(len(apart))
    for _ in range(12):
        variance = own**2 + scatter**2
        normal, right, first = prior.copy(), np.zeros(count), 0
        for seam, (one, other) in zip(seams, designs, strict=True):
            last = first + len(seam.places)
            w = weight[first:last, None] / variance[first:last]
            for number, design in ((seam.first, one), (seam.second, other)):
                a = slice(at[number], at[number] + design.shape[2])
                right[a] += np.einsum("nxk,nx->k", design, w * seam.apart)
                for partner, facing in ((seam.first, one), (seam.second, other)):
                    b = slice(at[partner], at[partner] + facing.shape[2])
                    normal[a, b] += np.einsum("nxk,nxl->kl", design * w[:, :, None], facing)
            first = last
        z = solved(normal, right[:, None])[:, 0]
        residual = apart - _differences(seams, designs, at, z)
        if _ == 0:
            posterior = covariance_of(normal)
        # Cells determine so many of the unknowns; the rest of them is scatter.
        freedom = max(1 - float((1 - np.diag(posterior) * np.diag(prior)).sum()) / residual.size, 0.1)
        flat = 1.4826 * float(np.median(np.abs(residual[:, :2]))) / math.sqrt(freedom)
        up = 1.4826 * float(np.median(np.abs(residual[:, 2]))) / math.sqrt(freedom)
        new = np.sqrt(np.maximum(np.array([flat, flat, up]) ** 2 - np.median(own**2, axis=0), floor**2))
        length = np.sqrt((residual**2 / (own**2 + new**2)).sum(axis=1) / 3)
        weight = np.minimum(1.0, config.huber / np.maximum(length, 1e-12))
        settled = bool((np.abs(new - scatter) <= 0.01 * scatter).all())
        scatter = new
        if settled:
            break
    return z, covariance_of(normal), (float(scatter[0]), float(scatter[2]))


def _differences(seams: Sequence[_Cells], designs: Sequence[tuple[Array, Array]], at: Mapping[int, int], z: Array) -> Array:
    """(n, 3) what z says that the parts differ by."""
    found = []
    for seam, (one, other) in zip(seams, designs, strict=True):
        a, b = at[seam.first], at[seam.second]
        found.append(
            np.einsum("nxk,k->nx", one, z[a : a + one.shape[2]]) + np.einsum("nxk,k->nx", other, z[b : b + other.shape[2]])
        )
    return np.concatenate(found)


def _seam(a: PartGround, b: PartGround, rows: tuple[Ints, Ints], cells: _Cells, corrections: Mapping[int, ErrorField]) -> Seam:
    one, other = corrections[a.number], corrections[b.number]
    before = a.points[rows[0]] - b.points[rows[1]]
    after = before - shift_of(one, a.points[rows[0]]) + shift_of(other, b.points[rows[1]])
    left = cells.apart - shift_of(one, cells.places) + shift_of(other, cells.places)
    return Seam(
        first=a.number,
        second=b.number,
        photos=len(set(a.names) & set(b.names)),
        points=len(before),
        before=rms(before),
        after=rms(after),
        largest=(float(np.hypot(left[:, 0], left[:, 1]).max()), float(np.abs(left[:, 2]).max())),
    )


class Territory:
    """Which part a place belongs to: that of the nearest camera. names, centres (P, 2 or 3) m, part (P,) numbers."""

    def __init__(self, centres: Array, part: Ints) -> None:
        self.part = np.asarray(part, np.int64)
        self._every = cKDTree(centres[:, :2])
        self._of = {int(number): cKDTree(centres[self.part == number, :2]) for number in np.unique(self.part)}

    def of(self, places: Array) -> Ints:
        """(N,) number of the part that places (N, 2 or 3) belong to."""
        return np.asarray(self.part[self._every.query(places[:, :2])[1]], np.int64)

    def distance(self, places: Array, number: int) -> Array:
        """(N,) m from places (N, 2 or 3) to the nearest camera of a part."""
        return np.asarray(self._of[number].query(places[:, :2])[0], np.float64)


def _joint_field(
    parts: Sequence[PartGround],
    fields: Mapping[int, ErrorField],
    at: Mapping[int, int],
    posterior: Array,
    widened: float,
    noise: tuple[float, float],
    common_sd: Array,
    territory: Territory,
    gsd: float,
    config: JoinConfig,
) -> ErrorField:
    """The field of the whole on one grid: what collocation left of the parts' errors, what seams still differ by, what all have in common."""
    corners = []
    for part in parts:
        rows, columns = part.field.factor.shape[1:3]
        south_west = np.array(part.field.origin)
        corners.append([south_west, south_west + np.array(part.field.spacing) * [columns - 1, rows - 1]])
    low, high = np.array(corners)[:, 0].min(axis=0), np.array(corners)[:, 1].max(axis=0)
    extent = np.maximum(high - low, gsd)
    step = np.array([part.field.spacing for part in parts]).min(axis=0)
    columns, rows = (int(np.clip(math.ceil(e / s) + 1, 2, config.nodes)) for e, s in zip(extent, step, strict=True))
    x, y = np.linspace(low[0], high[0], columns), np.linspace(low[1], high[1], rows)
    places = np.stack([part.ravel() for part in np.meshgrid(x, y)], axis=1)
    owner = territory.of(places)
    design, own = np.zeros((3 * len(places), len(posterior))), np.zeros(3 * len(places))
    best = np.full(3 * len(places), np.inf)
    for number, field in fields.items():
        best = np.minimum(best, (field.at(places) ** 2).sum(axis=2).ravel())
        mine = np.flatnonzero(owner == number)
        if len(mine):
            values = field.at(places[mine])
            for axis in range(3):
                design[3 * mine + axis, at[number] : at[number] + len(field.factor)] = values[:, axis]
                own[3 * mine + axis] = (values[:, axis] ** 2).sum(axis=1)
    half = product(design, posterior)
    # sparse on the left: `product` passes over zeros there
    covariance = product(design, np.ascontiguousarray(half.T))
    covariance = (covariance + covariance.T) / 2
    # Parts share photos, control points and the camera, so that joining makes nothing surer than the best of them is there; and
    # what the seams say little of is no worse than in the part itself, where its photos count once after all.
    variance = np.maximum(np.diag(covariance), 1e-300)
    change = np.sqrt(widened * np.clip(variance / widened, best, np.maximum(own, best)) / variance)
    covariance *= change[:, None] * change
    factor = pivoted_factor(covariance, (config.field_gsd * gsd) ** 2)
    modes = [factor.T.reshape(-1, rows, columns, 3)]
    # A difference between two parts is the error of one or the other.
    steps = np.zeros((3 * len(parts), rows * columns, 3))
    for k, part in enumerate(parts):
        for axis in range(3):
            steps[3 * k + axis, owner == part.number, axis] = noise[0 if axis < 2 else 1] / math.sqrt(2)
    modes.append(steps.reshape(-1, rows, columns, 3))
    everywhere = np.zeros((3, rows, columns, 3))
    for axis in range(3):
        everywhere[axis, :, :, axis] = common_sd[axis]
    modes.append(everywhere)
    every = np.concatenate(modes)
    every = every[np.abs(every).max(axis=(1, 2, 3)) > 0]
    if not len(every):
        every = np.zeros((1, rows, columns, 3))
    return ErrorField(
        origin=(float(low[0]), float(low[1])),
        spacing=(float(extent[0] / (columns - 1)), float(extent[1] / (rows - 1))),
        factor=np.ascontiguousarray(every, np.float32),
    )


def field_sd(field: ErrorField) -> Array:
    """(E, N, U) m: root mean square over the nodes of the standard uncertainty that a field gives."""
    return np.asarray(np.sqrt((field.factor.astype(np.float64) ** 2).sum(axis=0).mean(axis=(0, 1))))


def scale_sd(field: ErrorField) -> float:
    """Relative standard uncertainty of horizontal lengths across a field (1), as of an adjusted block."""
    rows, columns = field.factor.shape[1:3]
    x = (np.arange(columns) - (columns - 1) / 2) * field.spacing[0]
    y = (np.arange(rows) - (rows - 1) / 2) * field.spacing[1]
    arm = np.stack([*np.meshgrid(x, y)], axis=-1)
    along = np.einsum("rcx,krcx->k", arm, field.factor[..., :2].astype(np.float64)) / float((arm**2).sum())
    return math.sqrt(float((along**2).sum()))


def corrected_block(block: Reconstruction, correction: ErrorField) -> Reconstruction:
    """The part with its correction: tie points are moved, and each photo by the similarity that moves the points it shows.

    Within a photo what the similarity cannot follow stays in the residuals (the bending of a block over one photo, tenths of a pixel).
    """
    names = sorted(block.poses)
    owner = np.repeat(np.arange(len(block.points)), np.diff(block.track_offsets))
    points = block.points - shift_of(correction, block.points)
    poses = {}
    for index, name in enumerate(names):
        pose, seen = block.poses[name], owner[block.track_photos == index]
        if len(seen) < _FEW_POINTS:
            poses[name] = Pose(R=pose.R, C=pose.C - shift_of(correction, pose.C[None])[0])
            continue
        scale, turn, middle, target = _similarity(block.points[seen], points[seen])
        centre = target + scale * np.einsum("ij,j->i", turn, pose.C - middle)
        poses[name] = Pose(R=np.einsum("ij,kj->ik", pose.R, turn), C=centre)
    return replace(block, points=points, poses=poses)


def _similarity(source: Array, target: Array) -> tuple[float, Array, Array, Array]:
    """(scale, R, middle of source, middle of target), least squares; Umeyama (1991), sums in an order of their own."""
    middle, other = source.mean(axis=0), target.mean(axis=0)
    a, b = source - middle, target - other
    u, d, vt = np.linalg.svd(np.einsum("ni,nj->ij", b, a))
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    turn = np.einsum("ij,jk,kl->il", u, flip, vt)
    scale = float((d * np.diag(flip)).sum() / np.einsum("ni,ni", a, a))
    return scale, turn, middle, other
