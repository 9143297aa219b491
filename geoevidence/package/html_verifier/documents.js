"use strict";
// The documents of a package, each in its one form (docs/formats/): statements, events, keys, the trust file.
// A reader gives back plain objects and throws Fault; it asks nothing about neighbours, `checks.js` does.

const MAX_DOCUMENT = 16 << 20;
const MAX_LINE = 1 << 20;
const MAX_LEAF = 64 << 20;
const MOST_OUTPUTS = 50000;
const CASE_ID = /^C-[0-9a-f]{10}$/;
const WORKSPACE_ID = /^W-[0-9a-f]{10}$/;
const EVENT_ID = /^E-([0-9a-f]{8})-([1-9][0-9]{0,14})$/;
const ITEM_ID = /^(E-[0-9a-f]{8}-[1-9][0-9]{0,14})-([1-9][0-9]{0,14})$/;
const UTC = /^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z$/;
const SOFTWARE = /^geoevidence [0-9A-Za-z.+-]{1,40}$/;
const SHA256 = /^sha256:[0-9a-f]{64}$/;
const DECIMAL = /^-?(0|[1-9][0-9]{0,39})(\.[0-9]{1,40})?(e[+-]?[0-9]{1,3})?$/;

const BAGIT = "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n";
const PAYLOAD_MANIFESTS = ["manifest-sha256.txt", "manifest-sm3.txt"];
const MANIFESTS = [...PAYLOAD_MANIFESTS, "tagmanifest-sha256.txt", "tagmanifest-sm3.txt"];
const LEAVES = "data/log/leaves.jsonl", DISCLOSURES = "data/log/disclosures.jsonl", CHECKPOINT = "data/log/checkpoint", KEYS = "data/log/keys.json";
const FINDINGS = "data/findings.json", CRATE = "data/ro-crate-metadata.json", BEFORE = "data/before-recording.json", ATTESTATIONS = "data/attestations/";
const STATEMENT = "seal/statement.dsse", PROOF = "seal/proof.tlog", CLOSING = "seal/closing.dsse", RECOMPUTE = "seal/recompute.dsse";
const REDACTION = "seal/redaction.dsse", ITEMS = "items.json", SUPPLEMENT = "data/supplement.json", SUPPLEMENT_KEYS = "data/keys.json";
const ITEM_FOLDERS = ["data/originals/", "data/derived/", "data/records/", "data/report/"];
const CHANGED_BY_REDACTION = [LEAVES, DISCLOSURES, KEYS, FINDINGS, CRATE, BEFORE];
const VERDICTS = ["intact", "signed", "time", "continuous", "recomputes"];

const isItemPath = (path) => ITEM_FOLDERS.some((folder) => path.startsWith(folder));

/** Tag files that the tag manifests list. */
function tagFiles(kind, version) {
  const names = ["bag-info.txt", "bagit.txt", ...PAYLOAD_MANIFESTS, "VERIFY.txt", "verify.pyz"];
  if (kind !== "supplement") names.push(ITEMS);
  if (kind === "supplement" || version === 2) names.push("verify.html");
  return names;
}

function requiredFiles(kind, version) {
  const names = [...tagFiles(kind, version), ...MANIFESTS.slice(2), STATEMENT];
  if (kind === "supplement") return [...names, SUPPLEMENT, SUPPLEMENT_KEYS, CLOSING];
  names.push(PROOF, LEAVES, DISCLOSURES, CHECKPOINT, KEYS, FINDINGS, CRATE);
  if (version === 2) names.push(BEFORE, CLOSING);
  if (kind === "redacted") names.push(REDACTION);
  return names;
}

/** [kind, number] of `time-<n>.tsr` and `witness-<n>.cosig`, or null. */
function evidenceName(name) {
  const match = /^(?:(time)-([1-9][0-9]?)\.tsr|(witness)-([1-9][0-9]?)\.cosig)$/.exec(name);
  return match && [match[1] || match[3], Number(match[2] || match[4])];
}

