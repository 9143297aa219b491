"""Witnesses: somebody else who has seen a log grow, and never sees it shrink or split (C2SP tlog-witness).

`Witness` keeps, in a folder of its own, what it has signed of each log that it was told to serve. A checkpoint is kept
durably before its signature leaves, under the lock of one database, so that two processes cannot sign two histories.
Checkpoints that contradict what was signed are refused, and both are kept as proof of a fork. `WitnessClient` is the side
of the log. Who may be believed is not decided here. Byte formats: docs/formats/time.md.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from geoevidence.custody.asking import Answer, Transport, ask_patiently, http_transport, require_url
from geoevidence.custody.files import storage_error, write_durably
from geoevidence.custody.signers import NoteSigner
from geoevidence.errors import AnswerError, ConfigError, CustodyError, FormatError, GeoEvidenceError, ProofError, SignatureError
from geoevidence.trust.canonical import base64_text, base64_value
from geoevidence.trust.manifest import parse_keys
from geoevidence.trust.merkle import EMPTY_ROOT, verify_consistency
from geoevidence.trust.notes import (
    Cosignature,
    LogCheckpoint,
    NoteSignature,
    SignedNote,
    cosignature_key_hash,
    note_key_hash,
    note_key_name,
    parse_checkpoint,
    parse_note,
)
from geoevidence.trust.signatures import PublicKey

MAX_REQUEST = 1 << 16
"""Bytes of the largest request read: 63 hashes and a checkpoint with some signatures take less than 8 KB."""
MAX_PROOF = 63
"""Hashes in a consistency proof (C2SP tlog-witness, section add-checkpoint)."""
MAX_KEPT = 100
"""Contradictions of each kind kept of one log: whoever holds its key could fill the disk with more."""
_LOG, _WITNESS = 0x01, 0x04
_SIZE_TYPE, _TEXT = "text/x.tlog.size", "text/plain; charset=utf-8"
_OLD = re.compile(r"old (0|[1-9][0-9]{0,17})", re.ASCII)
_KEY_HASH = re.compile(r"[0-9a-f]{8}", re.ASCII)
_FILE = "witness.sqlite"
_WAIT_SECONDS = 30


class WitnessKey(NamedTuple):
    """Ed25519 key of a log or of a witness with its name, as a verifier key hands it on (C2SP signed-note).

    name: key name. key: public key. kind: 1 for a log, 4 for a witness.
    """

    name: str
    key: PublicKey
    kind: int

    @property
    def key_hash(self) -> bytes:
        hashed = note_key_hash if self.kind == _LOG else cosignature_key_hash
        return hashed(self.name, self.key.raw)

    @property
    def text(self) -> str:
        """`<name>+<key hash>+<base64(type || public key)>`."""
        return f"{self.name}+{self.key_hash.hex()}+{base64_text(bytes([self.kind]) + self.key.raw)}"

    @classmethod
    def of_log(cls, key: PublicKey) -> WitnessKey:
        """As one of our logs signs its checkpoints with the key. Raises ConfigError for a key that is not Ed25519."""
        return cls(note_key_name(_ed25519(key)), key, _LOG)

    @classmethod
    def of_witness(cls, key: PublicKey) -> WitnessKey:
        """As one of our witnesses cosigns with the key. Raises ConfigError for a key that is not Ed25519."""
        return cls(note_key_name(_ed25519(key)), key, _WITNESS)

    @classmethod
    def parse(cls, text: str) -> WitnessKey:
        """The key of a verifier key's text. Raises ConfigError."""
        name, plus, rest = text.strip().partition("+")
        key_hash, _, material = rest.partition("+")
        try:
            raw = base64_value(material, where="verifier key")
            if not plus or not name or any(c.isspace() for c in name) or not _KEY_HASH.fullmatch(key_hash):
                raise FormatError("trust.note_signatures")
            if len(raw) != 33 or raw[0] not in (_LOG, _WITNESS):
                raise FormatError("trust.key_length", algorithm="ed25519", found=len(raw) - 1)
            found = cls(name, PublicKey("ed25519", raw[1:]), raw[0])
        except FormatError as error:
            raise ConfigError("custody.verifier_key", found=text.strip()[:120], reason=error) from error
        if found.key_hash.hex() != key_hash:
            raise ConfigError("custody.verifier_key", found=text.strip()[:120], reason=key_hash)
        return found


