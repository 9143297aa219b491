"""Opens workspaces for the person at this machine, and names the processes that can be run.

Knows no streamlit. Reads the environment (GEOEVIDENCE_KEYS, GEOEVIDENCE_PASSPHRASE), the terminal and the clock on behalf of the parts below,
which are given them as arguments.
"""

from __future__ import annotations

import getpass
import os
import platform
import secrets
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from geoevidence import __version__
from geoevidence.catalogue import open_log_store
from geoevidence.custody import (
    PENDING,
    SETTINGS,
    CustodyEvent,
    EvidenceSources,
    KeyFolder,
    PendingEvidence,
    Session,
    Signer,
    TimeSettings,
    Witness,
    Workspace,
    read_time_settings,
    sources_of,
)
from geoevidence.errors import ConfigError, InputError
from geoevidence.messages import LANGUAGES, render
from geoevidence.types import Actor


def key_folder(keys: Path | None = None) -> KeyFolder:
    """The local user's keys: in the folder given, else in GEOEVIDENCE_KEYS, else where the platform keeps settings."""
    return KeyFolder(keys or (Path(os.environ["GEOEVIDENCE_KEYS"]) if os.environ.get("GEOEVIDENCE_KEYS") else None))


def trust_file_path() -> Path:
    """Where the local user's trust file is, unless another is named."""
    return key_folder().path / "trust.json"


def passphrase_of(folder: KeyFolder) -> str | None:
    """The passphrase of a key folder: GEOEVIDENCE_PASSPHRASE, else asked for; None where the keys have none."""
    given = os.environ.get("GEOEVIDENCE_PASSPHRASE") or None
    if not folder.has_key:
        return given  # the key that is made will have it
    if not folder.is_encrypted:
        return None
    return given or ask_passphrase("app.passphrase")


def ask_passphrase(prompt: str, *, twice: bool = False) -> str | None:
    """Asks at the terminal, without showing what is typed; None where there is no terminal or nothing is typed.

    Args:
        prompt: message id.
        twice: for a new one, where a slip would lock the owner out.

    Raises: ConfigError when the two differ.
    """
    if not sys.stdin.isatty():
        return None
    text = " / ".join(render(prompt, {}, lang) for lang in LANGUAGES)
    given = getpass.getpass(f"{text}: ") or None
    if twice and given != (getpass.getpass(f"{text} (2/2): ") or None):
        raise ConfigError("app.passphrases_differ")
    return given


def passphrase_of_file(path: Path, prompt: str, *, variable: str = "GEOEVIDENCE_PASSPHRASE") -> str | None:
    """The passphrase of a private key file: that variable, else asked for; None where the file needs none."""
    try:
        with path.open("rb") as stream:
            needed = b"BEGIN ENCRYPTED PRIVATE KEY" in stream.read(1 << 20)
    except OSError:
        return None  # whoever reads the file says what is wrong with it
    return (os.environ.get(variable) or ask_passphrase(prompt)) if needed else None


def new_passphrase() -> str:
    """A new passphrase: GEOEVIDENCE_NEW_PASSPHRASE, else asked for twice. Raises ConfigError when there is none."""
    given = os.environ.get("GEOEVIDENCE_NEW_PASSPHRASE") or ask_passphrase("app.new_passphrase", twice=True)
    if not given:
        raise ConfigError("app.no_new_passphrase")
    return given


def local_session(keys: Path | None = None) -> Session:
    """The session of the local user on this device: the key of the key folder, system clock, identity level "local"."""
    folder = key_folder(keys)
    return Session(
        actor=Actor(id=getpass.getuser(), role="operator", auth_level="local"),
        signer=folder.signer(passphrase=passphrase_of(folder)),
        device_serial=platform.node() or "unknown",
        software=f"geoevidence {__version__}",
        now=lambda: datetime.now(UTC),
        clock_source="system",
        clock_offset_ms=None,
        random=secrets.token_bytes,
    )


