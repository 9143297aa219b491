"use strict";
// A package or a redacted copy with its log: seal, signatures, tree, log, time, recomputation.

const DEVICE_PARAMETERS = { origin: "string", tree_size: "number", root: "string", workspace: "string", files: "number" };

const NUMBER_PARTS = /^(-?)([0-9]{1,40})(?:\.([0-9]{1,40}))?(?:[eE]([+-]?[0-9]{1,3}))?$/;

/** What a findings file states: the item id of its result or null, and its numbers, null where one cannot be read. Geometry has decimals. */
function statedBy(bytes, path) {
  try {
    const { result, findings } = parseJson(bytes, path, true);
    return { result: isText(result) ? result : null, numbers: numbersOf(findings) };
  } catch (fault) {
    if (!(fault instanceof Fault || fault instanceof TypeError)) throw fault;
    return { result: null, numbers: null };
  }
}

function numbersOf(findings) {
  if (!Array.isArray(findings)) return null;
  const numbers = [];
  for (const each of findings) {
    if (each === null || typeof each !== "object" || each.id === undefined || each.quantity === undefined) return null;
    if (each.quantity === null) continue;
    const { unit, value, standard_uncertainty: uncertainty } = each.quantity;
    if (![each.id, unit, value].every(isText) || !NUMBER_PARTS.test(value)) return null;
    if (uncertainty !== null && !(isText(uncertainty) && NUMBER_PARTS.test(uncertainty))) return null;
    numbers.push({ finding: each.id, unit, value, uncertainty });
  }
  return numbers;
}

/** Decimal texts as integers of one common power of ten. */
function scaled(texts) {
  const parts = texts.map((text) => {
    const [, sign, whole, fraction = "", exponent = "0"] = NUMBER_PARTS.exec(text);
    return { digits: BigInt(sign + whole + fraction), power: Number(exponent) - fraction.length };
  });
  const least = Math.min(...parts.map((each) => each.power));
  return parts.map((each) => each.digits * 10n ** BigInt(each.power - least));
}

/** Whether a row states a number and found it again, within a tenth of its uncertainty or a millionth of itself. */
function isFoundAgain(row, number) {
  if (!row || row.found === null) return false;
  const [value, found, tolerance, uncertainty] = scaled([row.stated, row.found, row.tolerance, number.uncertainty ?? "0"]);
  if (row.status === "identical") return found === value;
  const size = (each) => (each < 0n ? -each : each);
  const isAllowed = uncertainty !== 0n ? tolerance * 10n ** 7n <= 1000001n * uncertainty : tolerance * 10n ** 12n <= 1000001n * size(value);
  return row.status === "within_tolerance" && size(found - value) <= tolerance && isAllowed;
}

function coversAll(quantities, numbers) {
  if (numbers === null) return false;
  return numbers.every((number) => {
    const isOf = (row) => row.finding === number.finding && row.unit === number.unit && row.stated === number.value;
    return isFoundAgain(quantities.findLast(isOf), number);
  });
}

class PackageRun extends Run {
  constructor(container, options, { kind, version }) {
    super(container, options);
    Object.assign(this, { kind, version, outside: options.checkpoints ?? [], code: options.code ?? null });
    this.log = new LogWalk((name, subject, fault) => this.failBy(name, subject, fault), this.keys);
    this.proof = null;
    this.packaged = null;
    this.before = null;
    this.itemLines = new Map();
    this.filesWithheld = 0;
    this.results = new Map();
    this.stated = new Map();
    this.devices = new Map();
    this.sealEvidence = [];
    this.logEvidence = [];
    this.unreadEvidence = 0;
  }

  mayHold(path) {
    if (isItemPath(path)) return true;
    if (path.startsWith("seal/") && this.version === 2) return path === RECOMPUTE || evidenceName(path.slice(5)) !== null;
    const isAttestation = path.startsWith(ATTESTATIONS) && path.endsWith(".dsse") && EVENT_ID.test(path.slice(ATTESTATIONS.length, -5));
    return this.version === 2 && isAttestation;
  }

  /** What is sealed and by whom; a supplement to this package needs no more. */
  async begin() {
    if (this.container.readable) await this.readSeal();
    this.checkContainer();
    if (!this.container.readable) return;
    await this.checkKeys(KEYS);
    await this.checkSealSignatures();
  }

  /** The rest. `added`: what supplements add, {evidence, records}. */
  async run(added) {
    if (!this.container.readable) return;
    const isSigned = this.passed("statement_signature");
    const stated = this.kind === "redacted" ? this.redaction : this.statement;
    await this.checkFiles(isSigned ? stated : null, stated === null ? "seal" : "statement_signature");
    await this.readLog();
    await this.checkTree(isSigned ? this.statement : null);
    this.checkClosing();
    await this.checkLog();
    await this.checkTime(added.evidence);
    this.checkRecompute([...this.records, ...added.records]);
    this.checkCode();
    this.settleUses();
    this.checkTrust();
    this.fillFacts();
  }

  async readSeal() {
    // 1.4
    const read = (path, work) => (this.digests.has(path) ? this.attempt("seal", path, work) : null);
    this.statement = await read(STATEMENT, () => this.signedStatement(STATEMENT, "geoevidence.package.v1", "geoevidence.package.v2"));
    this.proof = await read(PROOF, async () => {
      const proof = parseProof(await this.document(PROOF, MAX_LEAF), PROOF);
      if (proof.head.signatures.length !== 1) throw new Fault("trust.note_one_signature", { where: PROOF, found: proof.head.signatures.length });
      if (proof.extra === null) throw new Fault("trust.proof_syntax", { where: PROOF });
      this.packaged = parseLeaf(proof.extra, PROOF);
      return proof;
    });
    this.closing = this.version === 2 ? await read(CLOSING, () => this.signedStatement(CLOSING, "geoevidence.closing.v1")) : null;
    this.redaction = this.kind === "redacted" ? await read(REDACTION, () => this.signedStatement(REDACTION, "geoevidence.redaction.v1")) : null;
    this.record = this.version === 2 ? await read(RECOMPUTE, () => this.signedStatement(RECOMPUTE, "geoevidence.recompute.v1")) : null;
    this.sealBytes = new Map();
    for (const path of this.paths) {
      const evidence = this.version === 2 && path.startsWith("seal/") ? evidenceName(path.slice(5)) : null;
      if (!evidence) continue;
      await read(path, async () => {
        const bytes = await this.document(path);
        try {
          if (evidence[0] === "time") parseTimeStamp(bytes, path);
          else parseCosignature(bytes, path);
        } catch (fault) {
          // an algorithm that is not known here is no fault of the structure; 3.3 says so
          if (!(fault instanceof Unknown)) {
            if (fault instanceof Fault) this.because(evidence[0] === "time" ? "time_stamps" : "cosignatures", path, "seal");
            throw fault;
          }
        }
        this.sealBytes.set(path, bytes);
      });
    }
    if (!this.digests.has(STATEMENT) || !this.digests.has(PROOF)) this.because("seal", "seal/", "layout");
    this.close("seal", "seal/");
  }