/** Message id of what is wrong with a path, or null. */
function pathDefect(path) {
  if (path.split("/").some((part) => part === "" || part === "." || part === "..")) return "trust.path_parts";
  if (/[\\\x00-\x09\x0b\x0c\x0e-\x1f\x7f]/.test(path) || LONE_SURROGATE.test(path)) return "trust.path_characters";
  return path.normalize("NFC") === path ? null : "trust.path_nfc";
}

// ---- manifests and items.json, line by line

const PERCENT = { "%0D": "\r", "%0A": "\n", "%25": "%" };

/** Gives (path, hex) of one line after another; order and spelling are checked. */
function manifestReader(where) {
  let previous = null;
  let number = 0;
  return (line) => {
    number++;
    const text = fromUtf8(line);
    if (text === null) throw new Fault("trust.text_utf8", { where: `${where}:${number}`, offset: firstBadByte(line) });
    const match = /^([0-9a-f]{64}) {2}(data\/[^]+|[^/]+)$/.exec(text);
    if (match === null) throw new Fault("trust.manifest_line", { where, line: number });
    const path = match[2].replace(/%0D|%0A|%25/g, (each) => PERCENT[each]);
    const spelled = path.replace(/%/g, "%25").replace(/\r/g, "%0D").replace(/\n/g, "%0A");
    if (spelled !== match[2] || (previous !== null && comparePaths(previous, path) >= 0)) {
      throw new Fault("trust.manifest_order", { where, line: number });
    }
    previous = path;
    return [path, match[1]];
  };
}

/** Gives one line of items.json after another, null for the frame; `end()` throws unless the frame was closed. */
function itemsReader(where) {
  let previous = null;
  let number = 0;
  let comma = true;
  let closed = false;
  let count = 0;
  const frame = () => new Fault("trust.items_frame", { where });
  const read = (line) => {
    number++;
    if (closed || (number === 1) !== (line.length === 1 && line[0] === 0x5b)) throw frame();
    if (number === 1) return null;
    if (line.length === 1 && line[0] === 0x5d) {
      // the last line of a list has no comma
      if (comma || !count) throw frame();
      closed = true;
      return null;
    }
    if (count && !comma) throw frame();
    comma = line[line.length - 1] === 0x2c;
    count++;
    const here = `${where}:${number}`;
    const value = parseCanonical(comma ? line.subarray(0, -1) : line, here);
    const wrong = new Fault("trust.items_line", { where: here });
    if (hasFields(value, "leaf")) {
      if (!isHex64(value.leaf)) throw wrong;
      return { leaf: value.leaf, path: null };
    }
    if (!hasFields(value, "item", "leaf", "path", "salt", "sha256", "size", "sm3")) throw wrong;
    const isGood =
      [value.leaf, value.salt, value.sha256, value.sm3].every(isHex64) && isText(value.path) && isCount(value.size) &&
      (value.item === null || isText(value.item));
    if (!isGood) throw wrong;
    if (previous !== null && comparePaths(previous, value.path) >= 0) throw new Fault("trust.items_order", { where: here });
    previous = value.path;
    return value;
  };
  read.end = () => {
    if (!closed) throw frame();
  };
  return read;
}

/** Leaf hash, hex, of a file in the package tree. */
function itemLeaf({ path, sha256: sum, size, sm3, salt }) {
  return toHex(leafHash(concat(fromHex(salt), canonicalBytes({ path, sha256: sum, size, sm3 }))));
}

// ---- in-toto statements

/** `need(holds, field)` for a document: throws the Fault that names it. */
function needer(where, id) {
  return (holds, field) => {
    if (!holds) throw new Fault(id, { where, field });
  };
}