def create_workspace(path: Path) -> Workspace:
    """A new workspace at `path`. Raises CustodyError when something else is there."""
    return Workspace.create(path, session=local_session(), log_store=open_log_store(path))


def open_workspace(path: Path) -> Workspace:
    """The workspace at `path`. Raises CustodyError when there is none."""
    return Workspace.open(path, session=local_session(), log_store=open_log_store(path))


def rotate_keys(path: Path, cases: Sequence[str], *, new_key: bool, reason: str) -> tuple[tuple[str, CustodyEvent], ...]:
    """Hand over from the earlier keys of this device to the one that follows, in the cases named (all, where none is).

    Args:
        path: the workspace.
        new_key: make a new Ed25519 key, which is in use from then on; else only record what was replaced before (by
            an imported SM2 key, or in a rotation that left these cases out).
        reason: superseded, compromised, lost or ended.

    Returns (case id, event) for each that was recorded; a case where no earlier key ever signed has none.
    Raises: CustodyError. Asked for again, it goes on where it stopped.
    """
    folder = key_folder()
    phrase = passphrase_of(folder)
    session = local_session()
    software = folder.software_signer(passphrase=phrase)
    following = folder.next_signer(passphrase=phrase) if new_key else software
    retired = folder.retired_signers(passphrase=phrase)
    pairs: list[tuple[Signer, Signer]] = [(each, following) for each in retired if not each.certificates]
    if new_key:
        pairs.append((software, following))
    elif session.signer.certificates:
        pairs += [(each, session.signer) for each in retired if each.certificates]
    workspace = Workspace.open(path, session=session, log_store=open_log_store(path))
    recorded = []
    for case in [workspace.case(name) for name in cases or [each.id for each in workspace.cases()]]:
        for old, new in pairs:
            key_id = old.public_key.key_id
            if key_id in {each.public_key.key_id for each in case.public_keys()} and key_id not in case.ended_keys():
                recorded.append((case.id, case.rotate_key(new, old=old, reason=reason)))
    if new_key:
        folder.promote_next(passphrase=phrase)
    return tuple(recorded)


def time_sources(workspace: Workspace, *, time_stamps: Sequence[str] = (), witnesses: Sequence[str] = ()) -> EvidenceSources:
    """Whom to ask for evidence of time: the addresses given, and those in `time.toml` of the workspace.

    Raises: ConfigError; NoAnswerError, AnswerError from a witness that has to be asked for its key and does not give it.
    """
    named = read_time_settings(workspace.path / SETTINGS)
    known = {url for url, _ in named.witnesses}
    settings = TimeSettings(
        time_stamps=tuple(dict.fromkeys((*named.time_stamps, *time_stamps))),
        witnesses=(*named.witnesses, *((url, None) for url in dict.fromkeys(witnesses) if url not in known)),
    )
    return sources_of(settings, random=secrets.token_bytes)


def stamp_sources(urls: Sequence[str]) -> EvidenceSources:
    """The time-stamp authorities at these addresses, for what needs no workspace. Raises ConfigError."""
    return sources_of(TimeSettings(time_stamps=tuple(dict.fromkeys(urls))), random=secrets.token_bytes)


def pending_evidence(workspace: Workspace) -> PendingEvidence:
    """What authorities and witnesses still owe the cases of a workspace."""
    return PendingEvidence(workspace.path / PENDING)


def open_witness(folder: Path) -> Witness:
    """The witness in a folder, by the system's clock. Raises CustodyError."""
    if not KeyFolder(folder / "keys").has_key:
        raise InputError("cli.witness.missing", path=folder)
    return make_witness(folder)


def make_witness(folder: Path) -> Witness:
    """The witness in a folder, with a key of its own that is made where there is none. Raises CustodyError."""
    return Witness(folder, signer=KeyFolder(folder / "keys").software_signer(), now=lambda: datetime.now(UTC))
