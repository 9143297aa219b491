"""What the sealer makes, the verifier takes; and no byte of it is free. The two were written from docs/formats/ separately."""

from __future__ import annotations

from pathlib import Path

import pytest

from geoevidence.package import seal_folder, seal_zip
from geoevidence.trust import parse_checkpoint, verify_package
from tests.custody.workspaces import Place, full_case
from tests.trust.test_package import names


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same case sealed as a folder, then as a zip: the second log is one event longer."""
    place = Place(tmp_path_factory.mktemp("real"))
    case = full_case(place)
    return seal_folder(case, place.root / "P-1").path, seal_zip(case, place.root / "P-2.zip").path


def test_both_verify(sealed: tuple[Path, Path]) -> None:
    for path in sealed:
        report = verify_package(path)
        assert report.exit_code == 0 and not report.failures, report.render("en")


def test_each_file_changed_in_three_places(sealed: tuple[Path, Path]) -> None:
    folder = sealed[0]
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    assert len(paths) > 20
    for path in paths:
        data, mode = path.read_bytes(), path.stat().st_mode
        path.chmod(0o644)
        for place in {0, len(data) // 2, len(data) - 1}:
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            report = verify_package(folder)
            assert report.exit_code == 1 and names(report, path.relative_to(folder).as_posix())
        path.write_bytes(data)
        path.chmod(mode)
    assert verify_package(folder).verified


def test_the_later_package_knows_the_earlier_log(sealed: tuple[Path, Path]) -> None:
    """The checkpoint of the first package is on the history of the second; the other way round the first is stale."""
    first, second = (verify_package(path).facts for path in sealed)
    assert second["tree_size"] == first["tree_size"] + 1
    early = (sealed[0] / "data" / "log" / "checkpoint").read_bytes()
    assert parse_checkpoint(early)[0].tree_size == first["tree_size"] - 1
    assert verify_package(sealed[1], known_checkpoints=[early]).exit_code == 0


@pytest.mark.parametrize("offset", range(0, 2400, 109))
def test_bytes_at_the_end_of_the_archive(offset: int, sealed: tuple[Path, Path], tmp_path: Path) -> None:
    data = bytearray(sealed[1].read_bytes())
    data[len(data) - 1 - offset] ^= 0x10
    path = tmp_path / "P-2.zip"
    path.write_bytes(data)
    assert verify_package(path).exit_code == 1
