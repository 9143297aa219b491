"use strict";
// The numbered checks of docs/formats/verify.md, in its order where one does not need another. A check that an earlier failure
// made impossible is `not_checked` and names that check; a verdict is the worst of its checks.

const RULES = {
  container: ["1.1", "intact"], paths: ["1.2", "intact"], layout: ["1.3", "intact"], seal: ["1.4", "intact"], manifests: ["1.5", "intact"],
  listing: ["1.6", "intact"], files: ["1.7", "intact"], tags: ["1.8", "intact"], tree: ["1.9", "intact"], closing: ["1.10", "intact"],
  keys: ["2.1", "signed"], statement_signature: ["2.2", "signed"], checkpoint_signatures: ["2.3", "signed"], event_signatures: ["2.4", "signed"],
  other_signatures: ["2.5", "signed"], code: ["2.6", "signed"], trusted_keys: ["2.7", "signed"],
  claimed_order: ["3.1", "time"], claimed_past: ["3.2", "time"], time_stamps: ["3.3", "time"], cosignatures: ["3.4", "time"], time_evidence: ["3.5", "time"],
  attested: ["3.6", "time"],
  events: ["4.1", "continuous"], log_root: ["4.2", "continuous"], packaged: ["4.3", "continuous"], chains: ["4.4", "continuous"],
  anchors: ["4.5", "continuous"], inputs: ["4.6", "continuous"], items: ["4.7", "continuous"], disclosures: ["4.8", "continuous"],
  findings: ["4.9", "continuous"], attestations: ["4.10", "continuous"], device_logs: ["4.11", "continuous"], key_changes: ["4.12", "continuous"],
  rollback: ["4.13", "continuous"], witnesses: ["4.14", "continuous"], withheld: ["4.15", "continuous"], supplement_of: ["4.16", "continuous"],
  recompute: ["5.1", "recomputes"], recompute_trusted: ["5.2", "recomputes"],
};
const SUPPLEMENT_RULES = [
  "container", "paths", "layout", "seal", "manifests", "listing", "files", "tags", "closing", "keys", "statement_signature", "other_signatures", "trusted_keys",
  "claimed_past", "time_stamps", "attested", "supplement_of", "recompute",
];
// these count only when they fail
const NOTED = ["code", "claimed_order", "claimed_past", "rollback"];
const MOST_KEPT = 5000;
const PASSED = "passed", FAILED = "failed", NOT_CHECKED = "not_checked";

// a certificate that leads nowhere: who holds the key is not known, which is no fault of the package
const NO_WAY = ["trust.certificate_untrusted", "trust.certificate_signature", "trust.certificate_usage", "trust.certificate_many"];

const showFile = (file) => `sha256:${file.sha256} sm3:${file.sm3} ${file.size} B`;
const showItem = (item) => `${item.item} ${item.path} ${showFile(item)}`;
const sameFile = (one, other) => one.sha256 === other.sha256 && one.sm3 === other.sm3 && one.size === other.size;
const sameItem = (one, other) => one.item === other.item && one.path === other.path && sameFile(one, other);

/** The claimed time of a use, or the nearest to it that the attested interval allows. */
function momentOf({ time, after = null, before = null }) {
  if (before !== null && time > before) return before;
  return after !== null && time < after ? after : time;
}

/** What packages and supplements have in common: files and their digests, manifests, signatures, trust, the report. */
class Run {
  constructor(container, options) {
    this.container = container;
    this.policy = options.policy ?? NO_POLICY;
    this.required = this.policy.required;
    this.now = options.now ?? null;
    this.progress = options.progress ?? (() => {});
    this.checks = [];
    this.counts = {};
    this.digests = new Map();
    this.blamed = new Set();
    this.keys = new Map();
    this.rows = new Map();
    this.uses = new Map();
    this.evidence = [];
    this.claims = [];
    this.signers = [];
    this.facts = { files: 0, bytes: 0 };
    this.statement = null;
    this.envelopes = new Map();
    this.changes = [];
    this.records = [];
    this.stale = false;
    this.fork = false;
    this.forkProof = null;
  }

  // ---- saying what was found