def _ed25519(key: PublicKey) -> PublicKey:
    if key.algorithm != "ed25519":
        raise ConfigError("custody.witness_key_kind", found=key.algorithm)
    return key


def read_log_keys(words: str) -> tuple[WitnessKey, ...]:
    """Keys of a log: a verifier key, a file of them (one a line), or a list of keys as `keys.json` of a package holds it.

    In a list, keys of other algorithms than Ed25519 are left out: they sign no checkpoints.

    Raises: ConfigError.
    """
    path = Path(words)
    if "+" in words and not path.is_file():
        return (WitnessKey.parse(words),)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError("custody.key_file", path=path, reason=error.strerror or str(error)) from error
    try:
        if data[:1] == b"[":
            listed = parse_keys(data, where=str(path))
            found = tuple(WitnessKey.of_log(each.key) for each in listed if each.key.algorithm == "ed25519")
        else:
            found = tuple(WitnessKey.parse(line) for line in data.decode("utf-8").splitlines() if line.strip())
    except (FormatError, UnicodeDecodeError) as error:
        raise ConfigError("custody.key_file", path=path, reason=error) from error
    if not found:
        raise ConfigError("custody.key_file", path=path, reason="0")
    return found


class WitnessRequest(NamedTuple):
    """old_size: of the tree that the proof starts from. proof: hashes. checkpoint, note: where it leads. raw: the signed note."""

    old_size: int
    proof: tuple[bytes, ...]
    checkpoint: LogCheckpoint
    note: SignedNote
    raw: bytes

    def to_bytes(self) -> bytes:
        lines = "".join(f"{base64_text(each)}\n" for each in self.proof)
        return f"old {self.old_size}\n{lines}\n".encode() + self.raw


def build_witness_request(checkpoint: bytes, old_size: int, proof: Sequence[bytes]) -> bytes:
    """Body of add-checkpoint for a signed checkpoint. Raises FormatError."""
    return WitnessRequest(old_size, tuple(proof), *parse_checkpoint(checkpoint), checkpoint).to_bytes()


def parse_witness_request(data: bytes, *, where: str = "add-checkpoint") -> WitnessRequest:
    """The request in the body of add-checkpoint; `old` is at most the size of the checkpoint. Raises FormatError."""
    head, gap, raw = bytes(data).partition(b"\n\n")
    try:
        first, *lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError("custody.witness_request", where=where) from error
    old = _OLD.fullmatch(first)
    if len(data) > MAX_REQUEST or not gap or old is None or len(lines) > MAX_PROOF:
        raise FormatError("custody.witness_request", where=where)
    proof = tuple(base64_value(line, where=where) for line in lines)
    checkpoint, note = parse_checkpoint(raw, where=where)
    if any(len(each) != 32 for each in proof) or int(old[1]) > checkpoint.tree_size:
        raise FormatError("custody.witness_request", where=where)
    return WitnessRequest(int(old[1]), proof, checkpoint, note, raw)