const PREDICATES = {
  "geoevidence.package.v1": ["case", "workspace", "items", "package_root", "checkpoint_before", "required_digests", "software", "time_claimed", "demonstration"],
  "geoevidence.supplement.v1": ["case", "workspace", "package_root", "supplement_sha256", "required_digests", "software", "time_claimed", "demonstration"],
  "geoevidence.closing.v1": ["case", "workspace", "package_root"],
  "geoevidence.redaction.v1": ["case", "workspace", "package_root", "files_withheld", "leaves_withheld", "disclosures_withheld", "reason", "required_digests",
    "software", "time_claimed", "demonstration"],
  "geoevidence.recompute.v1": ["case", "workspace", "package_root", "scope", "results", "software", "code_digest", "environment_digest", "machine",
    "time_claimed"],
};
PREDICATES["geoevidence.package.v2"] = PREDICATES["geoevidence.package.v1"];

const isDigestOrNull = (value) => value === null || (isText(value) && SHA256.test(value));
const matches = (pattern) => (value) => isText(value) && pattern.test(value);
const PREDICATE_FIELDS = {
  case: matches(CASE_ID), workspace: matches(WORKSPACE_ID), package_root: isHex64, supplement_sha256: isHex64, software: matches(SOFTWARE),
  time_claimed: matches(UTC), demonstration: (value) => typeof value === "boolean", items: isCount, checkpoint_before: isText,
  required_digests: (value) => Array.isArray(value) && value.length === 2 && value[0] === "sha256" && value[1] === "sm3",
  files_withheld: isCount, leaves_withheld: isCount, disclosures_withheld: isCount, reason: isText,
  scope: (value) => value === "headline" || value === "full", code_digest: isDigestOrNull, environment_digest: isDigestOrNull, machine: isText,
  results: Array.isArray,
};

/** {type, subjects: Map name -> {sha256, sm3}, ...predicate} of a statement of one of these types. */
function parseStatement(payload, where, ...types) {
  const need = needer(where, "trust.statement_field");
  const value = parseCanonical(payload, where);
  need(hasFields(value, "_type", "subject", "predicateType", "predicate"), "statement");
  need(value._type === "https://in-toto.io/Statement/v1", "_type");
  need(types.includes(value.predicateType), "predicateType");
  need(Array.isArray(value.subject), "subject");
  const subjects = new Map();
  for (const each of value.subject) {
    need(hasFields(each, "name", "digest") && isText(each.name) && hasFields(each.digest, "sha256", "sm3"), "subject");
    need(isHex64(each.digest.sha256) && isHex64(each.digest.sm3) && !subjects.has(each.name), "subject");
    subjects.set(each.name, each.digest);
  }
  const names = [...subjects.keys()];
  const type = value.predicateType;
  // the subjects of a recomputation stand in the order of the log
  need(type === "geoevidence.recompute.v1" || names.every((name, n) => n === 0 || compareText(names[n - 1], name) < 0), "subject");
  if (type.startsWith("geoevidence.package") || type === "geoevidence.supplement.v1") {
    need(names.length === MANIFESTS.length && MANIFESTS.every((name) => subjects.has(name)), "subject");
  }
  if (type === "geoevidence.redaction.v1") need(MANIFESTS.every((name) => subjects.has(name)), "subject");
  need(hasFields(value.predicate, ...PREDICATES[type]), "predicate");
  for (const name of PREDICATES[type]) need(PREDICATE_FIELDS[name](value.predicate[name]), name);
  if (type === "geoevidence.recompute.v1") checkResults(names, value.predicate.results, need);
  return { ...value.predicate, type, subjects };
}

const RECOMPUTE_STATUSES = ["identical", "within_tolerance", "not_run", "differs"];