  add(name, subject, status, { expected = null, found = null, detail = "", values = {} } = {}) {
    const text = (value) => (value === null || value === undefined ? null : String(value));
    this.counts[name] = (this.counts[name] ?? 0) + 1;
    // the rest is counted, so that a report cannot grow without bound
    if (this.counts[name] > MOST_KEPT && status !== PASSED && this.has(name, status)) return;
    this.checks.push({ name, subject, status, expected: text(expected), found: text(found), detail, values });
    if (status === FAILED && (name === "files" || name === "listing")) this.blamed.add(subject);
  }

  fail(name, subject, detail, { expected = null, found = null, ...values } = {}) {
    this.add(name, subject, FAILED, { expected, found, detail, values: { ...values, expected, found } });
  }

  failBy(name, subject, fault) {
    this.fail(name, subject, fault.id, fault.values);
  }

  skip(name, subject, detail, values = {}) {
    this.add(name, subject, NOT_CHECKED, { detail, values });
  }

  because(name, subject, cause) {
    this.skip(name, subject, "trust.because", { check: RULES[cause][0] });
  }

  /** `name` passed, unless something was already said about it. */
  close(name, subject, found = null) {
    if (!this.checks.some((check) => check.name === name)) this.add(name, subject, PASSED, { found });
  }

  has(name, status) {
    return this.checks.some((check) => check.name === name && check.status === status);
  }

  failed(name) {
    return this.has(name, FAILED);
  }

  passed(name) {
    return this.has(name, PASSED);
  }

  drop(...names) {
    this.checks = this.checks.filter((check) => !names.includes(check.name));
  }

  /** Runs `work`; a Fault becomes a failure of `name`. Gives back what `work` gives, or null. */
  async attempt(name, subject, work) {
    try {
      return await work();
    } catch (fault) {
      if (!(fault instanceof Fault)) throw fault;
      this.failBy(name, subject, fault);
      return null;
    }
  }

  // ---- reading

  get paths() {
    return this.container.sizes.keys();
  }

  exists(path) {
    return this.container.sizes.has(path);
  }

  /** Digests of every file, each read once. */
  async readFiles() {
    const total = Math.max(1, [...this.container.sizes.values()].reduce((sum, size) => sum + size, 0));
    let done = 0;
    for (const path of this.paths) {
      try {
        const [sum, sm3] = [new Sha256(), new Sm3()];
        const expected = this.container.crcs.get(path);
        let crc = 0;
        for await (const block of this.container.blocks(path)) {
          sum.update(block);
          sm3.update(block);
          if (expected !== undefined) crc = crc32(block, crc);
          done += block.length;
          this.progress(done / total);
        }
        this.digests.set(path, { sha256: toHex(sum.digest()), sm3: toHex(sm3.digest()), size: sum.length });
        if (expected !== undefined && crc !== expected) {
          const show = (number) => number.toString(16).padStart(8, "0");
          this.container.defect(path, "trust.zip_crc", show(expected), show(crc));
        }
      } catch (fault) {
        if (!(fault instanceof Fault)) throw fault;
        this.fail("container", path, "trust.unreadable", { found: fault.values.found ?? null });
      }
    }
  }

  /** The bytes of a small file, the same that were digested, or null where it is not there. Throws Fault. */
  async document(path, limit = MAX_DOCUMENT) {
    const known = this.digests.get(path);
    if (!known) return null;
    if (known.size > limit) throw new Fault("trust.json_size", { where: path, found: known.size, limit });
    const blocks = [];
    for await (const block of this.container.blocks(path)) blocks.push(block);
    const bytes = concat(...blocks);
    if (toHex(sha256(bytes)) !== known.sha256) throw new Fault("trust.unreadable");
    return bytes;
  }

  /** The lines of a file, without LF, as they are read; the same bytes that were digested. Throws Fault. */
  async *lines(path, limit = MAX_LINE) {
    const sum = new Sha256();
    let held = new Uint8Array(0);
    for await (const block of this.container.blocks(path)) {
      sum.update(block);
      let data = held.length ? concat(held, block) : block;
      for (let end = data.indexOf(10); end >= 0; end = data.indexOf(10)) {
        yield data.subarray(0, end);
        data = data.subarray(end + 1);
      }
      if (data.length > limit) throw new Fault("html.line_long", { where: path, limit });
      held = data.slice();
    }
    if (toHex(sum.digest()) !== this.digests.get(path).sha256) throw new Fault("trust.unreadable");
    if (held.length) {
      yield held;
      throw new Fault("trust.text_end", { where: path });
    }
  }

