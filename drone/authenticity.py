"""What speaks for and against the photos of a flight being what they are said to be: indications with their strength, never a verdict.

In: a `Flight`, what its pictures look like (`drone.appearance`), and where there is one the `Reconstruction`. Out: `Indication` records,
one or more a test, in a fixed order; a test that found nothing or could not be made says so. Each found thing carries the reason for
its strength and what may have caused it innocently:
    strong    a file as a camera wrote it, or a flight as aircraft fly, cannot show it;
    moderate  unusual for untouched photos, though there are known harmless causes;
    weak      common in honest work (photos deleted, clocks not set): only to be explained.
Who did something, why, and whether evidence is genuine is for people: nothing here says that a photo is forged.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from drone.appearance import Appearance, distance
from drone.georeference import attitude_rotation, positions_of, similarity
from drone.strips import convergence, moment, order_flown, strips_of
from drone.types import FileTraces, Flight, Photo, Reconstruction
from geoevidence.types import Message, Quantity

Strength = Literal["weak", "moderate", "strong"]
Outcome = Literal["found", "nothing_found", "not_checked"]

_EDITORS = re.compile(
    r"photoshop|lightroom|adobe xmp core|camera raw|gimp|snapseed|affinity|paint\.net|pixelmator|capture one|luminar|acdsee|xnview|"
    r"irfanview|faststone|imagemagick|microsoft (windows )?photo|windows photo|picasa|meitu|美图|exiftool|exifpilot|geosetter",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(\d{3,6})(?:_[A-Za-z]{1,3})?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticityConfig:
    """Bounds of the tests.

    max_speed: m/s over ground; above what multirotors (23 m/s and less in makers' data sheets) and small fixed wings (30) fly, with wind.
    max_climb: m/s; makers' data sheets state 8 and less for multirotors.
    max_acceleration: m/s2; a multirotor leaning by 45 degrees reaches 9.8.
    clock_jump_s: s that the camera's clock may depart from its usual difference from GNSS time; clocks show whole seconds.
    pause_minutes: min without a photo that part two flights; a change of battery takes less.
    same_picture_bits: of 256 bits that may differ in one picture written twice; a copy of half the size saved with quality 60 differs in
        up to 22, turned in 25; photos of two flights in 72 and more; pictures shifted by 5 % in 44 and more, by 2 % in 15 (all measured).
    same_place_m: m; two like pictures nearer than this and a tenth of the height above ground may be two exposures from one place.
    least_likeness: correlation of a photo with its thumbnail; untouched ones of brighton_beach and a DJI thumbnail reach 0.91 and more.
    common_share: share (1) of a camera's photos that must be alike before another one counts as odd.
    turned_deg: degrees between the picture and the attitude told; gimbals are right to a few degrees, compasses to 20.
    significance: of the test of the time lag; lower makes it more cautious.
    """

    max_speed: float = 35.0
    max_climb: float = 12.0
    max_acceleration: float = 15.0
    clock_jump_s: float = 3.0
    pause_minutes: float = 20.0
    same_picture_bits: int = 35
    same_place_m: float = 2.0
    least_likeness: float = 0.75
    common_share: float = 0.8
    turned_deg: float = 45.0
    significance: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Indication:
    """What one test says. test: its id. strength: of something found, else None. statement: what was found, or that nothing was.
    reason: why it has that strength and what else may cause it, or why the test was not made; None where nothing was found.
    photos: names of the photos concerned, sorted.
    """

    test: str
    outcome: Outcome
    strength: Strength | None
    statement: Message
    reason: Message | None
    photos: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "test": self.test,
            "outcome": self.outcome,
            "strength": self.strength,
            "statement": self.statement.to_dict(),
            "reason": None if self.reason is None else self.reason.to_dict(),
            "photos": list(self.photos),
        }


def title_of(test: str) -> Message:
    """What a test looks at, for people."""
    return Message(id=f"drone.authtest_{test}")


def examine(
    flight: Flight, looks: Mapping[str, Appearance] | None = None, *, config: AuthenticityConfig = AuthenticityConfig()
) -> tuple[Indication, ...]:
    """The indications that files and metadata of a flight give.

    looks: appearance of each photo by name; without it the tests of pictures say that they were not made.
    """
    return (
        *_numbers(flight),
        *_shutter(flight),
        *_times(flight, config),
        *_sessions(flight, config),
        *_bodies(flight),
        *_trajectory(flight, config),
        *_velocity(flight),
        *_positions(flight),
        *_encoding(flight, config),
        *_software(flight),
        *_maker_notes(flight, config),
        *_thumbnails(flight, looks, config),
        *_same_pictures(flight, looks, config),
    )


def examine_reconstruction(
    reconstruction: Reconstruction, *, config: AuthenticityConfig = AuthenticityConfig()
) -> tuple[Indication, ...]:
    """The indications that the reconstructed cameras give: time lag of the positions, positions and attitudes that do not fit."""
    return (*_lag(reconstruction, config), *_misfits(reconstruction), *_turned(reconstruction, config))


# --------------------------------------------------------------------------------------------------------------------
# How things are said


def _names(names: Iterable[str], limit: int = 6) -> str:
    listed = sorted(names)
    return ", ".join(listed[:limit]) + (" ..." if len(listed) > limit else "")


def _found(test: str, strength: Strength, case: str, photos: Iterable[str], **values: Any) -> Indication:
    named = sorted(set(photos))
    shown = {"photos": _names(named), "count": len(named), **values}
    return Indication(
        test=test,
        outcome="found",
        strength=strength,
        statement=Message(id=f"drone.auth_{case}", values=shown),
        reason=Message(id=f"drone.authwhy_{case}"),
        photos=tuple(named),
    )


def _nothing(test: str, count: int) -> list[Indication]:
    statement = Message(id="drone.auth_nothing", values={"test": title_of(test), "count": count})
    return [Indication(test=test, outcome="nothing_found", strength=None, statement=statement, reason=None)]


def _not_checked(test: str, why: str) -> list[Indication]:
    statement = Message(id="drone.auth_not_checked", values={"test": title_of(test)})
    return [
        Indication(
            test=test, outcome="not_checked", strength=None, statement=statement, reason=Message(id=f"drone.authnot_{why}")
        )
    ]


def _by_camera(flight: Flight) -> dict[str, list[Photo]]:
    groups: dict[str, list[Photo]] = {}
    for photo in flight.photos:
        groups.setdefault(photo.camera_id, []).append(photo)
    return dict(sorted(groups.items()))


def _all_traces(flight: Flight) -> bool:
    return all(photo.traces is not None for photo in flight.photos)


def _trace(photo: Photo) -> FileTraces:
    assert photo.traces is not None, "asked only where all photos have them"
    return photo.traces


# --------------------------------------------------------------------------------------------------------------------
# Counters, times, the way flown


def _number_of(photo: Photo) -> tuple[str, int] | None:
    """(folder and beginning of the name, number) of a name such as DJI_0012.JPG; None where it has no number."""
    stem = photo.name.rpartition(".")[0]
    match = _NUMBER.search(stem)
    # A date in the name goes on with each photo and is no part of what the counter belongs to.
    return None if match is None else (re.sub(r"\d{8,14}", "*", stem[: match.start()]), int(match[1]))


def _numbers(flight: Flight) -> list[Indication]:
    """Numbers in the names: missing ones, and an order other than that of the times."""
    counters: dict[tuple[str, str], list[tuple[int, Photo]]] = {}
    for photo in flight.photos:
        found = _number_of(photo)
        if found is not None:
            counters.setdefault((photo.camera_id, found[0]), []).append((found[1], photo))
    result: list[Indication] = []
    for _, members in sorted(counters.items()):
        members.sort(key=lambda entry: (entry[0], entry[1].name))
        missing = [n for (a, _), (b, _) in pairwise(members) for n in range(a + 1, b) if b - a <= 1000]
        around = [p.name for (a, p), (b, q) in pairwise(members) if b > a + 1 for p in (p, q)]
        if missing:
            shown = ", ".join(str(n) for n in missing[:10]) + (" ..." if len(missing) > 10 else "")
            result.append(_found("numbers", "weak", "numbers_missing", around, missing=len(missing), numbers=shown))
        timed = [(photo, when) for _, photo in members if (when := moment(photo)) is not None]
        # A counter that starts again (a new card, 9999 -> 0001) is one step back; more than that is another order.
        back = [(p, q) for (p, a), (q, b) in pairwise(timed) if b < a]
        if len(timed) == len(members) and len(back) > 1:
            result.append(_found("numbers", "moderate", "numbers_disordered", {x.name for pair in back for x in pair}))
    if not counters:
        return _not_checked("numbers", "no_numbers")
    return result or _nothing("numbers", len(flight.photos))


def _shutter(flight: Flight) -> list[Indication]:
    """The camera's count of exposures: it must grow with time."""
    result: list[Indication] = []
    tested = 0
    for photos in _by_camera(flight).values():
        counted = [(photo, photo.shutter_count) for photo in order_flown(photos)[0] if photo.shutter_count is not None]
        tested += len(counted)
        back = [(p, q) for (p, a), (q, b) in pairwise(counted) if b <= a]
        if back and all(moment(photo) is not None for photo, _ in counted):
            result.append(_found("shutter", "moderate", "shutter_back", {x.name for pair in back for x in pair}))
        skipped = [(p, q, b - a - 1) for (p, a), (q, b) in pairwise(counted) if b - a > 1]
        if skipped and not back:
            names = {x.name for p, q, _ in skipped for x in (p, q)}
            result.append(_found("shutter", "weak", "shutter_skipped", names, missing=sum(n for _, _, n in skipped)))
    if tested < 2:
        return _not_checked("shutter", "no_shutter_count")
    return result or _nothing("shutter", tested)


def clock_offsets(photos: Sequence[Photo]) -> dict[str, float]:
    """Camera clock minus GNSS time in s, of each photo that has both.

    A camera clock without a zone is taken to the nearest quarter of an hour: what is left of -450 to 450 s is its error, if it is
    set to any zone's time.
    """
    result = {}
    for photo in photos:
        when = moment(photo)
        if photo.taken is None or photo.exposed is None or when is None:
            continue
        if photo.taken.tzinfo is not None:
            result[photo.name] = (photo.taken - photo.exposed).total_seconds()
        else:
            off = (photo.taken - photo.exposed.replace(tzinfo=None)).total_seconds()
            result[photo.name] = (off + 450) % 900 - 450
    return result


def _times(flight: Flight, config: AuthenticityConfig) -> list[Indication]:
    """The camera's clock against GNSS time: one difference for the flight, whatever it is."""
    result: list[Indication] = []
    tested = 0
    for photos in _by_camera(flight).values():
        offsets = clock_offsets(photos)
        tested += len(offsets)
        if len(offsets) < 3:
            continue
        usual = float(np.median(list(offsets.values())))
        jumped = {name: value - usual for name, value in offsets.items() if abs(value - usual) > config.clock_jump_s}
        if jumped:
            worst = max(jumped.values(), key=abs)
            result.append(_found("times", "moderate", "clock_jumps", jumped, worst=f"{worst:+.1f}", usual=f"{usual:+.1f}"))
    if tested < 3:
        return _not_checked("times", "no_two_clocks")
    return result or _nothing("times", tested)


def sessions(photos: Sequence[Photo], pause_minutes: float) -> list[list[Photo]]:
    """The photos in the order flown, parted where nothing was taken for longer than the pause."""
    ordered, by = order_flown(photos)
    parts: list[list[Photo]] = [[]]
    last = None
    for photo in ordered:
        when = moment(photo) if by != "name" else None
        if last is not None and when is not None and when - last > timedelta(minutes=pause_minutes):
            parts.append([])
        parts[-1].append(photo)
        last = when or last
    return parts


def _sessions(flight: Flight, config: AuthenticityConfig) -> list[Indication]:
    if order_flown(flight.photos)[1] == "name":
        return _not_checked("sessions", "no_times")
    parts = sessions(flight.photos, config.pause_minutes)
    if len(parts) == 1:
        return _nothing("sessions", len(flight.photos))
    first = [part[0] for part in parts]
    when = ", ".join(str(photo.taken or photo.exposed)[:16] for photo in first[:6])
    return [_found("sessions", "weak", "sessions", {photo.name for photo in first}, parts=len(parts), times=when)]


def _bodies(flight: Flight) -> list[Indication]:
    if not _all_traces(flight):
        return _not_checked("bodies", "no_traces")
    bodies = Counter((_trace(photo).make_model, _trace(photo).serial) for photo in flight.photos)
    if len(bodies) == 1:
        return _nothing("bodies", len(flight.photos))
    most = bodies.most_common(1)[0][0]
    odd = [photo.name for photo in flight.photos if (_trace(photo).make_model, _trace(photo).serial) != most]
    shown = "; ".join(f"{make or '?'} {serial or '-'}: {n}" for (make, serial), n in sorted(bodies.items())[:6])
    return [_found("bodies", "weak", "bodies", odd, bodies=shown)]


def _resolution_s(photo: Photo) -> float:
    """Uncertainty of a time of exposure in s: GNSS times are right to 0.1, clocks of whole seconds to one."""
    if photo.exposed is not None and photo.exposed.microsecond:
        return 0.1
    return 0.1 if photo.taken is not None and photo.taken.microsecond else 1.0


def _trajectory(flight: Flight, config: AuthenticityConfig) -> list[Indication]:
    """Speeds, climbs and accelerations between photos, at the lowest that errors of positions and times allow."""
    places = positions_of(flight)
    ordered, by = order_flown([photo for photo in flight.photos if photo.name in places])
    if by == "name" or len(ordered) < 3:
        return _not_checked("trajectory", "no_times" if by == "name" else "no_positions")
    fast: dict[str, float] = {}
    steep: dict[str, float] = {}
    hard: dict[str, float] = {}
    speeds: list[tuple[NDArray[np.float64], float, float]] = []  # mean velocity, its error, middle of the interval
    start = moment(ordered[0])
    for p, q in pairwise(ordered):
        a, b = moment(p), moment(q)
        assert a is not None and b is not None and start is not None, "ordered by time"
        slack = _resolution_s(p) + _resolution_s(q)
        longest = (b - a).total_seconds() + slack
        step = places[q.name] - places[p.name]
        # A common error of the receiver falls out of a difference; three sigma of each are left all the same.
        error = [3 * math.hypot(p.position_sd[k], q.position_sd[k]) for k in range(3)]
        level = max(math.hypot(step[0], step[1]) - math.hypot(error[0], error[1]), 0.0)
        if level / longest > config.max_speed:
            fast |= {p.name: level / longest, q.name: level / longest}
        climb = max(abs(step[2]) - error[2], 0.0) / longest
        if climb > config.max_climb and p.height_kind == q.height_kind:
            steep |= {p.name: climb, q.name: climb}
        took = (b - a).total_seconds()
        if took > slack:
            spread = math.hypot(error[0], error[1]) / took + math.hypot(step[0], step[1]) * slack / (took * (took - slack))
            speeds.append((step[:2] / took, spread, (a - start).total_seconds() + took / 2))
            if len(speeds) > 1 and speeds[-1][2] > speeds[-2][2]:
                (u, su, tu), (v, sv, tv) = speeds[-2], speeds[-1]
                change = (float(np.hypot(*(v - u))) - su - sv) / (tv - tu)
                if change > config.max_acceleration:
                    hard |= {p.name: change, q.name: change}
        else:
            speeds.clear()
    result = [
        _found("trajectory", "strong" if case == "too_fast" else "moderate", case, which, most=f"{max(which.values()):.0f}")
        for case, which in (("too_fast", fast), ("too_steep", steep), ("too_hard", hard))
        if which
    ]
    return result or _nothing("trajectory", len(ordered))


def _velocity(flight: Flight) -> list[Indication]:
    """The velocity that the aircraft told against the way between photos."""
    places = positions_of(flight)
    ordered, by = order_flown([photo for photo in flight.photos if photo.name in places])
    if by == "name" or sum(photo.velocity is not None for photo in ordered) < 4:
        return _not_checked("velocity", "no_velocity")
    apart, told = {}, {}
    for p, q in pairwise(ordered):
        a, b = moment(p), moment(q)
        if p.velocity is None or q.velocity is None or a is None or b is None or (b - a).total_seconds() < 1:
            continue
        mean = (places[q.name] - places[p.name])[:2] / (b - a).total_seconds()
        told[p.name] = float(np.hypot(*p.velocity[:2]))
        apart[p.name] = float(np.hypot(*(mean - (np.array(p.velocity[:2]) + q.velocity[:2]) / 2)))
    # Between photos an aircraft may stop and turn; along most of the way it does not.
    if len(apart) < 4:
        return _not_checked("velocity", "no_velocity")
    usual, speed = float(np.median(list(apart.values()))), float(np.median(list(told.values())))
    if usual > max(3.0, 0.5 * speed):
        return [_found("velocity", "moderate", "velocity", apart, apart=f"{usual:.1f}", speed=f"{speed:.1f}")]
    return _nothing("velocity", len(apart))


def _positions(flight: Flight) -> list[Indication]:
    """Positions written twice in one file, and one position written into several files."""
    both = [p for p in flight.photos if p.position is not None and p.exif_position is not None]
    result: list[Indication] = []
    apart: dict[str, float] = {}
    for p in both:
        assert p.position is not None and p.exif_position is not None
        north = (p.position[1] - p.exif_position[1]) * 111_320
        east = (p.position[0] - p.exif_position[0]) * 111_320 * math.cos(math.radians(p.position[1]))
        # MRK positions are those of the camera, EXIF ones may be of the antenna or of an earlier moment.
        if math.hypot(east, north) > 10:
            apart[p.name] = math.hypot(east, north)
    if apart:
        result.append(_found("positions", "moderate", "two_positions", apart, most=f"{max(apart.values()):.0f}"))
    same: dict[tuple[float, float, float], list[Photo]] = {}
    for photo in flight.photos:
        if photo.position is not None:
            same.setdefault(photo.position, []).append(photo)
    times = {photo.name: moment(photo) for photo in flight.photos}
    frozen = [p.name for group in same.values() if len(group) > 1 and len({times[p.name] for p in group}) > 1 for p in group]
    if frozen:
        result.append(_found("positions", "weak", "frozen_position", frozen))
    known = sum(photo.position is not None for photo in flight.photos)
    if not known:
        return _not_checked("positions", "no_positions")
    return result or _nothing("positions", known)


# --------------------------------------------------------------------------------------------------------------------
# How the files were written


def _encoding(flight: Flight, config: AuthenticityConfig) -> list[Indication]:
    """Order of the file's segments and quantisation tables, within each camera."""
    if not _all_traces(flight):
        return _not_checked("encoding", "no_traces")
    result: list[Indication] = []
    varying = False
    for camera, photos in _by_camera(flight).items():
        layouts = Counter(_trace(photo).markers for photo in photos)
        # Exif 2.32 (CIPA DC-008), 4.5.4: APP1 follows the start mark at once. Programs that save a picture anew begin with JFIF's APP0.
        jfif = [p for p in photos if _trace(p).markers[:1] == ("APP0",) and "APP1" in _trace(p).markers]
        if jfif and len(jfif) < len(photos):
            result.append(_found("encoding", "strong", "saved_again", [p.name for p in jfif], of=len(photos)))
        elif jfif:
            result.append(_found("encoding", "weak", "all_jfif", [p.name for p in jfif]))
        rest = [p for p in photos if p not in jfif] if len(jfif) < len(photos) else photos
        most, count = Counter(_trace(p).markers for p in rest).most_common(1)[0]
        if len(layouts) > 1 and count >= config.common_share * len(rest):
            odd = [p.name for p in rest if _trace(p).markers != most]
            if odd:
                result.append(_found("encoding", "moderate", "other_layout", odd, of=len(rest)))
        tables, count = Counter(_trace(p).tables for p in rest).most_common(1)[0]
        if count >= config.common_share * len(rest):
            odd = [p.name for p in rest if _trace(p).tables != tables]
            if odd:
                result.append(_found("encoding", "moderate", "other_tables", odd, of=len(rest)))
        else:
            varying = True
        sizes = [p.name for p in photos if _trace(p).stated_size not in (None, p.size)]
        if sizes:
            result.append(_found("encoding", "strong", "size_changed", sizes, camera=camera))
    if varying and not result:
        return _not_checked("encoding", "tables_vary")
    return result or _nothing("encoding", len(flight.photos))


def _software(flight: Flight) -> list[Indication]:
    """Programs named in EXIF and XMP, and times of change after the exposure."""
    if not _all_traces(flight):
        return _not_checked("software", "no_traces")
    named: dict[str, set[str]] = {}
    changed = []
    for photo in flight.photos:
        trace = _trace(photo)
        for tool in (trace.software, *trace.tools):
            if _EDITORS.search(tool):
                named.setdefault(tool[:60], set()).add(photo.name)
        if trace.changed is not None and photo.taken is not None:
            taken = photo.taken.replace(tzinfo=None)
            if trace.changed.replace(tzinfo=None) - taken > timedelta(minutes=1):
                changed.append(photo.name)
    result = []
    if named:
        names = set().union(*named.values())
        result.append(_found("software", "strong", "editor_named", names, tools="; ".join(sorted(named)[:5])))
    if changed:
        result.append(_found("software", "moderate", "changed_later", changed))
    versions = Counter(_trace(photo).software for photo in flight.photos)
    most, count = versions.most_common(1)[0]
    if not named and len(versions) > 1 and count >= 0.5 * len(flight.photos):
        odd = [photo.name for photo in flight.photos if _trace(photo).software != most]
        shown = "; ".join(sorted(text or "-" for text in versions)[:5])
        result.append(_found("software", "moderate", "other_software", odd, versions=shown))
    return result or _nothing("software", len(flight.photos))


def _maker_notes(flight: Flight, config: AuthenticityConfig) -> list[Indication]:
    """Maker notes and thumbnails that most photos of a camera have and some do not."""
    if not _all_traces(flight):
        return _not_checked("maker_notes", "no_traces")
    tests: tuple[tuple[str, Callable[[FileTraces], bool]], ...] = (
        ("no_maker_note", lambda trace: trace.maker_note),
        ("no_thumbnail", lambda trace: trace.thumbnail),
    )
    result = []
    for photos in _by_camera(flight).values():
        for case, has in tests:
            without = [p.name for p in photos if not has(_trace(p))]
            if without and len(without) <= (1 - config.common_share) * len(photos):
                result.append(_found("maker_notes", "moderate", case, without, of=len(photos)))
    return result or _nothing("maker_notes", len(flight.photos))


def _thumbnails(flight: Flight, looks: Mapping[str, Appearance] | None, config: AuthenticityConfig) -> list[Indication]:
    """The thumbnail in the file against the picture."""
    if looks is None:
        return _not_checked("thumbnails", "no_pictures")
    with_one = {name: look for name, look in looks.items() if look.thumbnail is not None and look.contrast > 5}
    if not with_one:
        return _not_checked("thumbnails", "no_thumbnails")
    turned = [
        name
        for name, look in with_one.items()
        if (look.thumbnail_turned or -1) > max(look.thumbnail or -1, config.least_likeness)
    ]
    other = [name for name, look in with_one.items() if (look.thumbnail or -1) < config.least_likeness and name not in turned]
    result = []
    if turned:
        result.append(_found("thumbnails", "strong", "thumbnail_turned", turned))
    if other:
        least = min(with_one[name].thumbnail or -1.0 for name in other)
        result.append(_found("thumbnails", "moderate", "thumbnail_differs", other, least=f"{least:.2f}"))
    return result or _nothing("thumbnails", len(with_one))


_TURN = (1 << 256) - 1


def _same_pictures(flight: Flight, looks: Mapping[str, Appearance] | None, config: AuthenticityConfig) -> list[Indication]:
    """One picture in two files: by its bytes, or by its fingerprint, upright or turned by 180 degrees."""
    result: list[Indication] = []
    twins = [(name, said.values.get("other", "")) for name, said in flight.rejected.items() if said.id == "drone.duplicate_photo"]
    if twins:
        result.append(_found("same_pictures", "weak", "same_bytes", {name for pair in twins for name in pair}))
    if looks is None:
        return result or _not_checked("same_pictures", "no_pictures")
    places = positions_of(flight)
    photos = [photo for photo in flight.photos if photo.name in looks and looks[photo.name].contrast > 5]
    near: set[str] = set()
    far: set[str] = set()
    about: set[str] = set()
    # Turned by 180 degrees the differences between neighbours come in reverse order with the other sign.
    back = {p.name: int(f"{looks[p.name].fingerprint:0256b}"[::-1], 2) ^ _TURN for p in photos}
    for i, p in enumerate(photos):
        for q in photos[i + 1 :]:
            if (looks[p.name].fingerprint ^ back[q.name]).bit_count() <= config.same_picture_bits:
                about |= {p.name, q.name}
            if distance(looks[p.name], looks[q.name]) > config.same_picture_bits:
                continue
            placed = p.name in places and q.name in places
            apart = float(np.hypot(*(places[p.name] - places[q.name])[:2])) if placed else 0.0
            error = 3 * math.hypot(*p.position_sd[:2], *q.position_sd[:2])
            # Pictures a few per cent apart look alike; a tenth of the height moves them by more.
            moved = config.same_place_m + 0.1 * max(p.relative_altitude or 50.0, q.relative_altitude or 50.0)
            (far if apart > moved + error else near).update((p.name, q.name))
    if far:
        result.append(_found("same_pictures", "strong", "same_picture_elsewhere", far))
    if about:
        result.append(_found("same_pictures", "strong", "same_picture_turned", about))
    if near - far:
        result.append(_found("same_pictures", "weak", "same_picture_here", near - far))
    return result or _nothing("same_pictures", len(photos))


# --------------------------------------------------------------------------------------------------------------------
# Against the reconstruction


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far positions run behind the cameras along the way flown.

    offset: m; seconds: s, None without times; each with its standard uncertainty. probability: of an estimate that far from zero by chance
    (two-sided t test, `degrees` of freedom). correlation: of neighbouring residuals, which widens the uncertainty.
    """

    offset: float
    offset_sd: float
    seconds: float | None
    seconds_sd: float | None
    probability: float
    degrees: float
    correlation: float


def estimate_lag(reconstruction: Reconstruction) -> Lag | None:
    """The lag of the positions behind the reconstructed cameras; None where it cannot be told from a shift.

    Position - camera = shift + turn and scale about the middle - lag x direction of flight, by least squares over the photos of strips,
    horizontally. Strips flown in one direction only, or along one line, do not determine it. Errors of receivers go on from photo
    to photo: the variance is widened by (1 + r) / (1 - r), r the correlation of neighbouring residuals (first-order autoregression).
    """
    flight = reconstruction.flight
    given = positions_of(flight)
    names = sorted(set(given) & set(reconstruction.poses))
    if len(names) < 6:
        return None
    places = np.array([given[name] for name in names])
    cameras = np.array([reconstruction.poses[name].C for name in names])
    if reconstruction.accuracy.control == "none":
        scale, turn, shift = similarity(cameras, places)
        cameras = scale * cameras @ turn.T + shift
    where = dict(zip(names, cameras, strict=True))
    photos = {photo.name: photo for photo in flight.photos}
    rows, right, strip_of, speeds = [], [], [], []
    middle = cameras.mean(axis=0)
    for strip in strips_of(flight):
        inside = [name for name in strip.photos if name in where]
        if strip.heading is None or len(inside) < 2:
            continue
        along = where[inside[-1]] - where[inside[0]]
        direction = along[:2] / np.hypot(*along[:2])
        first, last = moment(photos[inside[0]]), moment(photos[inside[-1]])
        took = (last - first).total_seconds() if first is not None and last is not None else 0.0
        speed = float(np.hypot(*along[:2])) / took if took > 0 else math.nan
        for name in inside:
            x, y = where[name][:2] - middle[:2]
            rows += [[1, 0, x, -y, -direction[0]], [0, 1, y, x, -direction[1]]]
            right += list((given[name] - where[name])[:2])
            strip_of.append(strip.number)
            speeds.append(speed)
    if len(strip_of) < 6:
        return None
    design, target = np.array(rows), np.array(right)
    others, lagged = design[:, :4], design[:, 4]
    alone = lagged - others @ np.linalg.lstsq(others, lagged, rcond=None)[0]
    if (alone**2).sum() < 0.1 * (lagged**2).sum():
        return None
    solution = np.linalg.lstsq(design, target, rcond=None)[0]
    residual = (target - design @ solution).reshape(-1, 2)
    pairs = [(k, k + 1) for k in range(len(strip_of) - 1) if strip_of[k] == strip_of[k + 1]]
    power = float((residual**2).sum(axis=1).mean())
    product = float(np.mean([residual[a] @ residual[b] for a, b in pairs])) if pairs else 0.0
    r = min(max(product / power, 0.0), 0.9) if power > 0 else 0.0
    wider = (1 + r) / (1 - r)
    degrees = max(len(target) / wider - 5, 1.0)
    variance = float((residual**2).sum()) / max(len(target) - 5, 1) * wider / float((alone**2).sum())
    offset, sd = float(solution[4]), math.sqrt(variance)
    known = [speed for speed in speeds if math.isfinite(speed)]
    speed = float(np.median(known)) if len(known) == len(speeds) else math.nan
    timed = math.isfinite(speed) and speed > 0.2
    return Lag(
        offset=offset,
        offset_sd=sd,
        seconds=offset / speed if timed else None,
        seconds_sd=sd / speed if timed else None,
        probability=float(2 * student_t.sf(abs(offset) / sd, degrees)) if sd > 0 else 0.0,
        degrees=degrees,
        correlation=r,
    )


def _lag(reconstruction: Reconstruction, config: AuthenticityConfig) -> list[Indication]:
    lag = estimate_lag(reconstruction)
    if lag is None:
        return _not_checked("lag", "lag_undetermined")
    offset = Quantity(value=lag.offset, unit="m", standard_uncertainty=lag.offset_sd, propagation="drone.propagation_lag")
    values: dict[str, Any] = {"offset": offset, "p": f"{lag.probability:.2g}"}
    case = "lag_m"
    if lag.seconds is not None and lag.seconds_sd is not None:
        case = "lag_s"
        values["seconds"] = Quantity(
            value=lag.seconds, unit="s", standard_uncertainty=lag.seconds_sd, propagation="drone.propagation_lag"
        )
    if lag.probability >= config.significance:
        statement = Message(id=f"drone.auth_no_{case}", values=values)
        return [Indication(test="lag", outcome="nothing_found", strength=None, statement=statement, reason=None)]
    large = abs(lag.seconds) > 2 if lag.seconds is not None else False
    return [
        Indication(
            test="lag",
            outcome="found",
            strength="moderate" if large else "weak",
            statement=Message(id=f"drone.auth_{case}", values=values),
            reason=Message(id="drone.authwhy_lag_large" if large else "drone.authwhy_lag"),
        )
    ]


def _misfits(reconstruction: Reconstruction) -> list[Indication]:
    """Photos whose position is far from the reconstructed camera, beyond six times the usual distance and their own error."""
    if reconstruction.accuracy.control == "none":
        return _not_checked("misfits", "no_frame")
    given = positions_of(reconstruction.flight)
    names = sorted(set(given) & set(reconstruction.poses))
    if len(names) < 6:
        return _not_checked("misfits", "few_positions")
    apart = np.array([given[name] - reconstruction.poses[name].C for name in names])
    apart = np.hypot(*(apart - np.median(apart, axis=0))[:, :2].T)
    usual = 1.4826 * float(np.median(apart))
    photos = {photo.name: photo for photo in reconstruction.flight.photos}
    far = {
        name: float(d)
        for name, d in zip(names, apart, strict=True)
        if d > 6 * max(usual, math.hypot(*photos[name].position_sd[:2]) / 2)
    }
    if far:
        return [_found("misfits", "moderate", "misfit", far, most=f"{max(far.values()):.1f}", usual=f"{usual:.2f}")]
    return _nothing("misfits", len(names))


def _turned(reconstruction: Reconstruction, config: AuthenticityConfig) -> list[Indication]:
    """Photos whose picture is turned about the view against the attitude told."""
    if reconstruction.accuracy.control == "none":
        return _not_checked("turned", "no_frame")
    flight = reconstruction.flight
    angles: dict[str, float] = {}
    for photo in flight.photos:
        pose = reconstruction.poses.get(photo.name)
        if pose is None or photo.attitude is None or photo.position is None:
            continue
        turn = convergence(flight.crs, photo.position[0], photo.position[1])
        told = attitude_rotation((photo.attitude[0] - turn, photo.attitude[1], photo.attitude[2]))
        # Both right-hand axes in the plane of the picture as told: the angle between them is the turn about the view.
        across = told @ pose.R[0]
        angles[photo.name] = math.degrees(math.atan2(across[1], across[0]))
    if len(angles) < 3:
        return _not_checked("turned", "no_attitudes")
    odd = {name: angle for name, angle in angles.items() if abs(angle) > config.turned_deg}
    if not odd:
        return _nothing("turned", len(angles))
    usual = f"{float(np.median([abs(a) for n, a in angles.items() if n not in odd] or [0.0])):.0f}"
    mean = f"{float(np.median([abs(a) for a in odd.values()])):.0f}"
    quarter = all(min(abs(abs(a) - k) for k in (90, 180)) < 20 for a in odd.values())
    if len(odd) == len(angles):
        return [_found("turned", "weak", "all_turned", odd, angle=mean)]
    strength: Strength = "strong" if quarter else "moderate"
    case = "turned" if quarter else "turned_oddly"
    return [_found("turned", strength, case, odd, angle=mean, usual=usual, of=len(angles))]