  async checkSealSignatures() {
    const { statement, proof } = this;
    const time = statement?.time_claimed ?? "";
    const index = proof?.index ?? 0;
    // 2.2
    if (statement === null) this.because("statement_signature", STATEMENT, "seal");
    else this.checkEnvelope("statement_signature", STATEMENT, this.envelopes.get(STATEMENT), { role: "package", time, index });
    if (this.kind === "redacted") {
      if (!this.redaction) this.because("statement_signature", REDACTION, "seal");
      else {
        const use = { role: "redaction", time: this.redaction.time_claimed, index, after: null, before: null };
        this.checkEnvelope("statement_signature", REDACTION, this.envelopes.get(REDACTION), use);
      }
    }
    this.close("statement_signature", STATEMENT);
    // 2.3
    if (this.digests.has(CHECKPOINT)) {
      this.before = await this.checkNote(CHECKPOINT, async () => parseCheckpoint(await this.document(CHECKPOINT), CHECKPOINT), time);
    } else this.because("checkpoint_signatures", CHECKPOINT, "layout");
    if (proof) await this.checkNote(PROOF, async () => proof.head, time);
    else this.because("checkpoint_signatures", PROOF, "seal");
    this.close("checkpoint_signatures", CHECKPOINT);
    // 2.5, but the attestations
    if (this.closing) {
      const closing = this.envelopes.get(CLOSING);
      const isSigned = this.checkEnvelope("other_signatures", CLOSING, closing, { role: "package", time, index });
      this.isClosingValid = this.checkSealer(CLOSING, closing) && isSigned;
    } else if (this.version === 2) this.because("other_signatures", CLOSING, this.exists(CLOSING) ? "seal" : "layout");
    // who may recompute is asked by 5.2, not by 2.7
    if (this.record) this.keepRecord(RECOMPUTE, this.record);
    else if (this.version === 2 && this.digests.has(RECOMPUTE)) this.because("other_signatures", RECOMPUTE, "seal");
  }

  /** 2.3: the checkpoint of a note with one valid signature, or null. */
  async checkNote(subject, read, time) {
    return this.attempt("checkpoint_signatures", subject, async () => {
      const checkpoint = await read();
      if (checkpoint.signatures.length !== 1) throw new Fault("trust.note_one_signature", { where: subject, found: checkpoint.signatures.length });
      const [{ name }] = checkpoint.signatures;
      const key = this.keyNamed(name);
      if (!key && !this.passed("keys")) {
        this.because("checkpoint_signatures", subject, "keys");
        return null;
      }
      if (!key) throw new Fault("trust.key_unknown", { where: subject, key_id: name });
      verifyNote(checkpoint, key);
      this.use(key.id, { role: "log", time, index: checkpoint.size - 1, subject });
      return checkpoint;
    });
  }

  // ---- the log, leaf by leaf: 4.1, 2.4, 4.4 to 4.6, 4.10

  async readLog() {
    if (!this.digests.has(LEAVES)) {
      this.because("events", LEAVES, "layout");
      this.because("event_signatures", LEAVES, "events");
    } else {
      let number = 0;
      await this.attempt("events", LEAVES, async () => {
        for await (const line of this.lines(LEAVES, MAX_LEAF)) await this.readLeaf(line, `${LEAVES}:${++number}`);
      });
    }
    this.leaves = this.log.size;
    this.leafRoot = this.log.tree.root();
    this.leavesWithheld = this.log.withheld;
    if (this.packaged) {
      if (this.log.events.has(this.packaged.event.id)) {
        this.fail("packaged", PROOF, "trust.event_twice", { where: LEAVES, event_id: this.packaged.event.id });
      }
      await this.takeLeaf(this.packaged, PROOF);
    }
    this.log.settle();
    if (this.statement === null) this.because("events", STATEMENT, "seal");
    this.close("events", LEAVES, this.leaves);
    this.close("event_signatures", LEAVES, this.leaves);
    this.close("other_signatures", CLOSING);
    // 4.10
    if (this.version === 2 && this.digests.has(LEAVES) && !this.failed("events")) {
      for (const path of this.paths) {
        if (!path.startsWith(ATTESTATIONS) || !this.mayHold(path)) continue;
        const event = this.log.events.get(path.slice(ATTESTATIONS.length, -5))?.event;
        if (event?.type !== "derived") this.fail("attestations", path, "html.attestation_unknown");
      }
    }
  }

  async readLeaf(line, subject) {
    let leaf;
    try {
      leaf = parseLeafLine(line, subject);
      if (leaf.event && this.log.events.has(leaf.event.id)) throw new Fault("trust.event_twice", { where: subject, event_id: leaf.event.id });
    } catch (fault) {
      if (!(fault instanceof Fault)) throw fault;
      this.failBy("events", subject, fault);
      this.log.passUnread(subject);
      return;
    }
    if (leaf.event === null) this.log.passOver(leaf.hash, subject);
    else {
      await this.takeLeaf(leaf, subject);
      this.log.checkFolders(leaf.event);
    }
  }