  /** A signed statement of `seal/` or `data/`: its envelope is kept under its path. Throws Fault. */
  async signedStatement(path, ...types) {
    const envelope = parseEnvelope(await this.document(path), path);
    const statement = parseStatement(envelope.payload, path, ...types);
    this.envelopes.set(path, envelope);
    return statement;
  }

  // ---- 1 intact

  checkContainer() {
    // 1.1
    const { container } = this;
    for (const { subject, id, expected, found } of container.defects) this.fail("container", subject, id, { expected, found });
    this.close("container", container.label);
    if (!container.readable) return;
    // 1.2
    for (const { subject, id, found } of container.pathDefects) this.fail("paths", subject, id, { found, path: subject });
    this.close("paths", container.label);
    // 1.3
    const required = new Set(requiredFiles(this.kind, this.version));
    for (const path of required) if (!this.exists(path)) this.fail("layout", path, "trust.file_missing");
    const numbers = { time: [], witness: [] };
    for (const path of this.paths) {
      const evidence = path.startsWith("seal/") ? evidenceName(path.slice(5)) : null;
      if (evidence && this.mayHold(path)) numbers[evidence[0]].push(evidence[1]);
      else if (!required.has(path) && !this.mayHold(path)) this.fail("layout", path, "trust.file_unexpected");
    }
    for (const [kind, found] of Object.entries(numbers)) {
      for (let n = 1; n <= Math.max(0, ...found); n++) {
        if (!found.includes(n)) this.fail("layout", `seal/${kind}-${n}.${kind === "time" ? "tsr" : "cosig"}`, "trust.file_missing");
      }
    }
    this.close("layout", container.label, container.sizes.size);
  }

  /** 1.5 to 1.8; `stated` is the document that vouches for the manifests, or null where its signature is not valid. */
  async checkFiles(stated, cause) {
    // 1.5
    if (stated === null) this.because("manifests", STATEMENT, cause);
    const good = [];
    for (const name of MANIFESTS) {
      const found = this.digests.get(name);
      if (!found) {
        this.because("manifests", name, "layout");
        continue;
      }
      const wanted = stated?.subjects.get(name);
      if (wanted && (wanted.sha256 !== found.sha256 || wanted.sm3 !== found.sm3)) {
        this.fail("manifests", name, "trust.digest_wrong", { expected: `${wanted.sha256} ${wanted.sm3}`, found: `${found.sha256} ${found.sm3}` });
        continue;
      }
      const listed = new Map();
      const isRead = await this.attempt("manifests", name, async () => {
        const read = manifestReader(name);
        for await (const line of this.lines(name)) listed.set(...read(line));
        return true;
      });
      if (isRead) good.push({ name, listed, algorithm: name.endsWith("sm3.txt") ? "sm3" : "sha256" });
    }
    this.close("manifests", MANIFESTS.join(", "), good.length);
    // 1.6
    const payload = [...this.paths].filter((path) => path.startsWith("data/"));
    const tags = tagFiles(this.kind, this.version).filter((path) => this.exists(path));
    const reported = new Set();
    for (const { name, listed } of good) {
      const present = new Set(PAYLOAD_MANIFESTS.includes(name) ? payload : tags);
      const missing = [...listed.keys()].filter((path) => !present.has(path));
      const unlisted = [...present].filter((path) => !listed.has(path));
      for (const path of missing) if (!reported.has(path)) this.fail("listing", path, "trust.file_missing", { expected: name });
      for (const path of unlisted) if (!reported.has(path)) this.fail("listing", path, "trust.file_unlisted", { expected: name });
      for (const path of [...missing, ...unlisted]) reported.add(path);
    }
    for (const name of MANIFESTS.filter((each) => !good.some((one) => one.name === each))) {
      for (const check of ["listing", "files"]) this.because(check, name, this.digests.has(name) ? "manifests" : "layout");
    }
    this.close("listing", good.map((each) => each.name).join(", "), payload.length + tags.length);
    // 1.7
    for (const [path, found] of this.digests) {
      for (const { listed, algorithm } of good) {
        const wanted = listed.get(path);
        if (wanted !== undefined && wanted !== found[algorithm]) {
          this.fail("files", path, "trust.digest_wrong", { expected: `${algorithm}:${wanted}`, found: `${algorithm}:${found[algorithm]}` });
        }
      }
    }
    this.close("files", "data/", this.digests.size);
    // 1.8
    const size = payload.reduce((sum, path) => sum + this.container.sizes.get(path), 0);
    await this.checkTag("bagit.txt", BAGIT);
    if (stated === null) this.because("tags", "bag-info.txt", cause);
    else await this.checkTag("bag-info.txt", bagInfo(stated, size, payload.length));
    this.close("tags", "bag-info.txt");
  }