class Witness:
    """The witness whose state is in a folder.

    Args:
        folder: made at first use; two processes may share it.
        signer: its Ed25519 key, which should serve nothing else.
        now: its clock; aware times.
    """

    def __init__(self, folder: Path, *, signer: NoteSigner, now: Callable[[], datetime]) -> None:
        self.folder = folder
        self.key = WitnessKey.of_witness(signer.public_key)
        self._signer = signer
        self._now = now
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, folder) from error
        with self._state() as state:
            state.execute("CREATE TABLE IF NOT EXISTS allowed (origin TEXT, key TEXT, PRIMARY KEY (origin, key))")
            state.execute("CREATE TABLE IF NOT EXISTS signed (origin TEXT, size INTEGER, note BLOB, PRIMARY KEY (origin, size))")

    def allow(self, origin: str, key: WitnessKey) -> None:
        """Serve the log of that origin, whose checkpoints this key (or another one allowed for it) signs.

        An origin that ends with `/*` stands for every log whose name begins so, as all cases of one workspace.

        Raises: ConfigError for an origin that none can be, or the key of a witness.
        """
        if key.kind != _LOG:
            raise ConfigError("custody.witness_not_log_key", found=key.text)
        try:
            LogCheckpoint(origin, 0, EMPTY_ROOT)
        except FormatError as error:
            raise ConfigError("custody.witness_origin", found=origin[:120]) from error
        with self._state() as state:
            state.execute("INSERT OR IGNORE INTO allowed VALUES (?, ?)", (origin, key.text))

    def allowed(self) -> tuple[tuple[str, str], ...]:
        """Origin and verifier key of each log that is served, sorted."""
        with self._state() as state:
            return tuple(state.execute("SELECT origin, key FROM allowed ORDER BY origin, key").fetchall())

    def newest(self, origin: str) -> bytes | None:
        """The largest checkpoint signed of a log, as the log signed it, or None."""
        with self._state() as state:
            row = state.execute("SELECT note FROM signed WHERE origin = ? ORDER BY size DESC LIMIT 1", (origin,)).fetchone()
        return None if row is None else bytes(row[0])

    def add_checkpoint(self, request: bytes) -> Answer:
        """The answer to an add-checkpoint request, whatever its bytes are.

        200 with the cosignature line; 400, 403, 404, 409, 422 as docs/formats/time.md lists them.

        Raises: CustodyError when the state cannot be read or kept; nothing is signed then.
        """
        try:
            asked = parse_witness_request(request)
        except FormatError as error:
            return _refusal(400, error)
        origin, size, root = asked.checkpoint.origin, asked.checkpoint.tree_size, asked.checkpoint.root
        with self._state() as state:
            keys = self._keys_of(state, origin)
            if not keys:
                return _refusal(404, CustodyError("custody.witness_unknown_log", origin=origin))
            if not any(_is_signed_by(asked.note, key) for key in keys):
                return _refusal(403, CustodyError("custody.witness_wrong_key", origin=origin))
            known_size, known_root, known_raw = _newest(state, origin)
            signed = state.execute("SELECT note FROM signed WHERE origin = ? AND size = ?", (origin, size)).fetchone()
            if signed is not None and parse_checkpoint(bytes(signed[0]))[0].root != root:
                self._keep_contradiction(asked, bytes(signed[0]), "fork")
            no_tree = size == 0 and root != EMPTY_ROOT
            if asked.old_size != known_size or (size == known_size and root != known_root and not no_tree):
                return Answer(409, _SIZE_TYPE, f"{known_size}\n".encode())
            try:
                if no_tree:
                    raise ProofError("trust.proof_root", expected=EMPTY_ROOT.hex(), found=root.hex())
                verify_consistency(known_size, known_root, size, root, asked.proof)
            except ProofError as error:
                if known_raw is not None:
                    self._keep_contradiction(asked, known_raw, "unproved")
                return _refusal(422, error)
            state.execute("INSERT OR REPLACE INTO signed VALUES (?, ?, ?)", (origin, size, asked.raw))
        # what is kept is durable now, and nothing smaller or different can be signed any more
        line = self._cosign(asked.checkpoint)
        return Answer(200, _TEXT, line)

    def contradictions(self) -> tuple[Path, ...]:
        """Folders that hold `known.note` and `presented.note`, two checkpoints of one log that were not shown to fit, sorted.

        `<log>-fork-...`: one size and two roots, which proves a fork. `<log>-unproved-...`: no proof led from one to the
        other, which anybody can bring about who has a checkpoint.
        """
        return tuple(sorted(path for path in (self.folder / "forks").glob("*") if path.is_dir()))

    def transport(self) -> Transport:
        """Answers in this process, as it would over HTTP."""

        def answer(url: str, body: bytes | None, content_type: str) -> Answer:
            return self.answer_get(url) if body is None else self.add_checkpoint(body)

        return answer

    def answer_get(self, path: str) -> Answer:
        """The verifier key of this witness at `.../key`; else 404."""
        return Answer(200, _TEXT, f"{self.key.text}\n".encode()) if path.endswith("/key") else Answer(404, _TEXT, b"")

    def _cosign(self, checkpoint: LogCheckpoint) -> bytes:
        unsigned = Cosignature(self.key.name, self.key.key_hash, int(self._now().timestamp()), bytes(64))
        signature = self._signer.sign(unsigned.message(checkpoint.to_text()))
        made = Cosignature(unsigned.name, unsigned.key_hash, unsigned.seconds, signature)
        return made.to_bytes(checkpoint.to_text()).partition(b"\n\n")[2]

    @staticmethod
    def _keys_of(state: sqlite3.Connection, origin: str) -> list[WitnessKey]:
        parts = origin.split("/")
        names = [origin, *("/".join(parts[:n]) + "/*" for n in range(1, min(len(parts), 9)))]
        rows = state.execute(f"SELECT key FROM allowed WHERE origin IN ({','.join('?' * len(names))})", names)
        return [WitnessKey.parse(row[0]) for row in rows.fetchall()]

    def _keep_contradiction(self, asked: WitnessRequest, known: bytes, kind: str) -> None:
        """Both notes under a name that follows from them, so that the same contradiction is kept once."""
        log = hashlib.sha256(asked.checkpoint.origin.encode("utf-8")).hexdigest()[:16]
        pair = hashlib.sha256(known + b"\x00" + asked.note.text.encode("utf-8")).hexdigest()[:16]
        folder = self.folder / "forks" / f"{log}-{kind}-{asked.checkpoint.tree_size}-{pair}"
        # by kind: what is only unproved needs no key of the log, and must not crowd out a fork
        kept = [each for each in (self.folder / "forks").glob(f"{log}-{kind}-*") if each != folder]
        if (folder / "presented.note").exists() or len(kept) >= MAX_KEPT:
            return
        try:
            write_durably(folder / "known.note", known)
            write_durably(folder / "presented.note", asked.raw)
        except OSError as error:
            raise storage_error(error, folder) from error

    @contextmanager
    def _state(self) -> Iterator[sqlite3.Connection]:
        """One transaction, alone among all processes; what it changes is on the disk when it ends."""
        path = self.folder / _FILE
        try:
            with closing(sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous=EXTRA")
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise CustodyError("custody.witness_state", path=path, reason=str(error)) from error


def _newest(state: sqlite3.Connection, origin: str) -> tuple[int, bytes, bytes | None]:
    """Size, root and note of the largest checkpoint signed; the empty tree where none was."""
    row = state.execute("SELECT note FROM signed WHERE origin = ? ORDER BY size DESC LIMIT 1", (origin,)).fetchone()
    if row is None:
        return 0, EMPTY_ROOT, None
    checkpoint = parse_checkpoint(bytes(row[0]))[0]
    return checkpoint.tree_size, checkpoint.root, bytes(row[0])


def _is_signed_by(note: SignedNote, key: WitnessKey) -> bool:
    for each in note.signatures:
        if (each.name, each.key_hash) == (key.name, key.key_hash):
            try:
                key.key.verify(each.signature, note.text.encode("utf-8"))
            except SignatureError:
                return False
            return True
    return False


def _refusal(status: int, error: GeoEvidenceError) -> Answer:
    return Answer(status, _TEXT, f"{error.render('en')}\n{error.render('zh')}\n".encode())


def read_cosignature(answer: bytes, checkpoint: bytes, key: WitnessKey, *, where: str) -> bytes:
    """The `.cosig` file of a witness's answer to add-checkpoint: one or more signature lines, of which one is by `key`.

    Raises: AnswerError when none is, or it is not a valid cosignature of the checkpoint.
    """
    head, note = parse_checkpoint(checkpoint)
    text = head.to_text()
    try:
        lines = parse_note(text.encode("utf-8") + b"\n" + answer, where=where)
        if lines.text != note.text:
            raise FormatError("trust.note_syntax", where=where)
        mine: list[NoteSignature] = [s for s in lines.signatures if (s.name, s.key_hash) == (key.name, key.key_hash)]
        if not mine:
            raise SignatureError("trust.note_not_signed", name=key.name)
        found = Cosignature.of_signature(mine[0], where=where)
        found.verify(key.key, text)
    except GeoEvidenceError as error:
        raise AnswerError("custody.witness_answer", where=where, reason=error) from error
    return found.to_bytes(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessClient:
    """A witness that answers over HTTP.

    url: prefix of its addresses, of http or https. key: its key. transport: how it is asked.
    sleep: waits that many seconds between tries. tries: how often it is asked before giving up.
    """

    url: str
    key: WitnessKey
    transport: Transport
    sleep: Callable[[float], None] = time.sleep
    tries: int = 3

    def __post_init__(self) -> None:
        require_url(self.url)
        if self.key.kind != _WITNESS or self.key.name != note_key_name(self.key.key):
            raise ConfigError("custody.witness_key_name", found=self.key.text, expected=note_key_name(self.key.key))

    @classmethod
    def over_http(cls, url: str, *, key: WitnessKey | None = None, transport: Transport | None = None) -> WitnessClient:
        """The witness at that address of the network; where no key is given, it is asked for its own.

        A key that came so says only who answered; the reader of a package decides whom to trust.

        Raises: ConfigError; NoAnswerError, AnswerError when it does not hand out its key.
        """
        transport = transport or http_transport()
        if key is None:
            place = f"{require_url(url).rstrip('/')}/key"
            answer = ask_patiently(transport, place, None, "")
            if answer.status != 200:
                raise AnswerError("custody.answer_status", where=place, status=answer.status)
            try:
                key = WitnessKey.parse(answer.body.decode("utf-8"))
            except (UnicodeDecodeError, ConfigError) as error:
                raise AnswerError("custody.witness_answer", where=place, reason=error) from error
        return cls(url=url, key=key, transport=transport)

    @property
    def name(self) -> str:
        return self.url

    def cosign(self, checkpoint: bytes, proof: Callable[[int], tuple[bytes, ...]]) -> bytes:
        """The witness's cosignature of a signed checkpoint, checked: bytes of a `.cosig` file.

        Args:
            checkpoint: the signed note.
            proof: the consistency proof from a tree of that size to the checkpoint; empty from size 0.

        Raises: NoAnswerError, when it can be asked again later; AnswerError when the witness refuses, above all because it
            has signed another history of this log.
        """
        head, place = parse_checkpoint(checkpoint)[0], f"{self.url.rstrip('/')}/add-checkpoint"
        # a witness that has never seen the log takes the first; any other one says what it has seen
        old, tried = 0, set[int]()
        while True:
            tried.add(old)
            request = build_witness_request(checkpoint, old, proof(old))
            answer = ask_patiently(self.transport, place, request, "text/plain", tries=self.tries, sleep=self.sleep)
            if answer.status == 200:
                return read_cosignature(answer.body, checkpoint, self.key, where=self.url)
            if answer.status != 409:
                raise AnswerError("custody.witness_refuses", where=self.url, status=answer.status, reason=_shown(answer.body))
            old = self._known_size(answer)
            if old > head.tree_size:
                raise AnswerError("custody.witness_ahead", where=self.url, known=old, found=head.tree_size)
            # a second log may be anchored meanwhile, so the size may move; the same size twice is a contradiction
            if old in tried or len(tried) > 3:
                raise AnswerError("custody.witness_contradicts", where=self.url, size=old)

    def _known_size(self, answer: Answer) -> int:
        match = _OLD.fullmatch("old " + answer.body.decode("latin-1").removesuffix("\n"))
        if match is None or answer.content_type.partition(";")[0].strip().lower() != _SIZE_TYPE:
            raise AnswerError("custody.witness_answer", where=self.url, reason=_shown(answer.body))
        return int(match[1])


def _shown(body: bytes) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", body[:400].decode("utf-8", "replace")).strip() or "-"