  async takeLeaf(leaf, subject) {
    const { event, envelope } = leaf;
    const index = this.log.size;
    const where = `${subject} ${event.id}`;
    if (this.statement && event.case !== this.statement.case) {
      this.fail("events", subject, "trust.event_case", { expected: this.statement.case, found: event.case });
    }
    if (this.version === 2 && event.outputs.length > MOST_OUTPUTS) {
      this.fail("events", subject, "html.event_outputs", { found: event.outputs.length, limit: MOST_OUTPUTS });
    }
    this.claims.push({ event_id: event.id, type: event.type, role: event.role, time_claimed: event.time, after: null, before: null });
    this.checkEnvelope("event_signatures", where, envelope, { role: event.role, time: event.time, index });
    if (event.type === "key_rotated") event.signers = envelope.signatures.map((each) => each.keyid);
    for (const item of event.type === "derived" ? event.outputs : []) if (item.path === `derived/${event.id}/result.json`) this.results.set(item.path, item);
    if (this.version === 2 && event.type === "derived") await this.checkAttestation(leaf, index);
    this.log.place(leaf, subject);
    this.log.entries[index].signers = event.signers;
  }

  async checkAttestation(leaf, index) {
    const path = `${ATTESTATIONS}${leaf.event.id}.dsse`;
    if (!this.digests.has(path)) {
      this.fail("attestations", path, "trust.file_missing", { expected: leaf.event.id });
      return;
    }
    const said = this.checks.length;
    await this.compareAttestation(leaf, index, path);
    // what 1.6 or 1.7 blames already is not blamed once more
    if (!this.blamed.has(path)) return;
    const names = new Set(this.checks.splice(said).map((check) => check.name));
    for (const name of names) this.because(name, path, "files");
  }

  async compareAttestation(leaf, index, path) {
    const envelope = await this.attempt("attestations", path, async () => {
      const read = parseEnvelope(await this.document(path, 2 * MAX_LEAF), path);
      if (!sameBytes(read.payload, attestationPayload(leaf))) throw new Fault("html.attestation_differs");
      return read;
    });
    if (envelope === null) {
      this.because("other_signatures", path, "attestations");
      return;
    }
    this.checkSealer(path, envelope, false);
    this.checkEnvelope("other_signatures", path, envelope, { role: "package", time: this.statement?.time_claimed ?? "", index: this.proof?.index ?? index });
  }

  // ---- 1.9

  async checkTree(statement) {
    if (!this.digests.has(ITEMS)) {
      this.because("tree", ITEMS, "layout");
      return;
    }
    if (this.blamed.has(ITEMS)) {
      this.because("tree", ITEMS, "files");
      return;
    }
    const leaves = [];
    const read = itemsReader(ITEMS);
    const isRead = await this.attempt("tree", ITEMS, async () => {
      for await (const raw of this.lines(ITEMS)) {
        const line = read(raw);
        if (line === null) continue;
        leaves.push(fromHex(line.leaf));
        if (line.path === null) {
          this.filesWithheld++;
          continue;
        }
        this.itemLines.set(line.path, line);
        if (itemLeaf(line) !== line.leaf) this.fail("tree", ITEMS, "trust.tree_leaf", { found: line.path });
        const found = this.digests.get(line.path);
        if (found && !this.blamed.has(line.path) && !sameFile(line, found)) {
          this.fail("tree", line.path, "trust.tree_line", { expected: showFile(line), found: showFile(found) });
        }
      }
      read.end();
      return true;
    });
    if (!isRead) return;
    this.isTreeRead = true;
    const isFree = (path) => this.kind === "redacted" && CHANGED_BY_REDACTION.includes(path);
    const payload = [...this.digests.keys()].filter((path) => path.startsWith("data/"));
    const unlisted = payload.filter((path) => !this.itemLines.has(path) && !isFree(path));
    const missing = [...this.itemLines.keys()].filter((path) => !this.exists(path));
    for (const path of [...unlisted, ...missing]) if (!this.blamed.has(path)) this.fail("tree", path, "trust.tree_files");
    if (this.filesWithheld && this.kind !== "redacted") this.skip("tree", ITEMS, "trust.withheld_files", { count: this.filesWithheld });
    if (statement === null) this.because("tree", ITEMS, "statement_signature");
    else {
      const root = toHex(treeRoot(leaves));
      if (root !== statement.package_root || leaves.length !== statement.items) {
        this.fail("tree", ITEMS, "trust.tree_root", { expected: `${statement.package_root} (${statement.items})`, found: `${root} (${leaves.length})` });
      }
    }
    // files that a copy may change stand in it without their line: those are not left out
    this.filesWithheld -= payload.filter((path) => isFree(path) && !this.itemLines.has(path)).length;
    this.close("tree", ITEMS, leaves.length);
  }

  // ---- 4 continuous

  async checkLog() {
    const rest = ["log_root", "packaged", "chains", "anchors", "inputs", "items", "disclosures", "findings", "attestations", "device_logs", "key_changes", "rollback"];
    if (!this.digests.has(LEAVES)) {
      this.drop(...rest);
      for (const name of [...rest, "witnesses", "withheld", "time_evidence"]) this.because(name, LEAVES, "layout");
      return;
    }
    this.checkLogRoot();
    this.checkPackaged();
    const isBroken = this.failed("events");
    const ordered = ["chains", "anchors", "inputs", "items"];
    if (isBroken) {
      // what was found before the leaf that cannot be read stands; an input may be explained by it
      this.drop("inputs");
      for (const name of ordered) this.because(name, LEAVES, "events");
    } else {
      for (const name of ordered.slice(0, 3)) this.close(name, LEAVES, this.leaves);
      this.checkItems();
    }
    await this.checkDisclosures();
    await this.checkFindings();
    if (isBroken) for (const name of ["device_logs", "key_changes"]) this.because(name, LEAVES, "events");
    await this.checkDeviceLogs();
    await this.checkKeyChanges();
    if (isBroken) this.because("attestations", LEAVES, "events");
    this.close("attestations", ATTESTATIONS, [...this.paths].filter((path) => path.startsWith(ATTESTATIONS)).length);
    this.checkWithheld();
    this.checkRollback();
  }