  async checkTag(path, expected) {
    if (!this.exists(path)) this.because("tags", path, "layout");
    const bytes = await this.attempt("tags", path, () => this.document(path));
    if (bytes === null || sameBytes(bytes, toUtf8(expected))) return;
    const line = (text) => text.slice(0, 400).replace(/\n/g, " | ");
    this.fail("tags", path, "trust.tag_content", { expected: line(expected), found: line(fromUtf8Anyhow(bytes)) });
  }

  /** 1.10: the files of seal/ against a document that lists them. */
  checkSealList(path, listed, isCovered) {
    const present = [...this.paths].filter((each) => each.startsWith("seal/") && isCovered(each));
    for (const each of present) {
      const wanted = listed.get(each);
      const found = this.digests.get(each);
      if (!wanted) this.fail("closing", each, "html.closing_unlisted", { expected: path });
      else if (found && (found.sha256 !== wanted.sha256 || found.sm3 !== wanted.sm3)) {
        this.fail("closing", each, "trust.digest_wrong", { expected: `sha256:${wanted.sha256} sm3:${wanted.sm3}`, found: `sha256:${found.sha256} sm3:${found.sm3}` });
      }
    }
    for (const each of listed.keys()) if (!present.includes(each)) this.fail("closing", each, "trust.file_missing", { expected: path });
  }

  checkSealFields(path, document) {
    const wanted = this.statement;
    if (wanted === null) return;
    for (const name of ["case", "workspace", "package_root"]) {
      if (document[name] !== wanted[name]) this.fail("closing", path, "html.other_package", { expected: wanted[name], found: document[name] });
    }
  }

  checkClosing() {
    // 1.10
    if (this.version === 1 && this.kind !== "redacted") this.close("closing", CLOSING, 0);
    if (this.version === 2) {
      // what nobody vouches for blames no file
      if (this.closing && !this.isClosingValid) this.because("closing", CLOSING, "other_signatures");
      else if (this.closing) {
        this.checkSealList(CLOSING, this.closing.subjects, (each) => each !== CLOSING && each !== REDACTION);
        this.checkSealFields(CLOSING, this.closing);
      } else this.because("closing", CLOSING, this.exists(CLOSING) ? "seal" : "layout");
    }
    if (this.kind === "redacted") {
      if (this.redaction && !this.passed("statement_signature")) this.because("closing", REDACTION, "statement_signature");
      else if (this.redaction) {
        const seals = new Map([...this.redaction.subjects].filter(([name]) => !MANIFESTS.includes(name)));
        this.checkSealList(REDACTION, seals, (each) => each !== REDACTION);
        this.checkSealFields(REDACTION, this.redaction);
      } else this.because("closing", REDACTION, "seal");
    }
    this.close("closing", CLOSING, [...this.paths].filter((path) => path.startsWith("seal/")).length);
  }

  // ---- 2 signed

  async checkKeys(path) {
    // 2.1
    for (const key of this.policy.keys.values()) this.keys.set(key.id, key);
    if (!this.digests.has(path)) this.because("keys", path, "layout");
    else for (const row of (await this.readKeys("keys", path)) ?? []) {
      this.keys.set(row.id, row);
      this.rows.set(row.id, row);
    }
    this.close("keys", path, this.rows.size);
  }

  /** The rows of a list of keys with their certificates, or null. */
  async readKeys(name, path) {
    const rows = await this.attempt(name, path, async () => {
      const { keys, hasCertificates } = parseKeys(await this.document(path), path);
      if (hasCertificates && this.version === 1) throw new Fault("trust.keys_fields", { where: path });
      return keys;
    });
    for (const row of rows ?? []) {
      await this.attempt(name, path, () => {
        const parsed = row.certificates.slice(0, MAX_CHAIN + 1).map((bytes) => parseCertificate(bytes, `${path} ${row.id}`));
        const isGood = parsed.length <= MAX_CHAIN && (!parsed.length || certificateHasKey(parsed[0], row));
        if (!isGood) throw new Fault("html.certificate_key", { where: path, key_id: row.id });
        row.parsed = parsed;
      });
    }
    return rows;
  }

