"use strict";
// A supplement, held against the package that it speaks of; and the whole of a verification, of one thing or of several.

class SupplementRun extends Run {
  /** `isBeside`: it is verified with its package, whose own time is what a policy asks for. */
  constructor(container, options, isBeside) {
    super(container, options);
    Object.assign(this, { kind: "supplement", version: 2, records: [], evidence: [] });
    const asked = this.policy.required.filter((name) => name !== "recomputes" && !(isBeside && name === "time"));
    // where nothing is left to ask for, not everything is well
    this.required = asked.length ? asked : NO_POLICY.required;
  }

  mayHold(path) {
    if (path.startsWith("data/files/")) return true;
    return path.startsWith("seal/") && evidenceName(path.slice(5))?.[0] === "time";
  }

  /** `spoken`: the package that it is given with, begun, or null. */
  async run(spoken) {
    if (this.container.readable) {
      const read = (path, work) => (this.digests.has(path) ? this.attempt("seal", path, work) : null);
      this.statement = await read(STATEMENT, () => this.signedStatement(STATEMENT, "geoevidence.supplement.v1"));
      this.closing = await read(CLOSING, () => this.signedStatement(CLOSING, "geoevidence.closing.v1"));
      for (const path of [STATEMENT, CLOSING]) if (!this.digests.has(path)) this.because("seal", path, "layout");
    }
    this.checkContainer();
    if (!this.container.readable) return;
    await this.checkKeys(SUPPLEMENT_KEYS);
    const { statement } = this;
    const use = { role: "supplement", time: statement?.time_claimed ?? "", index: 0 };
    if (statement === null) this.because("statement_signature", STATEMENT, "seal");
    else this.checkEnvelope("statement_signature", STATEMENT, this.envelopes.get(STATEMENT), use);
    this.close("statement_signature", STATEMENT);
    if (this.closing) {
      const isSigned = this.checkEnvelope("other_signatures", CLOSING, this.envelopes.get(CLOSING), use);
      this.isClosingValid = this.checkSealer(CLOSING, this.envelopes.get(CLOSING)) && isSigned;
    } else this.because("other_signatures", CLOSING, this.exists(CLOSING) ? "seal" : "layout");
    await this.checkFiles(this.passed("statement_signature") ? statement : null, statement === null ? "seal" : "statement_signature");
    this.checkClosing();
    const kind = await this.checkDocument(spoken);
    if (kind !== null) await this.readAdded(kind, spoken);
    this.close("other_signatures", CLOSING);
    this.checkPast(statement ? [[STATEMENT, statement.time_claimed]] : [], STATEMENT);
    await this.checkOwnTime();
    this.checkTrust();
    this.skip("recompute", this.container.label, "html.supplement_recompute");
    this.facts.files = this.digests.size;
    this.facts.bytes = [...this.digests.values()].reduce((sum, each) => sum + each.size, 0);
    for (const name of ["case", "workspace", "software", "time_claimed", "demonstration"]) if (statement) this.facts[name] = statement[name];
  }

  /** 4.16; gives the kind of the supplement, or null. */
  async checkDocument(spoken) {
    if (!this.digests.has(SUPPLEMENT) || this.blamed.has(SUPPLEMENT)) {
      this.because("supplement_of", SUPPLEMENT, this.digests.has(SUPPLEMENT) ? "files" : "layout");
      return null;
    }
    const said = await this.attempt("supplement_of", SUPPLEMENT, async () => parseSupplement(await this.document(SUPPLEMENT), SUPPLEMENT));
    if (said === null) return null;
    Object.assign(this.facts, { supplement_kind: said.kind, author: said.author, text: said.text, previous: said.previous, speaks_of: said.package });
    const compare = (wanted, found) => {
      for (const name of Object.keys(wanted)) {
        if (wanted[name] !== found[name]) this.fail("supplement_of", SUPPLEMENT, "html.other_package", { expected: wanted[name], found: found[name] });
      }
    };
    const named = ({ case: caseId, workspace, package_root: root }) => ({ case: caseId, workspace, package_root: root });
    if (this.statement) {
      compare({ supplement_sha256: this.statement.supplement_sha256 }, { supplement_sha256: this.digests.get(SUPPLEMENT).sha256 });
      compare(named(this.statement), said.package);
    }
    if (spoken === null) this.skip("supplement_of", SUPPLEMENT, "html.no_package_of");
    else if (!spoken.statement || !spoken.passed("statement_signature")) this.skip("supplement_of", SUPPLEMENT, "html.package_of_unsigned");
    else {
      const { sha256: first, sm3: second } = spoken.digests.get(STATEMENT);
      compare({ ...named(spoken.statement), statement_sha256: first, statement_sm3: second }, said.package);
    }
    return said.kind;
  }