function checkResults(names, results, need) {
  need(results.length === names.length, "results");
  const rank = (status) => RECOMPUTE_STATUSES.indexOf(status);
  results.forEach((each, n) => {
    need(hasFields(each, "event", "tool", "status", "reason", "quantities", "files"), "results");
    need(matches(EVENT_ID)(each.event), "results.event");
    need(names[n] === `derived/${each.event}/result.json`, "subject");
    need(isText(each.tool), "results.tool");
    need(rank(each.status) >= 0, "results.status");
    const { reason } = each;
    need(reason === null || (hasFields(reason, "id", "values") && isText(reason.id) && isObject(reason.values)), "results.reason");
    need(Array.isArray(each.quantities) && Array.isArray(each.files), "results");
    for (const row of each.quantities) {
      need(hasFields(row, "finding", "unit", "stated", "found", "tolerance", "status") && rank(row.status) >= 0, "results.quantities");
      need((row.found === null) === (row.status === "not_run") && isText(row.finding) && isText(row.unit), "results.quantities");
      need([row.stated, row.tolerance, row.found ?? "0"].every(matches(DECIMAL)), "results.quantities");
    }
    for (const row of each.files) {
      need(hasFields(row, "path", "status", "detail") && rank(row.status) >= 0 && isText(row.path) && isText(row.detail), "results.files");
    }
    // a result may not be called better than its rows
    const worst = Math.max(0, ...each.quantities.map((row) => rank(row.status)), ...each.files.map((row) => rank(row.status)));
    need(rank(each.status) >= worst, "results.status");
  });
}

/** `bag-info.txt` as statement and payload make it. */
function bagInfo(statement, bytes, files) {
  const day = statement.time_claimed.slice(0, 10);
  return `Bag-Software-Agent: ${statement.software}\nBagging-Date: ${day}\nExternal-Identifier: ${statement.case}\nPayload-Oxum: ${bytes}.${files}\n`;
}

function parseSupplement(bytes, where) {
  const need = needer(where, "trust.document_field");
  const value = parseCanonical(bytes, where);
  need(hasFields(value, "schema", "kind", "package", "previous", "author", "text"), "supplement");
  need(value.schema === "geoevidence.supplement.v1", "schema");
  need(["note", "disagreement", "correction", "recompute", "time"].includes(value.kind), "kind");
  need(hasFields(value.package, "case", "workspace", "package_root", "statement_sha256", "statement_sm3"), "package");
  const { package: spoken } = value;
  need(matches(CASE_ID)(spoken.case) && matches(WORKSPACE_ID)(spoken.workspace), "package");
  need([spoken.package_root, spoken.statement_sha256, spoken.statement_sm3].every(isHex64), "package");
  need(value.previous === null || isHex64(value.previous), "previous");
  need(isText(value.author) && isText(value.text), "author");
  return value;
}

// ---- events

const EVENT_FIELDS = [
  "schema", "event_id", "type", "case", "actor", "device", "time_claimed", "clock", "seq", "prev_event", "anchor", "inputs", "outputs", "process", "note",
];
const EVENT_TYPES = [
  "capture_sealed", "received", "copied", "derived", "examined", "commissioned", "accepted", "refused", "found", "reviewed", "reported", "packaged", "exported",
  "viewed", "transferred", "corrected", "key_rotated", "anchored",
];
const isWord = (value) => isText(value) && value !== "";
const isIntegerOrNull = (value) => value === null || Number.isSafeInteger(value);

function parseItem(value, where, field) {
  const need = needer(where, "trust.event_field");
  need(hasFields(value, "item", "path", "size", "sha256", "sm3"), field);
  const match = isText(value.item) ? ITEM_ID.exec(value.item) : null;
  need(match !== null, `${field}.item`);
  need(isText(value.path) && pathDefect(value.path) === null, `${field}.path`);
  const parts = value.path.split("/");
  need(parts.length >= 3 && ["originals", "derived", "records", "report", "seal"].includes(parts[0]) && parts[1] === match[1], `${field}.path`);
  need(isCount(value.size), `${field}.size`);
  need(isHex64(value.sha256) && isHex64(value.sm3), `${field}.sha256`);
  return { ...value, event: match[1] };
}

