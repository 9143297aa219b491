// Runs the core of verify.html under Node. Reads one JSON document from standard input, {"cases": [...]} or {"calls": [...]}, and
// writes one list of answers. The core stands before this text.
const fs = require("node:fs");
const nodePath = require("node:path");

function listed(folder) {
  const files = [];
  const empty = [];
  const walk = (below) => {
    const entries = fs.readdirSync(nodePath.join(folder, below), { withFileTypes: true });
    if (!entries.length) empty.push(below);
    for (const entry of entries) {
      const path = below ? `${below}/${entry.name}` : entry.name;
      if (entry.isDirectory()) walk(path);
      else if (entry.isFile()) files.push([path, new Blob([fs.readFileSync(nodePath.join(folder, path))])]);
    }
  };
  walk("");
  return [files, empty];
}

function sourceAt(path) {
  const name = nodePath.basename(path);
  if (fs.statSync(path).isDirectory()) {
    const [files, empty] = listed(path);
    return { kind: "folder", label: name, files, empty, failed: [] };
  }
  return { kind: "zip", file: blobAt(path) };
}

const blobAt = (path) => Object.assign(new Blob([fs.readFileSync(path)]), { name: nodePath.basename(path) });

const CALLS = {
  digest: ({ name, data }) => toHex(digest(name, fromHex(data))),
  crc32: ({ data }) => crc32(fromHex(data)),
  fold: ({ text }) => fold(text),
  sort: ({ texts }) => sortPaths(texts),
  json: ({ data }) => writeJson(parseJson(fromHex(data), "JSON")),
  canonical: ({ data }) => writeJson(parseCanonical(fromHex(data), "JSON")),
  base64: ({ text }) => toHex(fromBase64(text, "base64")),
  signature: ({ algorithm, key, signature, message }) => verifySignature(makeKey(algorithm, fromHex(key)), fromHex(signature), fromHex(message)),
  ecdsa: ({ curve, hash, key, signature, message }) =>
    verifyEcdsa(curve === "P-256" ? P256 : P384, fromHex(key), fromHex(signature), digest(hash, fromHex(message))),
  root: ({ leaves }) => toHex(treeRoot(leaves.map((leaf) => leafHash(fromHex(leaf))))),
  inclusion: ({ leaf, index, size, proof, root }) => verifyInclusion(fromHex(leaf), index, size, proof.map(fromHex), fromHex(root)),
  note: ({ data }) => noteText(parseNote(fromHex(data), "note")),
  chain: ({ leaf, others, roots, moment, purpose }) => {
    const read = (each) => parseCertificate(fromHex(each), "X.509");
    return buildChain(read(leaf), others.map(read), roots.map(read), moment, purpose, () => false).map((each) => toHex(sha256(each.der)));
  },
  stamp: ({ data, message, roots }) => {
    const stamp = parseTimeStamp(fromHex(data), "RFC 3161");
    stamp.verify(fromHex(message));
    const chain = stamp.chain(roots.map((each) => parseCertificate(fromHex(each), "X.509")), () => false);
    return [stamp.genTime, stamp.earliest, stamp.latest, toHex(sha256(chain[chain.length - 1].der))];
  },
};

async function ask(one, work) {
  try {
    return { value: (await work(one)) ?? null };
  } catch (error) {
    if (!(error instanceof Fault)) return { error: String(error.stack) };
    return { fault: error.id, unknown: error instanceof Unknown };
  }
}

const runCase = (one) =>
  answer({
    main: sourceAt(one.package), supplements: one.supplements.map(sourceAt), spoken: one.packages.length ? sourceAt(one.packages[0]) : null,
    trust: one.trust ? blobAt(one.trust) : null, checkpoints: one.checkpoints.map(blobAt), code: one.code, now: one.now,
  }, () => {});

(async () => {
  const asked = JSON.parse(fs.readFileSync(0, "utf8"));
  const answers = [];
  for (const one of asked.cases ?? []) answers.push(await ask(one, runCase));
  for (const one of asked.calls ?? []) answers.push(await ask(one, CALLS[one.call]));
  process.stdout.write(JSON.stringify(answers, (_, value) => (typeof value === "bigint" ? String(value) : value)));
})();