  /** A record or time stamps among the files that are added. */
  async readAdded(kind, spoken) {
    const path = "data/files/recompute.dsse";
    const isRecord = this.digests.has(path);
    if (kind === "recompute" && !isRecord) this.fail("supplement_of", path, "trust.file_missing");
    if (isRecord && !this.blamed.has(path)) {
      const record = await this.attempt("other_signatures", path, () => this.signedStatement(path, "geoevidence.recompute.v1"));
      if (record) this.keepRecord(path, record);
    }
    if (kind === "time") {
      let number = 1;
      for (; this.digests.has(`data/files/time-${number}.tsr`); number++) await this.readStamp(`data/files/time-${number}.tsr`, spoken);
      if (number === 1) this.fail("supplement_of", "data/files/time-1.tsr", "trust.file_missing");
    }
    this.close("supplement_of", SUPPLEMENT);
  }

  async readStamp(path, spoken) {
    const message = spoken?.proof ? await spoken.document(PROOF, MAX_LEAF) : null;
    if (message === null) {
      this.because("time_stamps", path, "supplement_of");
      return;
    }
    const bytes = await this.attempt("time_stamps", path, () => this.document(path));
    const found = bytes && (await this.checkStamp(path, bytes, message, PROOF));
    if (found) this.evidence.push({ ...found, path: `${this.container.label}/${path}` });
  }

  async checkOwnTime() {
    const own = [];
    for (const path of this.paths) {
      if (!path.startsWith("seal/") || !this.mayHold(path) || !this.digests.has(STATEMENT)) continue;
      const bytes = await this.attempt("seal", path, async () => {
        const data = await this.document(path);
        try {
          parseTimeStamp(data, path);
        } catch (fault) {
          if (!(fault instanceof Unknown)) throw fault;
        }
        return data;
      });
      const found = bytes && (await this.checkStamp(path, bytes, await this.document(STATEMENT), STATEMENT));
      if (!bytes) this.because("time_stamps", path, "seal");
      if (found) own.push(found);
    }
    this.close("seal", "seal/");
    this.close("time_stamps", STATEMENT, own.length + this.evidence.length);
    const before = own.filter((each) => each.isTrusted).map((each) => each.latest).sort()[0] ?? null;
    this.checkAttested(own, null, before);
    for (const uses of this.uses.values()) for (const each of uses) each.before = before;
  }
}

/** {kind, version} of what was given, by its statement; where that cannot be read, by its files. */
async function detectKind(run) {
  const has = (path) => run.digests.has(path);
  let type = null;
  try {
    if (has(STATEMENT)) {
      type = (await run.signedStatement(STATEMENT, "geoevidence.package.v1", "geoevidence.package.v2", "geoevidence.supplement.v1")).type;
    }
  } catch (fault) {
    if (!(fault instanceof Fault)) throw fault;
  }
  if (type === "geoevidence.supplement.v1" || (type === null && run.exists(SUPPLEMENT))) return { kind: "supplement", version: 2 };
  const kind = run.exists(REDACTION) ? "redacted" : "package";
  return { kind, version: type === "geoevidence.package.v1" || (type === null && !run.exists(CLOSING)) ? 1 : 2 };
}

async function prepare(container, options, isBeside) {
  const first = new Run(container, options);
  if (container.readable) await first.readFiles();
  const found = await detectKind(first);
  const run = found.kind === "supplement" ? new SupplementRun(container, options, isBeside) : new PackageRun(container, options, found);
  Object.assign(run, { digests: first.digests, checks: first.checks, counts: first.counts });
  if (run instanceof PackageRun) await run.begin();
  return run;
}

/**
 * The report of a package with supplements, or of a supplement with the package that it speaks of. All are containers; `spoken` is
 * null where it was not given. options: policy, checkpoints [{label, checkpoint}], code, now (UTC text), progress.
 */
async function verify(container, options, supplements = [], spoken = null) {
  const all = [container, ...supplements, ...(spoken ? [spoken] : [])];
  const sizes = all.map((each) => [...each.sizes.values()].reduce((sum, size) => sum + size, 1));
  const total = sizes.reduce((sum, size) => sum + size, 0);
  const runs = [];
  for (const [n, each] of all.entries()) {
    const before = sizes.slice(0, n).reduce((sum, size) => sum + size, 0);
    const progress = (share) => options.progress?.((before + share * sizes[n]) / total);
    runs.push(await prepare(each, { ...options, progress }, n > 0));
  }
  const main = runs.shift();
  const given = spoken ? runs.pop() : null;
  const others = runs;
  if (others.some((run) => !(run instanceof SupplementRun))) throw new Fault("html.no_supplement");
  if (given && !(given instanceof PackageRun)) throw new Fault("html.no_package");
  if (main instanceof SupplementRun) {
    if (others.length) throw new Fault("html.supplement_of_supplement");
    await main.run(given);
    return main.report();
  }
  for (const run of others) await run.run(main);
  const reports = others.map((run) => run.report());
  // a supplement that is broken, or of another package, adds nothing
  const good = others.filter((run, n) => reports[n].exit_code !== 1 && reports[n].verdicts.continuous === PASSED);
  await main.run({ evidence: good.flatMap((run) => run.evidence), records: good.flatMap((run) => run.records) });
  const report = main.report();
  report.supplements = reports;
  const worst = [4, 1, 3, 2, 0];
  report.exit_code = worst.find((code) => [report, ...reports].some((each) => each.exit_code === code));
  return report;
}