/** The event of its RFC 8785 bytes. */
function parseEvent(payload, where) {
  const need = needer(where, "trust.event_field");
  const raw = parseCanonical(payload, where);
  need(hasFields(raw, ...EVENT_FIELDS), "event");
  need(raw.schema === "geoevidence.event.v1", "schema");
  need(isText(raw.event_id) && EVENT_ID.test(raw.event_id), "event_id");
  need(EVENT_TYPES.includes(raw.type), "type");
  need(matches(CASE_ID)(raw.case), "case");
  const { actor, device, clock, anchor, process } = raw;
  need(hasFields(actor, "id", "role", "auth_level", "key_id"), "actor");
  need(matches(SHA256)(actor.id), "actor.id");
  need(isWord(actor.role) && isWord(actor.auth_level), "actor.role");
  need(isHex64(actor.key_id), "actor.key_id");
  need(hasFields(device, "serial", "software") && isDigestOrNull(device.serial) && isWord(device.software), "device");
  need(matches(UTC)(raw.time_claimed), "time_claimed");
  need(hasFields(clock, "source", "offset_ms"), "clock");
  need(["system", "gnss", "ntp", "unknown"].includes(clock.source) && isIntegerOrNull(clock.offset_ms), "clock.source");
  need(isCount(raw.seq) && raw.seq >= 1, "seq");
  need(raw.event_id === `E-${actor.key_id.slice(0, 8)}-${raw.seq}`, "event_id");
  need(isDigestOrNull(raw.prev_event) && (raw.prev_event === null) === (raw.seq === 1), "prev_event");
  if (anchor !== null) {
    need(hasFields(anchor, "tree_size", "root", "attested_time"), "anchor");
    need(isCount(anchor.tree_size) && anchor.tree_size >= 1 && isHex64(anchor.root), "anchor.tree_size");
    need(anchor.attested_time === null || matches(UTC)(anchor.attested_time), "anchor.attested_time");
  }
  need(Array.isArray(raw.inputs) && Array.isArray(raw.outputs), "inputs");
  const inputs = raw.inputs.map((each) => parseItem(each, where, "inputs"));
  const outputs = raw.outputs.map((each) => parseItem(each, where, "outputs"));
  need(new Set(inputs.map((each) => each.item)).size === inputs.length, "inputs");
  outputs.forEach((each, n) => need(each.item === `${raw.event_id}-${n + 1}`, "outputs.item"));
  if (process !== null) {
    need(hasFields(process, "tool", "version", "code_digest", "environment_digest", "parameters", "seed"), "process");
    need(isWord(process.tool) && isWord(process.version), "process.tool");
    need(isDigestOrNull(process.code_digest) && isDigestOrNull(process.environment_digest), "process.code_digest");
    need(isObject(process.parameters) && isIntegerOrNull(process.seed), "process.parameters");
  }
  need(isDigestOrNull(raw.note), "note");
  const commitments = { "actor.id": actor.id };
  if (device.serial !== null) commitments["device.serial"] = device.serial;
  if (raw.note !== null) commitments.note = raw.note;
  return {
    raw, id: raw.event_id, type: raw.type, case: raw.case, role: actor.role, keyId: actor.key_id, time: raw.time_claimed, seq: raw.seq,
    previous: raw.prev_event, anchor, inputs, outputs, process, commitments,
  };
}

/** {hash, event, envelope} of a leaf; the actor's key is among the signers. */
function parseLeaf(bytes, where) {
  const envelope = parseEnvelope(bytes, where, EVENT_TYPE);
  const event = parseEvent(envelope.payload, where);
  if (!envelope.signatures.some((each) => each.keyid === event.keyId)) {
    throw new Fault("trust.event_signer", { where, key_id: event.keyId });
  }
  return { hash: leafHash(bytes), event, envelope };
}

/** A line of leaves.jsonl: a leaf, or {hash, event: null} where it is withheld. */
function parseLeafLine(bytes, where) {
  if (!startsWith(bytes, toUtf8('{"withheld"'))) return parseLeaf(bytes, where);
  const match = /^\{"withheld":"([0-9a-f]{64})"\}$/.exec(ascii(bytes) ?? "");
  if (match === null) throw new Fault("trust.leaf_withheld", { where });
  return { hash: fromHex(match[1]), event: null, envelope: null };
}