  /** The key that signs notes under a name: one that is listed here before one of the trust file. */
  keyNamed(name, rows = this.rows, keys = this.keys) {
    return [...rows.values(), ...keys.values()].find((key) => key.name === name) ?? null;
  }

  use(keyId, use) {
    if (!this.uses.has(keyId)) this.uses.set(keyId, []);
    this.uses.get(keyId).push(use);
  }

  /** Verifies all signatures of an envelope; true where they are valid. `use` is said of each signer. */
  checkEnvelope(name, subject, envelope, use, keys = this.keys) {
    const isUnknown = envelope.signatures.some((each) => !keys.has(each.keyid));
    if (isUnknown && !this.passed("keys")) {
      this.because(name, subject, "keys");
      return false;
    }
    let isValid = true;
    try {
      for (const { keyid, sig } of envelope.signatures) {
        if (!keys.has(keyid)) throw new Fault("trust.key_unknown", { where: subject, key_id: keyid });
        verifySignature(keys.get(keyid), sig, envelope.signed);
      }
    } catch (fault) {
      if (!(fault instanceof Fault)) throw fault;
      this.failBy(name, subject, fault);
      isValid = false;
    }
    if (use) for (const { keyid } of envelope.signatures) this.use(keyid, { ...use, subject });
    return isValid;
  }

  /** Each key against the policy, for every role that it signed in. */
  checkTrust() {
    // 2.7
    for (const [id, uses] of [...this.uses].sort(([one], [other]) => (one < other ? -1 : 1))) {
      const label = (this.rows.get(id) ?? uses.find((use) => use.rows)?.rows.get(id))?.label ?? "-";
      const answers = uses.map((use) => ({ use, ...this.judge(id, use) }));
      const holder = answers.find((each) => each.holder)?.holder ?? null;
      const refused = new Map();
      for (const { use, refusal, values } of answers) {
        if (refusal && !refused.has(refusal)) {
          refused.set(refusal, { ...values, holder, found: `${use.subject} (${use.role}, ${use.time || "-"})` });
        }
      }
      for (const [refusal, values] of refused) this.fail("trusted_keys", id, refusal, values);
      if (!refused.size && answers.some((each) => each.isUnknown)) {
        const detail = answers.find((each) => each.isUnknown && each.detail)?.detail;
        this.skip("trusted_keys", id, detail ?? (this.policy.builtin ? "trust.policy_none" : "trust.policy_unknown"), { label });
      } else if (!refused.size) this.add("trusted_keys", id, PASSED, { found: holder });
      const ends = [this.policy.keys.get(id)?.revokedAt ?? null, ...this.changes.filter((each) => each.key_id === id).map((each) => each.effective)];
      const known = ends.filter((each) => each !== null);
      const key = this.keys.get(id) ?? uses.find((use) => use.rows)?.rows.get(id);
      this.signers.push({ key_id: id, algorithm: key?.algorithm ?? "-", label, holder, revoked: known.length ? Math.min(...known) : null });
    }
    if (!this.uses.size) this.because("trusted_keys", STATEMENT, "seal");
  }

  /** {holder, refusal, values, isUnknown} of one use of a key: in the trust file, or by its certificate. */
  judge(id, use) {
    const moment = momentOf(use);
    const trusted = this.policy.keys.get(id);
    if (trusted) {
      const { holder } = trusted;
      if (!trusted.roles.includes(use.role)) return { holder, refusal: "trust.policy_role" };
      if (moment < trusted.from || (trusted.to !== null && moment > trusted.to)) return { holder, refusal: "trust.policy_term" };
      if (trusted.revokedAt !== null && use.index >= trusted.revokedAt) return { holder, refusal: "trust.policy_revoked" };
      return { holder };
    }
    const [certificate, ...others] = (use.rows ?? this.rows).get(id)?.parsed ?? [];
    const authorities = this.policy.authorities.filter((each) => each.purposes.includes("sign"));
    if (!certificate || !authorities.length) return { isUnknown: true };
    const holder = certificate.subjectText;
    try {
      const chain = buildChain(certificate, others, authorities.map((each) => each.certificate), moment, "sign", this.revocation(use.before ?? null));
      const root = chain[chain.length - 1];
      const authority = authorities.find((each) => sameBytes(each.certificate.der, root.der));
      return authority.roles.includes(use.role) ? { holder } : { holder, refusal: "trust.policy_role" };
    } catch (fault) {
      if (!(fault instanceof Fault)) throw fault;
      if (fault instanceof Unknown || NO_WAY.includes(fault.id)) return { isUnknown: true };
      return { holder, refusal: fault.id, values: fault.values };
    }
  }

