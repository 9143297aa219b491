"use strict";
// Trees of hashes (RFC 9162 section 2.1), signed notes, checkpoints, cosignatures and log proofs (C2SP), DSSE envelopes.
// Each reader accepts one encoding: what it read, written again, gives the same bytes. Throws Fault.

const leafHash = (leaf) => sha256([0], leaf);
const nodeHash = (left, right) => sha256([1], left, right);

/** The root of a tree that grows leaf by leaf; holds the roots of its perfect parts, as many as bits of its size. */
class Tree {
  constructor() {
    this.size = 0;
    this.parts = [];
  }

  append(hash) {
    let part = hash;
    let width = 1;
    while (this.parts.length && this.parts[this.parts.length - 1].width === width) {
      part = nodeHash(this.parts.pop().hash, part);
      width *= 2;
    }
    this.parts.push({ width, hash: part });
    this.size++;
    return this;
  }

  root() {
    if (!this.parts.length) return sha256();
    return this.parts.map((each) => each.hash).reduceRight((right, left) => nodeHash(left, right));
  }
}

function treeRoot(hashes) {
  const tree = new Tree();
  for (const hash of hashes) tree.append(hash);
  return tree.root();
}

/** RFC 9162 section 2.1.3.2, told by halves of the tree: the proof is used from the root down. Throws Fault. */
function verifyInclusion(hash, index, size, proof, root) {
  if (index >= size) throw new Fault("trust.proof_index", { index, tree_size: size });
  const left = proof.slice();
  const climb = (at, width) => {
    if (width === 1) return hash;
    if (!left.length) throw new Fault("trust.proof_length", { expected: "more", found: proof.length });
    // the left part is the largest power of two below the width
    let half = 1;
    while (half * 2 < width) half *= 2;
    const other = left.pop();
    return at < half ? nodeHash(climb(at, half), other) : nodeHash(other, climb(at - half, width - half));
  };
  const found = climb(index, size);
  if (left.length) throw new Fault("trust.proof_length", { expected: "fewer", found: proof.length });
  if (!sameBytes(found, root)) throw new Fault("trust.proof_root", { expected: toHex(root), found: toHex(found) });
}

const MAX_NOTE = 1 << 20;
const CHECKPOINT_SIZE = /^(0|[1-9][0-9]{0,17})$/;

/** {text, signatures: [{name, hash, signature}]} of a signed note. */
function parseNote(bytes, where) {
  const fault = () => new Fault("trust.note_syntax", { where });
  const text = bytes.length > MAX_NOTE ? null : fromUtf8(bytes);
  const gap = text === null ? -1 : text.lastIndexOf("\n\n");
  if (gap < 0 || !text.endsWith("\n")) throw fault();
  const signed = text.slice(0, gap + 1);
  if (/[\x00-\x09\x0b-\x1f]/.test(signed)) throw new Fault("trust.note_text", { where });
  const signatures = text.slice(gap + 2, -1).split("\n").map((line) => {
    const parts = line.split(" ");
    if (parts.length !== 3 || parts[0] !== "\u2014") throw fault();
    const raw = fromBase64(parts[2], where);
    if (!parts[1] || /[+\s\x00-\x1f\x85]/.test(parts[1]) || raw.length < 5) throw new Fault("trust.note_signatures", { where });
    return { name: parts[1], hash: raw.subarray(0, 4), signature: raw.subarray(4) };
  });
  const names = signatures.map((each) => `${each.name} ${toHex(each.hash)}`);
  if (new Set(names).size !== names.length) throw new Fault("trust.note_signatures", { where });
  return { text: signed, signatures };
}

/** {origin, size, root, text, signatures}: three lines, no more. */
function parseCheckpoint(bytes, where) {
  const note = parseNote(bytes, where);
  const fault = () => new Fault("trust.checkpoint_syntax", { where });
  const lines = note.text.split("\n");
  if (lines.length !== 4 || !lines[0] || !CHECKPOINT_SIZE.test(lines[1])) throw fault();
  const size = Number(lines[1]);
  const root = fromBase64(lines[2], where);
  // a log of 2^53 leaves is none that anybody has; a number beyond it could not be told from its neighbour here
  if (root.length !== 32 || !Number.isSafeInteger(size)) throw fault();
  return { origin: lines[0], size, root, ...note };
}

const noteKeyHash = (key, type) => sha256(toUtf8(key.name), [10, type], key.raw).subarray(0, 4);