/** The payload of the attestation of a `derived` event, made from its leaf alone. */
function attestationPayload({ event, hash }) {
  const record = ({ item, path, size, sha256: sum, sm3 }) => ({ item, path, size, sha256: sum, sm3 });
  return canonicalBytes({
    _type: "https://in-toto.io/Statement/v1",
    subject: event.outputs.map((each) => ({ name: each.path, digest: { sha256: each.sha256, sm3: each.sm3 } })),
    predicateType: "geoevidence.derivation.v1",
    predicate: {
      case: event.case, event: event.id, leaf_hash: toHex(hash), inputs: event.inputs.map(record), process: event.process, time_claimed: event.time,
    },
  });
}

function parseDisclosure(bytes, where) {
  const value = parseCanonical(bytes, where);
  const isGood = hasFields(value, "disclosures", "event") && isText(value.event) && isObject(value.disclosures) && Object.keys(value.disclosures).length > 0;
  if (!isGood) throw new Fault("trust.disclosure_fields", { where });
  return value;
}

/** Throws unless {salt, value} opens the commitment. */
function openCommitment(committed, disclosure) {
  if (!hasFields(disclosure, "salt", "value") || !isHex64(disclosure.salt) || !isText(disclosure.value)) throw new Fault("trust.bad_disclosure");
  const found = `sha256:${toHex(sha256(canonicalBytes({ salt: disclosure.salt, value: disclosure.value })))}`;
  if (found !== committed) throw new Fault("trust.commitment_not_opened", { expected: committed, found });
}

// ---- keys and trust

function keyOf(raw, where) {
  if (!isText(raw.algorithm) || !isHex64(raw.key_id)) throw new Fault("trust.policy_key", { where });
  const key = makeKey(raw.algorithm, fromBase64(raw.public_key, where));
  if (key.id !== raw.key_id) throw new Fault("trust.key_id", { where, expected: key.id, found: raw.key_id });
  return key;
}

/** A key with its label and certificates, of a row of keys.json or of a key change. */
function namedKey(raw, where) {
  const certificates = raw.certificates ?? [];
  if (!Array.isArray(certificates) || !isText(raw.label)) throw new Fault("trust.keys_fields", { where });
  const ders = certificates.map((each) => fromBase64(each, where));
  return { ...keyOf(raw, where), label: raw.label, certificates: ders };
}

/** The rows of keys.json; certificates are read by the check, row by row. */
function parseKeys(bytes, where) {
  const rows = parseCanonical(bytes, where);
  const wrong = new Fault("trust.keys_fields", { where });
  if (!Array.isArray(rows) || !rows.length) throw wrong;
  const fields = ["algorithm", "key_id", "label", "name", "public_key"];
  if (isObject(rows[0]) && "certificates" in rows[0]) fields.push("certificates");
  const keys = rows.map((raw) => {
    if (!hasFields(raw, ...fields)) throw wrong;
    const key = namedKey(raw, where);
    if (raw.name !== key.name) throw wrong;
    return key;
  });
  const sorted = keys.every((key, n) => n === 0 || keys[n - 1].id < key.id);
  if (!sorted || new Set(keys.map((key) => key.chain)).size !== keys.length) throw wrong;
  return { keys, hasCertificates: fields.length === 6 };
}

function parseKeyChange(bytes, where) {
  const need = needer(where, "trust.document_field");
  const value = parseCanonical(bytes, where);
  need(hasFields(value, "schema", "action", "key_id", "new_key", "reason", "effective"), "key_change");
  need(value.schema === "geoevidence.key_change.v1", "schema");
  need(value.action === "rotated" || value.action === "revoked", "action");
  need(isHex64(value.key_id), "key_id");
  need((value.new_key === null) === (value.action === "revoked"), "new_key");
  need(["superseded", "compromised", "lost", "ended"].includes(value.reason), "reason");
  need(isCount(value.effective), "effective");
  if (value.new_key !== null) need(hasFields(value.new_key, "algorithm", "certificates", "key_id", "label", "public_key"), "new_key");
  return { ...value, new_key: value.new_key === null ? null : namedKey(value.new_key, where) };
}