  checkLogRoot() {
    // 4.2
    if (this.before === null) {
      this.because("log_root", CHECKPOINT, "checkpoint_signatures");
      return;
    }
    if (this.failed("events")) {
      this.because("log_root", LEAVES, "events");
      return;
    }
    const { size, root, origin, text } = this.before;
    const found = toHex(this.leafRoot);
    if (size !== this.leaves || toHex(root) !== found) {
      this.fail("log_root", LEAVES, "trust.log_root", { expected: `${toHex(root)} (${size})`, found: `${found} (${this.leaves})` });
    }
    if (this.statement === null || !this.passed("statement_signature")) this.because("log_root", STATEMENT, "statement_signature");
    else {
      const wanted = `geoevidence/${this.statement.workspace}/${this.statement.case}`;
      if (origin !== wanted) this.fail("log_root", CHECKPOINT, "trust.log_origin", { expected: wanted, found: origin });
      if (text !== this.statement.checkpoint_before) this.fail("log_root", CHECKPOINT, "trust.log_statement");
    }
    this.close("log_root", LEAVES, this.leaves);
  }

  checkPackaged() {
    // 4.3
    const { proof, packaged, before } = this;
    if (!proof || !packaged) {
      this.because("packaged", PROOF, "seal");
      return;
    }
    const { event, hash } = packaged;
    const [output] = event.outputs;
    const sealed = this.digests.get(STATEMENT);
    if (event.type !== "packaged" || event.outputs.length !== 1 || output.path !== `seal/${event.id}/statement.dsse`) {
      this.fail("packaged", PROOF, "trust.packaged_event", { found: event.type });
    } else if (sealed && !sameFile(output, sealed)) {
      // either may have been replaced by a valid one of another package: nothing here can tell which
      for (const subject of [STATEMENT, PROOF]) {
        this.fail("packaged", subject, "trust.packaged_statement", { expected: showFile(output), found: showFile(sealed) });
      }
    }
    try {
      verifyInclusion(hash, proof.index, proof.head.size, proof.hashes, proof.head.root);
    } catch (fault) {
      if (!(fault instanceof Fault)) throw fault;
      this.failBy("packaged", PROOF, fault);
    }
    if (before === null || !this.passed("log_root")) this.because("packaged", LEAVES, before === null ? "checkpoint_signatures" : "log_root");
    else {
      const place = [before.origin, before.size + 1, before.size].join(" ");
      const found = [proof.head.origin, proof.head.size, proof.index].join(" ");
      if (place !== found) this.fail("packaged", PROOF, "trust.packaged_place", { expected: place, found });
      const root = this.log.roots[this.leaves + 1];
      if (!sameBytes(root, proof.head.root)) this.fail("packaged", PROOF, "trust.log_root", { expected: toHex(proof.head.root), found: toHex(root) });
      const anchor = event.anchor === null ? "" : `${event.anchor.tree_size} ${event.anchor.root}`;
      if (anchor !== (before.size ? `${before.size} ${toHex(before.root)}` : "")) this.fail("packaged", PROOF, "trust.packaged_anchor");
    }
    this.close("packaged", PROOF);
  }

  checkItems() {
    // 4.7
    const isHidden = (path) => this.kind === "redacted" && this.filesWithheld > 0 && !this.exists(path);
    for (const [path, item] of this.log.outputs) {
      if (path.startsWith("seal/")) continue;
      const file = `data/${path}`;
      const found = this.digests.get(file);
      const line = this.itemLines.get(file);
      if (!found) {
        // a file that is there and cannot be read is blamed by 1.1
        if (!isHidden(file) && !this.exists(file)) this.fail("items", file, "trust.file_missing", { expected: item.item });
      } else if (!sameFile(item, found)) {
        if (!this.blamed.has(file)) this.fail("items", file, "trust.item_digest", { expected: showFile(item), found: showFile(found) });
      } else if (line && line.item !== item.item) this.fail("items", file, "trust.item_line", { expected: item.item, found: line.item });
    }
    for (const file of this.paths) {
      const line = this.itemLines.get(file);
      if (isItemPath(file)) {
        const isHiddenEvent = this.leavesWithheld > 0 && line && line.item !== null;
        if (!this.log.outputs.has(file.slice(5)) && !isHiddenEvent) this.fail("items", file, "trust.item_unknown");
      } else if (line && line.item !== null) this.fail("items", file, "trust.item_line", { found: line.item });
    }
    if (!this.itemLines.size) this.because("items", ITEMS, "tree");
    this.close("items", LEAVES, this.log.outputs.size);
  }

  async checkDisclosures() {
    // 4.8
    if (!this.digests.has(DISCLOSURES) || this.failed("events")) {
      this.because("disclosures", DISCLOSURES, this.digests.has(DISCLOSURES) ? "events" : "layout");
      return;
    }
    const opened = await this.openDisclosures("disclosures", DISCLOSURES, this.log);
    this.close("disclosures", DISCLOSURES, opened);
  }

  async openDisclosures(name, path, log) {
    let [number, opened, last] = [0, 0, -1];
    const seen = new Set();
    await this.attempt(name, path, async () => {
      for await (const raw of this.lines(path)) {
        const where = `${path}:${++number}`;
        const line = parseDisclosure(raw, where);
        const subject = `${where} ${line.event}`;
        const known = log.events.get(line.event);
        if (seen.has(line.event)) throw new Fault("trust.disclosure_fields", { where });
        seen.add(line.event);
        if (!known || known.index <= last) {
          this.fail(name, subject, known ? "trust.disclosure_order" : "trust.disclosure_event");
          continue;
        }
        last = known.index;
        for (const [field, disclosure] of Object.entries(line.disclosures)) {
          await this.attempt(name, subject, () => {
            if (!Object.hasOwn(known.event.commitments, field)) throw new Fault("trust.disclosure_field", { where: subject, field });
            openCommitment(known.event.commitments[field], disclosure);
            opened++;
          });
        }
      }
    });
    return opened;
  }