  /** Whether a certificate no longer counted at an attested time; null: nothing attests that it was before `since`. */
  revocation(moment) {
    return (certificate) =>
      this.policy.authorities.some((each) => {
        const since = certificate.issuer === each.certificate.subject ? each.revoked.get(certificate.serial.toString(16)) : undefined;
        return since !== undefined && (moment === null || since <= moment);
      });
  }

  /** A record of recomputation whose signatures are valid; `isTrusted` is asked with the index of the sealing. */
  keepRecord(path, record) {
    const { signatures } = this.envelopes.get(path);
    if (!this.checkEnvelope("other_signatures", path, this.envelopes.get(path), null)) return;
    const isTrusted = (index) =>
      signatures.some(({ keyid }) => {
        const { isUnknown, refusal } = this.judge(keyid, { role: "recompute", time: record.time_claimed, index, subject: path });
        return !isUnknown && !refusal;
      });
    this.records.push({ path: this.kind === "supplement" ? `${this.container.label}/${path}` : path, record, isTrusted });
  }

  /** 2.5: who signed the statement signed this too (all of them, for the closing), and nobody else. */
  checkSealer(path, envelope, isAll = true) {
    if (!this.statement) return true;
    const [wanted, found] = [this.envelopes.get(STATEMENT), envelope].map((each) => each.signatures.map(({ keyid }) => keyid));
    if (found.every((id) => wanted.includes(id)) && !(isAll && found.length !== wanted.length)) return true;
    this.fail("other_signatures", path, "html.closing_signers", { expected: wanted.join(", "), found: found.join(", ") });
    return false;
  }

  // ---- 3 time

  /** One time stamp over `message`: checks 3.3; gives {earliest, latest, time, isTrusted} or null. */
  async checkStamp(path, bytes, message, dataName) {
    try {
      const stamp = parseTimeStamp(bytes, path);
      stamp.verify(message);
      let holder = null;
      let reason = null;
      const roots = this.policy.authorities.filter((each) => each.purposes.includes("time"));
      try {
        const chain = stamp.chain(roots.map((each) => each.certificate), this.revocation(stamp.latest));
        holder = roots.find((each) => sameBytes(each.certificate.der, chain[chain.length - 1].der)).holder;
      } catch (fault) {
        if (!(fault instanceof Fault)) throw fault;
        reason = fault;
      }
      return { path, kind: "time", earliest: stamp.earliest, latest: stamp.latest, time: stamp.genTime, isTrusted: holder !== null, holder, reason };
    } catch (fault) {
      if (!(fault instanceof Fault)) throw fault;
      if (fault instanceof Unknown) {
        const command = `openssl ts -verify -data ${dataName} -in ${path} -CAfile root.pem`;
        this.skip("time_stamps", path, "html.stamp_unknown", { found: fault.values.found ?? fault.values.oid ?? "", command });
      } else this.failBy("time_stamps", path, fault);
      return null;
    }
  }

  /** One cosignature over the checkpoint with that text: check 3.4. */
  checkCosignature(path, bytes, text) {
    try {
      const cosignature = parseCosignature(bytes, path);
      if (cosignature.checkpoint.text !== text) throw new Fault("html.cosignature_text", { where: path });
      const key = this.keyNamed(cosignature.name);
      if (!key && !this.passed("keys")) {
        this.because("cosignatures", path, "keys");
        return null;
      }
      if (!key) throw new Fault("trust.key_unknown", { where: path, key_id: cosignature.name });
      cosignature.verify(key);
      const { time } = cosignature;
      // nothing but its own word attests when it cosigned
      const use = { role: "witness", time, after: null, before: null, index: cosignature.checkpoint.size - 1, subject: path };
      // who may be a witness is asked by 3.6 and 4.14, not by 2.7: anybody may cosign
      const judged = this.judge(key.id, use);
      // and nobody witnesses their own work
      const isOwn = (this.uses.get(key.id) ?? []).some((each) => each.role !== "redaction");
      const isTrusted = !judged.isUnknown && !judged.refusal && !isOwn;
      const reason = isOwn ? new Fault("trust.witness_own", { holder: judged.holder ?? "" }) : null;
      return { path, kind: "witness", earliest: time, latest: cosignature.latest, time, isTrusted, holder: judged.holder ?? null, key: key.id, reason };
    } catch (fault) {
      if (!(fault instanceof Fault)) throw fault;
      this.failBy("cosignatures", path, fault);
      return null;
    }
  }