/** {required, keys: Map id -> trusted key, authorities, threshold, builtin} of a trust.json: strict JSON, closed. */
function parsePolicy(bytes, where) {
  const value = parseJson(bytes, where);
  const wrong = new Fault("trust.policy_fields", { where });
  const isFirst = isObject(value) && value.schema === "geoevidence.trust.v1";
  const fields = ["schema", "required", "keys", ...(isFirst ? [] : ["authorities", "witness_threshold"])];
  if (!hasFields(value, ...fields) || !(isFirst || value.schema === "geoevidence.trust.v2")) throw wrong;
  const { required, keys, authorities = [], witness_threshold: threshold = 0 } = value;
  if (!Array.isArray(required) || !required.length || !Array.isArray(keys) || !Array.isArray(authorities) || !isCount(threshold)) throw wrong;
  required.forEach((name, n) => {
    if (!VERDICTS.includes(name) || required.indexOf(name) !== n) {
      throw new Fault("trust.policy_verdict", { where, found: String(name).slice(0, 40), known: VERDICTS.join(", ") });
    }
  });
  const trusted = new Map();
  keys.forEach((raw, n) => {
    const key = parseTrustedKey(raw, `${where} keys[${n}]`);
    if (trusted.has(key.id)) throw new Fault("trust.policy_key", { where });
    trusted.set(key.id, key);
  });
  const roots = authorities.map((raw, n) => parseAuthority(raw, `${where} authorities[${n}]`));
  if (new Set(roots.map((each) => toHex(each.certificate.der))).size !== roots.length) throw new Fault("trust.policy_authority", { where });
  return { required: VERDICTS.filter((name) => required.includes(name)), keys: trusted, authorities: roots, threshold, builtin: false };
}

const isRoles = (value) => Array.isArray(value) && value.every(isWord);

function parseTrustedKey(raw, where) {
  const isGood =
    hasFields(raw, "key_id", "algorithm", "public_key", "holder", "roles", "valid_from", "valid_to", "revoked_at_tree_size") &&
    isRoles(raw.roles) && raw.roles.length > 0 && isWord(raw.holder) && (raw.revoked_at_tree_size === null || isCount(raw.revoked_at_tree_size)) &&
    matches(UTC)(raw.valid_from) && (raw.valid_to === null || matches(UTC)(raw.valid_to));
  if (!isGood) throw new Fault("trust.policy_key", { where });
  return { ...keyOf(raw, where), holder: raw.holder, roles: raw.roles, from: raw.valid_from, to: raw.valid_to, revokedAt: raw.revoked_at_tree_size };
}

function parseAuthority(raw, where) {
  const wrong = new Fault("trust.policy_authority", { where });
  if (!hasFields(raw, "certificate", "holder", "purposes", "roles", "revoked") || !isWord(raw.holder) || !isRoles(raw.roles)) throw wrong;
  const { purposes, roles, revoked } = raw;
  const isPurposes = Array.isArray(purposes) && purposes.length > 0 && purposes.every((each, n) => ["sign", "time"].includes(each) && purposes.indexOf(each) === n);
  if (!isPurposes || (purposes.includes("sign") && !roles.length) || !Array.isArray(revoked)) throw wrong;
  const since = new Map();
  for (const each of revoked) {
    const isGood = hasFields(each, "serial", "since") && matches(/^(0|[1-9a-f][0-9a-f]{0,63})$/)(each.serial) && matches(UTC)(each.since);
    if (!isGood || since.has(each.serial)) throw wrong;
    since.set(each.serial, each.since);
  }
  return { certificate: parseCertificate(fromBase64(raw.certificate, where), where), holder: raw.holder, purposes, roles, revoked: since };
}

/** Used where the reader gives none: asks for `intact` and `continuous`, trusts no key. */
const NO_POLICY = { required: ["intact", "continuous"], keys: new Map(), authorities: [], threshold: 0, builtin: true };