  async checkFindings() {
    // 4.9: compared by digest, so that no list of findings is too long
    if (!this.digests.has(FINDINGS) || this.blamed.has(FINDINGS)) {
      this.because("findings", FINDINGS, this.digests.has(FINDINGS) ? "files" : "layout");
      return;
    }
    if (this.failed("events")) {
      this.because("findings", FINDINGS, "events");
      return;
    }
    this.restedOn = [];
    const sum = new Sha256().update(toUtf8('{"results":['));
    let count = 0;
    for (const { event } of this.log.entries) {
      for (const item of event?.type === "found" ? event.outputs : []) {
        if (item.path !== `records/${event.id}/findings.json`) continue;
        const path = `data/${item.path}`;
        const found = this.digests.get(path);
        if (!found && this.kind === "redacted") {
          this.isFindingLeftOut = true;
          continue;
        }
        if (!found || found.sha256 !== item.sha256) {
          this.because("findings", path, "items");
          return;
        }
        if (count++) sum.update([0x2c]);
        const bytes = await this.document(path, MAX_LEAF);
        sum.update(bytes);
        const stated = statedBy(bytes, path);
        const rests = stated.result ?? `${item.item} ?`;
        this.restedOn.push(rests);
        const before = this.stated.has(rests) ? this.stated.get(rests) : [];
        this.stated.set(rests, before === null || stated.numbers === null ? null : [...before, ...stated.numbers]);
      }
    }
    sum.update(toUtf8('],"schema":"geoevidence.package-findings.v1"}'));
    if (toHex(sum.digest()) !== this.digests.get(FINDINGS).sha256) this.fail("findings", FINDINGS, "trust.findings_differ");
    this.close("findings", FINDINGS, count);
  }

  checkWithheld() {
    // 4.15
    const [files, leaves] = [this.filesWithheld, this.leavesWithheld];
    const counts = { files, leaves, disclosures: this.redaction?.disclosures_withheld ?? 0 };
    if (this.kind === "redacted" && this.redaction) {
      const compare = (stated, found) => {
        if (stated !== found) this.fail("withheld", REDACTION, "html.withheld_count", { expected: stated, found });
      };
      if (this.isTreeRead) compare(this.redaction.files_withheld, files);
      if (!this.failed("events")) compare(this.redaction.leaves_withheld, leaves);
    }
    if (this.kind === "redacted" || files || leaves) this.skip("withheld", this.kind === "redacted" ? REDACTION : LEAVES, "html.withheld", counts);
    this.close("withheld", LEAVES, 0);
  }

  checkRollback() {
    // 4.13
    if (!this.outside.length) {
      this.skip("rollback", this.container.label, "html.no_checkpoint");
      return;
    }
    for (const { label, checkpoint } of this.outside) {
      const key = [...this.keys.values()].find((each) => checkpoint.signatures.some((one) => one.name === each.name));
      try {
        if (key) verifyNote(checkpoint, key);
      } catch (fault) {
        if (!(fault instanceof Fault)) throw fault;
        this.failBy("rollback", label, fault);
        continue;
      }
      if (!this.proof || !this.passed("packaged") || !this.passed("checkpoint_signatures")) {
        this.because("rollback", label, "packaged");
        continue;
      }
      const { head } = this.proof;
      if (checkpoint.origin !== head.origin) {
        this.fail("rollback", label, "trust.log_origin", { expected: head.origin, found: checkpoint.origin });
      } else if (checkpoint.size > head.size) {
        this.stale = true;
        this.skip("rollback", label, "trust.stale", { known: checkpoint.size, here: head.size });
      } else if (!sameBytes(this.log.roots[checkpoint.size], checkpoint.root)) {
        const here = toHex(this.log.roots[checkpoint.size]);
        if (!key) {
          // no key that is known here signed it: no proof of anything
          this.fail("rollback", label, "trust.fork_unsigned", { expected: `${toHex(checkpoint.root)} (${checkpoint.size})`, found: here });
          continue;
        }
        this.fork = true;
        this.forkProof ??= { known: noteText(checkpoint), here: noteText(head) };
        this.fail("rollback", label, "trust.fork", { expected: `${toHex(checkpoint.root)} (${checkpoint.size})`, found: here });
      }
    }
    this.close("rollback", this.outside.map((each) => each.label).join(", "));
  }

  checkCode() {
    // 2.6
    if (this.code === null) {
      this.skip("code", this.container.label, "html.no_code");
      return;
    }
    if (!this.proof) {
      this.because("code", PROOF, "seal");
      return;
    }
    const expected = shortCode(this.proof.head.root);
    // Crockford: letters that are easily taken for digits are those digits
    const given = this.code.toUpperCase().replace(/[\s-]/g, "").replace(/O/g, "0").replace(/[IL]/g, "1");
    if (given !== expected.replace(/-/g, "")) this.fail("code", PROOF, "html.code_wrong", { expected: this.code, found: expected });
    this.close("code", PROOF, expected);
  }

  fillFacts() {
    this.facts.files = this.digests.size;
    this.facts.bytes = [...this.digests.values()].reduce((sum, each) => sum + each.size, 0);
    for (const name of ["case", "workspace", "software", "time_claimed", "demonstration"]) if (this.statement) this.facts[name] = this.statement[name];
    if (this.digests.has(LEAVES)) Object.assign(this.facts, { leaves: this.leaves, withheld: this.leavesWithheld });
    if (this.kind === "redacted") Object.assign(this.facts, { files_withheld: this.filesWithheld, reason: this.redaction?.reason ?? null });
    if (this.proof) {
      const { size, root } = this.proof.head;
      Object.assign(this.facts, { tree_size: size, root: toHex(root), short_code: shortCode(root) });
    }
  }

  // ---- device logs and changes of keys