  checkPast(claims, subject) {
    // 3.2
    if (this.now === null) this.skip("claimed_past", subject, "trust.no_clock");
    else {
      for (const [id, time] of claims) if (time > this.now) this.skip("claimed_past", id, "trust.time_future", { time, now: this.now });
      this.close("claimed_past", subject, claims.length);
    }
  }

  /** 3.6, of trusted evidence over the seal. */
  checkAttested(evidence, after, before) {
    if (before !== null) {
      if (after !== null && after > before) return;
      Object.assign(this.facts, { attested_after: after, attested_before: before });
      if (!this.has("attested", NOT_CHECKED)) this.add("attested", evidence.find((each) => each.latest === before).path, PASSED, { found: `${after ?? "..."} - ${before}` });
    } else if (!evidence.length) this.skip("attested", this.container.label, "trust.no_attested");
    else {
      const refused = evidence.find((each) => each.reason);
      if (refused?.reason.id === "trust.witness_own") this.skip("attested", refused.path, "trust.witness_own", refused.reason.values);
      else this.skip("attested", evidence[0].path, "html.evidence_untrusted", { reason: refused ? refused.reason.id : "trust.policy_unknown" });
    }
  }

  // ---- the report

  report() {
    const order = Object.keys(RULES);
    const names = this.kind === "supplement" ? SUPPLEMENT_RULES : order.filter((name) => name !== "supplement_of");
    for (const name of names) if (!this.checks.some((check) => check.name === name)) this.because(name, this.container.label, "container");
    this.checks = this.checks.filter((check) => names.includes(check.name));
    for (const [name, count] of Object.entries(this.counts)) {
      if (count <= MOST_KEPT || !names.includes(name)) continue;
      const status = this.failed(name) ? FAILED : NOT_CHECKED;
      this.checks.push({ name, subject: "...", status, expected: null, found: null, detail: "html.and_more", values: { count: count - MOST_KEPT } });
    }
    this.checks.sort((one, other) => order.indexOf(one.name) - order.indexOf(other.name));
    const verdicts = {};
    for (const verdict of VERDICTS) {
      const own = this.checks.filter((check) => RULES[check.name][1] === verdict);
      const statuses = own.filter((check) => check.status === FAILED || !NOTED.includes(check.name)).map((check) => check.status);
      verdicts[verdict] = [FAILED, NOT_CHECKED].find((status) => statuses.includes(status)) ?? PASSED;
    }
    let exitCode = this.required.every((name) => verdicts[name] === PASSED) ? 0 : 2;
    if (this.stale) exitCode = 3;
    if (Object.values(verdicts).includes(FAILED)) exitCode = 1;
    if (this.fork) exitCode = 4;
    return {
      schema: "geoevidence.verification.v2", kind: this.kind, package: this.container.label, verdicts, required: this.required,
      builtin_policy: this.policy.builtin, exit_code: exitCode, stale: this.stale, fork: this.fork, fork_proof: this.forkProof, facts: this.facts,
      checks: this.checks.map((check) => ({ number: RULES[check.name][0], verdict: RULES[check.name][1], ...check })),
      claims: this.claims, signers: this.signers, limits: this.limits(verdicts), supplements: [],
    };
  }

  limits(verdicts) {
    const limits = ["trust.limit.content", "trust.limit.stolen"];
    if (verdicts.signed !== PASSED) limits.push("trust.limit.who");
    if (verdicts.time !== PASSED) limits.push("trust.limit.time");
    if (this.kind !== "supplement" && !this.passed("rollback")) limits.push("trust.limit.rollback");
    if (this.kind !== "supplement" && !this.facts.witnesses) limits.push("trust.limit.fork");
    if (verdicts.recomputes !== PASSED) limits.push("trust.limit.recompute");
    if (this.kind === "redacted") limits.push("trust.limit.redacted");
    if (this.facts.demonstration) limits.push("trust.limit.demonstration");
    return [...limits, "trust.limit.attributes", ...this.container.limits];
  }
}