/** Throws unless `key` signed the note under its own name. */
function verifyNote(note, key) {
  const own = key.algorithm === "ed25519" ? noteKeyHash(key, 1) : null;
  const found = own && note.signatures.find((each) => each.name === key.name && sameBytes(each.hash, own));
  if (!found) throw new Fault("trust.note_not_signed", { name: key.name });
  verifyEd25519(key.raw, found.signature, toUtf8(note.text));
}

/** A checkpoint with one cosignature (C2SP tlog-cosignature): {checkpoint, name, time, latest, verify(key)}. */
function parseCosignature(bytes, where) {
  const checkpoint = parseCheckpoint(bytes, where);
  const [line, ...more] = checkpoint.signatures;
  const seconds = line.signature.length === 72 ? toNumber(line.signature.subarray(0, 8)) : -1n;
  // the last second of the year 9999
  if (more.length || seconds < 0n || seconds > 253402300799n) throw new Fault("trust.cosignature_syntax", { where });
  return {
    // a whole second says when within it: up to its end
    checkpoint, name: line.name, time: utcText(Number(seconds)), latest: utcText(Math.min(Number(seconds) + 1, 253402300799)),
    verify(key) {
      if (key.algorithm !== "ed25519" || line.name !== key.name || !sameBytes(line.hash, noteKeyHash(key, 4))) {
        throw new Fault("trust.note_not_signed", { name: key.name });
      }
      verifyEd25519(key.raw, line.signature.subarray(8), toUtf8(`cosignature/v1\ntime ${seconds}\n${checkpoint.text}`));
    },
  };
}

/** {index, hashes, checkpoint (bytes), head, extra} of a C2SP tlog-proof. */
function parseProof(bytes, where) {
  const fault = () => new Fault("trust.proof_syntax", { where });
  let gap = 0;
  while (gap + 1 < bytes.length && !(bytes[gap] === 10 && bytes[gap + 1] === 10)) gap++;
  const text = gap + 1 < bytes.length ? ascii(bytes.subarray(0, gap)) : null;
  if (text === null) throw fault();
  const lines = text.split("\n");
  if (lines.shift() !== "c2sp.org/tlog-proof@v1" || !lines.length) throw fault();
  const extra = lines[0].startsWith("extra ") ? fromBase64(lines.shift().slice(6), where) : null;
  const index = /^index (0|[1-9][0-9]{0,17})$/.exec(lines.shift() ?? "");
  const hashes = lines.map((line) => fromBase64(line, where));
  if (index === null || !Number.isSafeInteger(Number(index[1])) || hashes.length > 63 || hashes.some((each) => each.length !== 32)) throw fault();
  const checkpoint = bytes.subarray(gap + 2);
  return { index: Number(index[1]), hashes, checkpoint, head: parseCheckpoint(checkpoint, where), extra };
}

const IN_TOTO = "application/vnd.in-toto+json";
const EVENT_TYPE = "application/vnd.geoevidence.event.v1+json";

/** DSSE pre-authentication encoding: the bytes that are signed. */
function signedBytes(type, payload) {
  const name = toUtf8(type);
  return concat(toUtf8(`DSSEv1 ${name.length} `), name, toUtf8(` ${payload.length} `), payload);
}

/** {payload, signatures: [{keyid, sig}], signed} of an envelope of that payload type. */
function parseEnvelope(bytes, where, type = IN_TOTO) {
  const value = parseCanonical(bytes, where);
  const fields = new Fault("trust.envelope_fields", { where });
  if (!hasFields(value, "payload", "payloadType", "signatures") || !isText(value.payloadType) || !Array.isArray(value.signatures)) throw fields;
  const payload = fromBase64(value.payload, where);
  const signatures = value.signatures.map((each) => {
    if (!hasFields(each, "keyid", "sig") || !isText(each.keyid)) throw fields;
    return { keyid: each.keyid, sig: fromBase64(each.sig, where) };
  });
  const sorted = signatures.every((each, n) => n === 0 || signatures[n - 1].keyid < each.keyid);
  if (!signatures.length || !sorted) throw new Fault("trust.envelope_signatures", { where });
  if (value.payloadType !== type) throw new Fault("trust.payload_type", { where, expected: type, found: value.payloadType.slice(0, 80) });
  return { payload, signatures, signed: signedBytes(type, payload) };
}