  async checkDeviceLogs() {
    // 4.11
    let count = 0;
    for (const [index, { event }] of this.log.entries.entries()) {
      if (event?.type !== "received" || event.process?.tool !== "custody.sync") continue;
      const head = `records/${event.id}/device-`;
      await this.attempt("device_logs", `data/${head}leaves.jsonl`, () => this.checkDeviceLog(event, head, index));
      count++;
    }
    this.close("device_logs", LEAVES, count);
  }

  async checkDeviceLog(event, head, index) {
    const names = ["leaves.jsonl", "disclosures.jsonl", "checkpoint", "keys.json"].map((name) => head + name);
    const outputs = event.outputs.map((each) => each.path);
    if (names.some((name, n) => outputs[n] !== name)) throw new Fault("html.device_outputs", { where: event.id });
    if (event.outputs.slice(names.length).some((each) => !each.path.startsWith(`originals/${event.id}/`))) {
      throw new Fault("html.device_outputs", { where: event.id });
    }
    const [leaves, disclosures, checkpointPath, keysPath] = names.map((name) => `data/${name}`);
    const documents = event.outputs.slice(0, names.length);
    const missing = documents.filter((item) => !this.isAsLogged("device_logs", item));
    if (missing.length) {
      // whose keys signed there is not known: nothing may look more trusted for being changed
      for (const { path } of missing) if (this.exists(`data/${path}`)) this.because("trusted_keys", `data/${path}`, "items");
      return;
    }
    const rows = new Map(((await this.readKeys("device_logs", keysPath)) ?? []).map((key) => [key.id, key]));
    const keys = new Map([...this.policy.keys, ...rows]);
    const checkpoint = parseCheckpoint(await this.document(checkpointPath), checkpointPath);
    const { parameters } = event.process;
    const isTyped = Object.entries(DEVICE_PARAMETERS).every(([name, type]) => typeof parameters[name] === type);
    if (!isTyped || Object.keys(parameters).length !== 5) throw new Fault("html.device_outputs", { where: event.id });
    const stated = ["origin", "tree_size", "root", "workspace", "files"].map((name) => parameters[name]).join(" ");
    const [, workspace, caseId] = /^geoevidence\/(W-[0-9a-f]{10})\/(C-[0-9a-f]{10})$/.exec(checkpoint.origin) ?? [];
    const found = [checkpoint.origin, checkpoint.size, toHex(checkpoint.root), workspace, event.outputs.length - names.length].join(" ");
    if (stated !== found) throw new Fault("html.device_checkpoint", { where: checkpointPath, expected: stated, found });
    const signer = checkpoint.signatures.length === 1 ? this.keyNamed(checkpoint.signatures[0].name, rows, keys) : null;
    if (!signer) throw new Fault("trust.key_unknown", { where: checkpointPath, key_id: checkpoint.signatures[0].name });
    verifyNote(checkpoint, signer);
    // who says that the log ends there is asked by 2.7 as well: without that anybody could cut it
    this.use(signer.id, { role: "log", time: event.time, index, rows, subject: checkpointPath });
    const log = new LogWalk((_, subject, fault) => this.failBy("device_logs", subject, fault), keys);
    let number = 0;
    for await (const line of this.lines(leaves, MAX_LEAF)) {
      const subject = `${leaves}:${++number}`;
      const leaf = parseLeaf(line, subject);
      if (log.events.has(leaf.event.id)) throw new Fault("trust.event_twice", { where: subject, event_id: leaf.event.id });
      if (leaf.event.case !== caseId) throw new Fault("trust.event_case", { where: subject, expected: caseId, found: leaf.event.case });
      this.checkEnvelope("device_logs", `${subject} ${leaf.event.id}`, leaf.envelope, null, keys);
      // of what a device signed, the time is attested by evidence over the event that took it in
      const use = { role: leaf.event.role, time: leaf.event.time, index, rows, subject };
      for (const { keyid } of leaf.envelope.signatures) this.use(keyid, use);
      if (leaf.event.outputs.length > MOST_OUTPUTS) throw new Fault("html.event_outputs", { found: leaf.event.outputs.length, limit: MOST_OUTPUTS });
      log.place(leaf, subject);
      log.checkFolders(leaf.event);
    }
    const root = log.tree.root();
    if (log.size !== checkpoint.size || !sameBytes(root, checkpoint.root)) {
      throw new Fault("trust.log_root", { expected: `${toHex(checkpoint.root)} (${checkpoint.size})`, found: `${toHex(root)} (${log.size})` });
    }
    await this.openDisclosures("device_logs", disclosures, log);
    // the log of a device that is taken in again starts with what was taken in before
    const earlier = this.devices.get(checkpoint.origin);
    if (earlier && (earlier.size > log.size || !sameBytes(log.roots[earlier.size], earlier.root))) {
      this.fail("device_logs", leaves, "html.device_history", { expected: `${toHex(earlier.root)} (${earlier.size})`, found: `${toHex(root)} (${log.size})` });
    }
    this.devices.set(checkpoint.origin, { size: log.size, root });
    const received = new Map(event.outputs.slice(4).map((each) => [each.path, each]));
    for (const [path, here] of received) {
      const item = log.outputs.get(`originals/${path.slice(`originals/${event.id}/`.length)}`);
      if (!item || !sameFile(here, item)) {
        this.fail("device_logs", `data/${path}`, "html.device_file", { expected: item ? showItem(item) : null, found: showItem(here) });
      }
    }
  }

  async checkKeyChanges() {
    // 4.12
    for (const [index, { event, subject, signers }] of this.log.entries.entries()) {
      if (event?.type !== "key_rotated") continue;
      await this.attempt("key_changes", `${subject} ${event.id}`, async () => {
        const path = `data/records/${event.id}/key-change.json`;
        if (event.outputs.length !== 1 || `data/${event.outputs[0].path}` !== path) throw new Fault("html.key_change", { where: event.id });
        if (!this.isAsLogged("key_changes", event.outputs[0])) {
          // which key ended is then not known: nothing may look more trusted for being left out
          const isLeftOut = this.kind === "redacted" && !this.exists(path);
          if (isLeftOut) this.because("key_changes", path, "withheld");
          this.because("trusted_keys", path, isLeftOut ? "withheld" : "items");
          return;
        }
        const change = parseKeyChange(await this.document(path), path);
        const isRotation = change.action === "rotated";
        const isFormed = isRotation
          ? change.key_id === event.keyId && change.effective === index + 1 && change.new_key.id !== change.key_id && [change.key_id, change.new_key.id].every((id) => signers.includes(id))
          : change.effective <= index + 1;
        if (!isFormed) throw new Fault("html.key_change", { where: path });
        this.changes.push({ ...change, index });
      });
    }
    for (const [index, { event, subject }] of this.log.entries.entries()) {
      // events between `effective` and a revocation are not trusted (2.7); later ones break the chain
      // (the event of a rotation is by the old key itself)
      const ended = event && this.changes.find((each) => each.key_id === event.keyId && index > each.index);
      if (ended) this.fail("key_changes", `${subject} ${event.id}`, "html.key_ended", { found: ended.key_id });
    }
    this.close("key_changes", LEAVES, this.changes.length);
  }

  // ---- 3 time

  async checkTime(added) {
    // 3.1
    const latest = new Map();
    for (const { event } of this.log.entries) {
      if (event === null) continue;
      const earlier = latest.get(event.keyId);
      if (earlier && event.time < earlier.time) {
        this.skip("claimed_order", event.id, "trust.time_backwards", { earlier: earlier.id, earlier_time: earlier.time, time: event.time });
      }
      latest.set(event.keyId, event);
    }
    if (!this.digests.has(LEAVES)) this.because("claimed_order", LEAVES, "layout");
    this.close("claimed_order", LEAVES, this.claims.length);
    this.checkPast(this.claims.map((each) => [each.event_id, each.time_claimed]), LEAVES);
    await this.readEvidence();
    if (this.passed("packaged")) for (const each of added) this.sealEvidence.push({ ...each, size: this.proof.head.size, at: Infinity });
    // 4.14
    const { threshold } = this.policy;
    const witnesses = new Set(this.sealEvidence.filter((each) => each.kind === "witness" && each.isTrusted).map((each) => each.key));
    this.facts.witnesses = witnesses.size;
    if (witnesses.size < threshold) {
      this.skip("witnesses", PROOF, "html.witnesses_few", { count: witnesses.size, threshold });
    }
    this.close("witnesses", PROOF, threshold);
    this.claims.forEach((claim) => {
      const known = this.log.events.get(claim.event_id);
      if (known) Object.assign(claim, this.bounds(known.index, known.event.anchor?.tree_size ?? 0));
      const { after, before } = claim;
      if (after !== null && before !== null && after > before) this.skip("attested", claim.event_id, "trust.attested_conflict", { after, before });
    });
    const packaged = this.packaged ? this.bounds(this.leaves, this.packaged.event.anchor?.tree_size ?? 0) : {};
    if (!this.passed("packaged")) this.because("attested", PROOF, this.proof ? "packaged" : "seal");
    else this.checkAttested([...this.sealEvidence, ...this.logEvidence], packaged.after ?? null, packaged.before ?? null);
  }

  /** 3.3 to 3.5: the evidence in seal/ and in `anchored` events. */
  async readEvidence() {
    for (const [path, bytes] of this.sealBytes ?? []) {
      if (!this.proof) {
        this.because(path.endsWith(".tsr") ? "time_stamps" : "cosignatures", path, "seal");
        continue;
      }
      const found = path.endsWith(".tsr")
        ? await this.checkStamp(path, bytes, await this.document(PROOF, MAX_LEAF), PROOF)
        : this.checkCosignature(path, bytes, this.proof.head.text);
      // a checkpoint that is not of this log attests nothing of it
      if (found && this.passed("packaged")) this.sealEvidence.push({ ...found, size: this.proof.head.size, at: Infinity });
    }
    if (!this.digests.has(LEAVES)) {
      this.close("time_stamps", LEAVES);
      this.close("cosignatures", LEAVES);
      return;
    }
    if (this.failed("events")) this.because("time_evidence", LEAVES, "events");
    // what a token states is known even where the token is not good
    const times = [];
    for (const [index, { event }] of this.log.entries.entries()) {
      if (event?.type === "anchored") {
        await this.attempt("time_evidence", `data/records/${event.id}/checkpoint.note`, () => this.readAnchored(event, index, times));
      }
    }
    if (!this.failed("events")) {
      for (const { event, subject } of this.log.entries) {
        const stated = event?.anchor?.attested_time ?? null;
        if (stated === null || this.leavesWithheld || this.unreadEvidence) continue;
        const isKnown = times.some((each) => each.at < event.anchor.tree_size && each.time === stated);
        if (!isKnown) this.fail("time_evidence", `${subject} ${event.id}`, "html.attested_time", { found: stated });
      }
    }
    this.close("time_stamps", LEAVES, [...this.sealEvidence, ...this.logEvidence].filter((each) => each.kind === "time").length);
    this.close("cosignatures", LEAVES, [...this.sealEvidence, ...this.logEvidence].filter((each) => each.kind === "witness").length);
    this.close("time_evidence", LEAVES, this.logEvidence.length);
  }

  async readAnchored(event, index, times) {
    const folder = `records/${event.id}/`;
    const [note, ...others] = event.outputs.map((each) => each.path);
    const stamps = others.filter((each) => each.endsWith(".tsr")).length;
    // time stamps first, then cosignatures, each numbered from 1
    const names = others.map((_, n) => (n < stamps ? `time-${n + 1}.tsr` : `witness-${n - stamps + 1}.cosig`));
    const isFormed =
      note === `${folder}checkpoint.note` && others.length > 0 && others.every((each, n) => each === folder + names[n]) && evidenceName(names[names.length - 1]) &&
      !event.inputs.length && event.process === null;
    if (!isFormed) throw new Fault("html.anchored_outputs", { where: event.id });
    const isThere = event.outputs.map((item) => this.isAsLogged("time_evidence", item));
    this.unreadEvidence += isThere.filter((each) => !each).length;
    if (!isThere[0]) return;
    const path = `data/${note}`;
    const bytes = await this.document(path);
    const checkpoint = parseCheckpoint(bytes, path);
    const key = checkpoint.signatures.length === 1 ? this.keyNamed(checkpoint.signatures[0].name) : null;
    if (!key) throw new Fault("trust.key_unknown", { where: path, key_id: checkpoint.signatures[0].name });
    verifyNote(checkpoint, key);
    const origin = this.before?.origin ?? checkpoint.origin;
    if (checkpoint.origin !== origin) throw new Fault("trust.log_origin", { expected: origin, found: checkpoint.origin });
    if (checkpoint.size > index || !sameBytes(this.log.roots[checkpoint.size], checkpoint.root)) {
      throw new Fault("trust.anchor_wrong", { found: `${toHex(checkpoint.root)} (${checkpoint.size})` });
    }
    for (const each of others.filter((_, n) => isThere[n + 1]).map((name) => `data/${name}`)) {
      const data = await this.document(each);
      const isStamp = each.endsWith(".tsr");
      try {
        times.push({ at: index, time: isStamp ? parseTimeStamp(data, each).genTime : parseCosignature(data, each).time });
      } catch (fault) {
        if (!(fault instanceof Fault)) throw fault;
        // said below, where it is checked; of an unknown kind of token the time is not known
        if (fault instanceof Unknown) this.unreadEvidence++;
      }
      const found = isStamp ? await this.checkStamp(each, data, bytes, path) : this.checkCosignature(each, data, checkpoint.text);
      if (found) this.logEvidence.push({ ...found, size: checkpoint.size, at: index });
    }
  }

  /** Whether the file of an item is the one that the log states; what is changed is blamed by 1.7 and 4.7, what a copy leaves out by 4.15. */
  isAsLogged(name, item) {
    const found = this.digests.get(`data/${item.path}`);
    if (found?.sha256 === item.sha256) return true;
    if (found || this.kind !== "redacted") this.because(name, `data/${item.path}`, "items");
    return false;
  }

  /** Attested interval of the leaf at `index`, whose writer knew the checkpoint of `anchor` leaves: {after, before}, or nulls. */
  bounds(index, anchor) {
    const trusted = [...this.logEvidence, ...this.sealEvidence].filter((each) => each.isTrusted);
    const before = trusted.filter((each) => each.size > index).map((each) => each.latest).sort()[0] ?? null;
    const after = trusted.filter((each) => each.at < anchor).map((each) => each.earliest).sort().pop() ?? null;
    return { after, before };
  }

  /** Gives each use of a key the time that is attested for it. */
  settleUses() {
    for (const uses of this.uses.values()) {
      for (const use of uses) {
        const anchor = use.rows ? 0 : (this.log.entries[use.index]?.event?.anchor?.tree_size ?? 0);
        if (use.before === undefined) Object.assign(use, this.bounds(use.index, anchor));
        use.ended = this.changes.some((each) => this.uses.get(each.key_id) === uses && use.index >= each.effective);
      }
    }
  }

  judge(id, use) {
    const answer = super.judge(id, use);
    return use.ended && !answer.refusal ? { ...answer, isUnknown: true, detail: "html.key_revoked_in_log" } : answer;
  }

  // ---- 5 recomputes

  checkRecompute(records) {
    // 5.1
    if (!records.length) {
      const isBroken = this.version === 2 && this.digests.has(RECOMPUTE);
      if (isBroken) this.because("recompute", RECOMPUTE, this.record ? "other_signatures" : "seal");
      else this.skip("recompute", this.container.label, "html.no_recompute");
      this.skip("recompute_trusted", this.container.label, "html.no_recompute");
      return;
    }
    const subject = records.map((each) => each.path).join(", ");
    if (!this.digests.has(LEAVES) || this.failed("events")) this.because("recompute", LEAVES, "events");
    else if (!this.passed("findings")) this.because("recompute", FINDINGS, "findings");
    // a finding that is left out may rest on a result that no record covers
    else if (this.isFindingLeftOut || this.leavesWithheld) this.because("recompute", FINDINGS, "withheld");
    const covered = new Set();
    const trusted = new Set();
    for (const { path, record, isTrusted } of records) {
      for (const name of ["case", "workspace", "package_root"]) {
        if (this.statement && record[name] !== this.statement[name]) {
          this.fail("recompute", path, "html.other_package", { expected: this.statement[name], found: record[name] });
        }
      }
      [...record.subjects].forEach(([name, stated], n) => {
        const item = this.results.get(name);
        const { status, quantities, files } = record.results[n];
        const isHidden = !item && this.leavesWithheld > 0;
        if (!isHidden && !(item && item.sha256 === stated.sha256 && item.sm3 === stated.sm3)) {
          this.fail("recompute", `${path} ${name}`, "html.recompute_unknown", { expected: item?.sha256, found: stated.sha256 });
        } else if (status === "differs") this.fail("recompute", `${path} ${name}`, "html.recompute_differs");
        else if (item && status !== "not_run" && quantities.length + files.length > 0 && coversAll(quantities, this.stated.has(item.item) ? this.stated.get(item.item) : [])) {
          covered.add(item.item);
          if (isTrusted(this.proof?.index ?? 0)) trusted.add(item.item);
        }
      });
    }
    const wanted = [...new Set(this.restedOn ?? [])];
    for (const item of wanted.filter((each) => !covered.has(each)).sort()) this.skip("recompute", item, "html.recompute_open");
    if (!covered.size) this.skip("recompute", subject, "html.recompute_open");
    this.close("recompute", subject, covered.size);
    // 5.2
    if (!this.passed("recompute")) this.because("recompute_trusted", subject, "recompute");
    else if (!trusted.size || wanted.some((each) => !trusted.has(each))) this.skip("recompute_trusted", subject, "html.recompute_signer");
    this.close("recompute_trusted", subject, trusted.size);
  }
}

function noteText({ text, signatures }) {
  const lines = signatures.map(({ name, hash, signature }) => `\u2014 ${name} ${toBase64(concat(hash, signature))}\n`);
  return `${text}\n${lines.join("")}`;
}
