"use strict";
// X.509 certificates and their chains (a subset of RFC 5280), RFC 3161 time stamps (RFC 5652, RFC 5035, RFC 5816).
// Roots come from outside. No revocation list is read, nothing is fetched, name constraints are not processed (a critical
// extension that is not known is refused). An algorithm that is not known throws `Unknown`: not checked, neither right nor wrong.

class Unknown extends Fault {}

const OIDS = {
  rsa: "1.2.840.113549.1.1.1", pss: "1.2.840.113549.1.1.10", mgf1: "1.2.840.113549.1.1.8", ec: "1.2.840.10045.2.1", ed25519: "1.3.101.112",
  basicConstraints: "2.5.29.19", keyUsage: "2.5.29.15", extendedKeyUsage: "2.5.29.37", subjectKeyId: "2.5.29.14", altName: "2.5.29.17",
  policies: "2.5.29.32", timeStamping: "1.3.6.1.5.5.7.3.8", tstInfo: "1.2.840.113549.1.9.16.1.4", contentType: "1.2.840.113549.1.9.3",
  messageDigest: "1.2.840.113549.1.9.4", signingCertificate: "1.2.840.113549.1.9.16.2.12", signingCertificateV2: "1.2.840.113549.1.9.16.2.47",
};
const CURVE_OIDS = { "1.2.840.10045.3.1.7": P256, "1.3.132.0.34": P384, "1.2.156.10197.1.301": SM2 };
// RFC 5652 section 5.1, and GM/T 0010-2012 for the same structure
const SIGNED_DATA = ["1.2.840.113549.1.7.2", "1.2.156.10197.6.1.4.2.2"];
const HASHES = Object.fromEntries(Object.entries(HASH_OIDS).filter(([name]) => name !== "sha1").map(([name, oid]) => [oid, name]));
const SIGNATURE_OIDS = {
  "1.2.840.113549.1.1.11": ["rsa-pkcs1", "sha256"], "1.2.840.113549.1.1.12": ["rsa-pkcs1", "sha384"], "1.2.840.113549.1.1.13": ["rsa-pkcs1", "sha512"],
  "1.2.840.10045.4.3.2": ["ecdsa", "sha256"], "1.2.840.10045.4.3.3": ["ecdsa", "sha384"], "1.2.840.10045.4.3.4": ["ecdsa", "sha512"],
  "1.2.156.10197.1.501": ["sm2", "sm3"], "1.3.101.112": ["ed25519", null],
};
const NAME_TYPES = {
  "2.5.4.3": "CN", "2.5.4.4": "SN", "2.5.4.5": "serialNumber", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.9": "street", "2.5.4.10": "O",
  "2.5.4.11": "OU", "2.5.4.12": "title", "2.5.4.42": "GN", "2.5.4.97": "organizationIdentifier", "1.2.840.113549.1.9.1": "emailAddress",
  "0.9.2342.19200300.100.1.1": "UID", "0.9.2342.19200300.100.1.25": "DC",
};
const MAX_CERTIFICATES = 64;
const MAX_CHAIN = 10;
const MAX_LINKS = 256;
const MAX_PATHS = 1000;

const unknownAlgorithm = (found) => new Unknown("trust.algorithm_unknown", { found });

/** A distinguished name as text, the most particular part first. */
function nameText(value) {
  const parts = value.children().map((relative) => {
    relative.need(relative.tag === SET && relative.content.length);
    return relative.children().map((pair) => {
      const fields = new DerFields(pair);
      const oid = fields.take(OID).oid();
      const member = fields.take();
      fields.end();
      if (!(member.tag in TEXT_DECODERS)) return `${NAME_TYPES[oid] ?? oid}=#${toHex(member.encoded)}`;
      const escaped = member.text().replace(/[,+"\\<>;=]/g, "\\$&").replace(/^[ #]| $|[\x00-\x1f\x7f]/g, (one) => `\\${HEX[one.charCodeAt(0)]}`);
      return `${NAME_TYPES[oid] ?? oid}=${escaped}`;
    }).join("+");
  });
  return parts.reverse().join(", ");
}

/** OID of a hash's AlgorithmIdentifier, with NULL or no parameters. */
function hashOid(value) {
  const fields = new DerFields(value);
  const oid = fields.take(OID).oid();
  fields.optional(NULL);
  fields.end();
  return oid;
}

function hashName(value) {
  const oid = hashOid(value);
  if (!(oid in HASHES)) throw unknownAlgorithm(oid);
  return HASHES[oid];
}

/** {family, hash, salt} of an AlgorithmIdentifier; `withHash` is the hash beside one that names a key alone (SignerInfo). */
function signatureScheme(value, withHash = null) {
  const fields = new DerFields(value);
  const oid = fields.take(OID).oid();
  const parameters = fields.rest();
  if (oid === OIDS.pss && parameters.length === 1) return pssScheme(parameters[0]);
  const bare = oid === OIDS.ed25519 || oid === OIDS.ec;
  if (parameters.length > 1 || (parameters.length && (bare || parameters[0].tag !== NULL))) throw unknownAlgorithm(oid);
  if (withHash !== null) {
    if (oid === OIDS.rsa && withHash !== "sm3") return { family: "rsa-pkcs1", hash: withHash };
    if (oid === OIDS.ec && withHash !== "sm3") return { family: "ecdsa", hash: withHash };
    // GM/T 0006-2012: SM2, and SM2 as signature algorithm
    if (/^1\.2\.156\.10197\.1\.301(\.1)?$/.test(oid) && withHash === "sm3") return { family: "sm2", hash: "sm3" };
  }
  if (!Object.hasOwn(SIGNATURE_OIDS, oid)) throw unknownAlgorithm(oid);
  const [family, hash] = SIGNATURE_OIDS[oid];
  return { family, hash };
}

/** RFC 4055 section 3.1; what is left out means SHA-1, which is not accepted. */
function pssScheme(value) {
  const fields = new DerFields(value);
  const [hash, mask, salt, trailer] = [0xa0, 0xa1, 0xa2, 0xa3].map((tag) => fields.optional(tag)?.only() ?? null);
  fields.end();
  const name = hash === null ? undefined : HASHES[hashOid(hash)];
  const saltSize = salt === null ? 20n : salt.integer();
  if (!name || name === "sm3" || mask === null || saltSize < 0n || saltSize > 1024n || (trailer && trailer.integer() !== 1n)) throw unknownAlgorithm(OIDS.pss);
  const parts = new DerFields(mask);
  const maskOid = parts.take(OID).oid();
  const maskHash = hashOid(parts.take(SEQUENCE));
  parts.end();
  if (maskOid !== OIDS.mgf1 || HASHES[maskHash] !== name) throw unknownAlgorithm(OIDS.pss);
  return { family: "rsa-pss", hash: name, salt: Number(saltSize) };
}

const tryScheme = (value) => {
  try {
    return signatureScheme(value);
  } catch (fault) {
    if (fault instanceof Unknown) return null;
    throw fault;
  }
};

/** {kind, raw, scheme} of a SubjectPublicKeyInfo; kind "?..." is one that is not known here, refused when it is used. */
function subjectKey(value) {
  const fields = new DerFields(value);
  const identifier = fields.take(SEQUENCE);
  const raw = fields.take(BIT_STRING).wholeBits();
  fields.end();
  const parts = new DerFields(identifier);
  const oid = parts.take(OID).oid();
  const parameters = parts.rest();
  const nothing = parameters.length === 0 || (parameters.length === 1 && parameters[0].tag === NULL);
  if (oid === OIDS.rsa || oid === OIDS.pss) {
    const scheme = oid === OIDS.pss && parameters.length ? tryScheme(identifier) : null;
    if (!nothing && scheme === null) return { kind: `?${oid}`, raw };
    try {
      parseRsaKey(raw);
    } catch (fault) {
      if (!(fault instanceof Fault) || fault.id !== "trust.key_rsa_bits") throw fault;
      return { kind: `?${oid} ${fault.values.found}`, raw };
    }
    return { kind: oid === OIDS.rsa ? "rsa" : "rsa-pss", raw, scheme };
  }
  if (oid === OIDS.ed25519 && !parameters.length) {
    KEY_ALGORITHMS.ed25519.check(raw);
    return { kind: "ed25519", raw };
  }
  if (oid === OIDS.ec && parameters.length === 1 && parameters[0].tag === OID) {
    const named = parameters[0].oid();
    if (Object.hasOwn(CURVE_OIDS, named) && raw[0] === 4) {
      CURVE_OIDS[named].point(raw);
      return { kind: CURVE_OIDS[named].name, raw };
    }
    return { kind: `?${oid} ${named}`, raw };
  }
  return { kind: `?${oid}`, raw };
}

const KEY_FAMILIES = { rsa: ["rsa-pkcs1", "rsa-pss"], "rsa-pss": ["rsa-pss"], "P-256": ["ecdsa"], "P-384": ["ecdsa"], SM2: ["sm2"], ed25519: ["ed25519"] };
const ALGORITHM_KINDS = {
  ed25519: ["ed25519"], "ecdsa-p256-sha256": ["P-256"], "ecdsa-p384-sha384": ["P-384"], "sm2-sm3": ["SM2"], "rsa-pkcs1-sha256": ["rsa"],
  "rsa-pss-sha256": ["rsa", "rsa-pss"],
};

function verifyWithSubjectKey(key, scheme, signature, message) {
  if (!Object.hasOwn(KEY_FAMILIES, key.kind)) throw unknownAlgorithm(key.kind.slice(1));
  const { family, hash, salt } = scheme;
  const bound = key.scheme;
  if (!KEY_FAMILIES[key.kind].includes(family) || (bound && (bound.hash !== hash || salt < bound.salt))) {
    throw new Fault("trust.signature_scheme", { key: key.kind, scheme: hash ? `${family}-${hash}` : family });
  }
  if (family === "rsa-pkcs1") verifyRsaPkcs1(key.raw, signature, message, hash);
  else if (family === "rsa-pss") verifyRsaPss(key.raw, signature, message, hash, salt);
  else if (family === "ecdsa") verifyEcdsa(key.kind === "P-256" ? P256 : P384, key.raw, signature, digest(hash, message));
  else if (family === "sm2") verifySm2(key.raw, signature, message);
  else verifyEd25519(key.raw, signature, message);
}

function parseExtension(value) {
  const fields = new DerFields(value);
  const oid = fields.take(OID).oid();
  const critical = fields.optional(BOOLEAN)?.boolean() ?? false;
  const content = fields.take(OCTET_STRING);
  fields.end();
  return { oid, critical, value: content };
}

/** A certificate that was read and is not yet trusted (RFC 5280 section 4.1). Throws Fault. */
function certificateOf(value) {
  const outer = new DerFields(value);
  const signed = outer.take(SEQUENCE);
  const algorithm = outer.take(SEQUENCE);
  const signature = outer.take(BIT_STRING).wholeBits();
  outer.end();
  const fields = new DerFields(signed);
  const versionField = fields.optional(0xa0);
  const version = versionField === null ? 1 : Number(versionField.only(INTEGER).integer()) + 1;
  const serial = fields.take(INTEGER).integer();
  if (!sameBytes(fields.take(SEQUENCE).encoded, algorithm.encoded)) throw new Fault("trust.certificate_algorithms", { where: value.where });
  const issuer = fields.take(SEQUENCE);
  const validity = new DerFields(fields.take(SEQUENCE));
  const [notBefore, notAfter] = [0, 1].map(() => validity.take(UTC_TIME, GENERALIZED_TIME).time().second);
  validity.end();
  const subject = fields.take(SEQUENCE);
  const key = subjectKey(fields.take(SEQUENCE));
  fields.optional(0x81);
  fields.optional(0x82);
  const extensionField = fields.optional(0xa3);
  fields.end();
  const extensions = new Map();
  for (const each of extensionField === null ? [] : extensionField.only(SEQUENCE).children()) {
    const extension = parseExtension(each);
    if (extensions.has(extension.oid)) throw new Fault("trust.certificate_extension", { where: value.where, oid: extension.oid });
    extensions.set(extension.oid, extension);
  }
  if ((versionField !== null && version !== 2 && version !== 3) || (extensions.size && version !== 3)) {
    throw new Fault("trust.certificate_version", { where: value.where, found: version });
  }
  const inside = (oid, tag) => (extensions.has(oid) ? readDer(extensions.get(oid).value.content, value.where, tag) : null);
  const basic = inside(OIDS.basicConstraints, SEQUENCE);
  let isAuthority = false;
  let pathLength = null;
  if (basic !== null) {
    const parts = new DerFields(basic);
    isAuthority = parts.optional(BOOLEAN)?.boolean() ?? false;
    pathLength = parts.optional(INTEGER)?.integer() ?? null;
    parts.end();
    if (pathLength !== null && (pathLength < 0n || !isAuthority)) {
      throw new Fault("trust.certificate_extension", { where: value.where, oid: OIDS.basicConstraints });
    }
  }
  const usage = inside(OIDS.keyUsage, BIT_STRING)?.bits() ?? null;
  const purposes = inside(OIDS.extendedKeyUsage, SEQUENCE);
  if (purposes !== null) {
    purposes.need(purposes.children().length);
    for (const each of purposes.children()) each.need(each.tag === OID);
  }
  const known = [OIDS.basicConstraints, OIDS.keyUsage, OIDS.extendedKeyUsage, OIDS.subjectKeyId, OIDS.altName, OIDS.policies];
  return {
    der: value.encoded, signed: signed.encoded, signature, scheme: tryScheme(algorithm), algorithm: new DerFields(algorithm).take(OID).oid(), version, serial,
    issuer: toHex(issuer.encoded), subject: toHex(subject.encoded), issuerText: nameText(issuer), subjectText: nameText(subject), notBefore, notAfter, key,
    isAuthority, pathLength,
    // bits 0 to 8 of keyUsage, section 4.2.1.3
    usages: usage === null ? null : [...Array(9).keys()].filter((bit) => (usage[bit >> 3] ?? 0) & (128 >> (bit & 7))),
    purposes: purposes === null ? null : purposes.children().map((each) => each.oid()),
    purposesCritical: extensions.get(OIDS.extendedKeyUsage)?.critical ?? false,
    unknownCritical: [...extensions.values()].filter((each) => each.critical && !known.includes(each.oid)).map((each) => each.oid),
    subjectKeyId: inside(OIDS.subjectKeyId, OCTET_STRING)?.content ?? null,
    altNames: inside(OIDS.altName, SEQUENCE)?.children().map((each) => each.encoded) ?? [],
  };
}

function parseCertificate(bytes, where) {
  return certificateOf(readDer(bytes, where, SEQUENCE));
}

const sameKey = (one, other) => one.kind === other.kind && sameBytes(one.raw, other.raw);

function certificateHasKey(certificate, key) {
  const own = certificate.key;
  const fits = ALGORITHM_KINDS[key.algorithm].includes(own.kind) && sameBytes(own.raw, key.raw);
  return fits && (!own.scheme || (own.scheme.hash === "sha256" && own.scheme.salt <= 32));
}

/** Throws unless the key of the certificate may sign documents, or stamp times (RFC 3161 section 2.3). */
function checkPurpose(certificate, purpose) {
  const { usages, purposes, purposesCritical } = certificate;
  let problem = "";
  // digitalSignature and nonRepudiation are bits 0 and 1
  if (usages !== null && (!usages.some((bit) => bit < 2) || (purpose === "time" && usages.some((bit) => bit > 1)))) problem = "keyUsage";
  else if (purpose === "time" && !(purposes?.length === 1 && purposes[0] === OIDS.timeStamping && purposesCritical)) problem = "extendedKeyUsage";
  if (problem) throw new Fault("trust.certificate_usage", { subject: certificate.subjectText, purpose, problem });
}

/**
 * The certificates from `leaf` to one of `roots`, good for `purpose` at `moment` (RFC 5280 section 6, without policies).
 * `isRevoked` is asked of each. Throws Fault, or Unknown where the only ways need what is not known here.
 */
function buildChain(leaf, others, roots, moment, purpose, isRevoked) {
  if (others.length > MAX_CERTIFICATES) throw new Fault("trust.certificate_many", { found: others.length, limit: MAX_CERTIFICATES });
  checkPurpose(leaf, purpose);
  const faults = [];
  const badLinks = [];
  const isRoot = (each) => roots.some((root) => sameBytes(root.der, each.der));
  const stands = (one, other) => one.subject === other.subject && sameKey(one.key, other.key);
  // a certificate with name and key of a root stands for that root, which is used as it was given
  const candidates = [...roots, ...others.filter((each) => !roots.some((root) => stands(root, each)))];
  let links = 0;
  let begun = 1;
  const attempt = (path) => {
    try {
      checkChain(path, moment, isRevoked);
      return true;
    } catch (fault) {
      if (!(fault instanceof Fault)) throw fault;
      faults.push(fault);
      return false;
    }
  };
  const waiting = [[leaf]];
  const issuersOf = new Map();
  if (isRoot(leaf) && attempt([leaf])) return [leaf];
  while (waiting.length) {
    const path = waiting.shift();
    const last = path[path.length - 1];
    if (!issuersOf.has(last)) {
      const found = [];
      for (const issuer of candidates.filter((each) => each.subject === last.issuer)) {
        if (++links > MAX_LINKS) throw new Fault("trust.certificate_many", { found: links, limit: MAX_LINKS });
        const problem = linkProblem(last, issuer);
        if (problem) badLinks.push(problem);
        else found.push(issuer);
      }
      issuersOf.set(last, found);
    }
    for (const issuer of issuersOf.get(last)) {
      if (path.some((each) => stands(each, issuer))) continue;
      if (isRoot(issuer)) {
        if (attempt([...path, issuer])) return [...path, issuer];
      } else if (path.length + 1 < MAX_CHAIN) {
        if (++begun > MAX_PATHS) throw new Fault("trust.certificate_many", { found: begun, limit: MAX_PATHS });
        waiting.push([...path, issuer]);
      }
    }
  }
  throw [...faults, ...badLinks, new Fault("trust.certificate_untrusted", { subject: leaf.subjectText, issuer: leaf.issuerText })][0];
}

const knownLinks = new WeakMap();

/** What is wrong with the signature of an issuer on a certificate, or null; each is checked once, however often a key is used. */
function linkProblem(certificate, issuer) {
  if (!knownLinks.has(certificate)) knownLinks.set(certificate, new Map());
  const known = knownLinks.get(certificate);
  if (!known.has(issuer)) {
    let problem = null;
    try {
      if (certificate.scheme === null) throw unknownAlgorithm(certificate.algorithm);
      verifyWithSubjectKey(issuer.key, certificate.scheme, certificate.signature, certificate.signed);
    } catch (fault) {
      if (!(fault instanceof Fault)) throw fault;
      const wrong = new Fault("trust.certificate_signature", { subject: certificate.subjectText, issuer: certificate.issuerText });
      problem = fault instanceof Unknown ? fault : wrong;
    }
    known.set(issuer, problem);
  }
  return known.get(issuer);
}

function checkChain(path, moment, isRevoked) {
  let below = 0n;
  path.forEach((each, n) => {
    const subject = each.subjectText;
    if (moment < each.notBefore) throw new Fault("trust.certificate_early", { subject, moment, since: each.notBefore });
    if (moment > each.notAfter) throw new Fault("trust.certificate_expired", { subject, moment, until: each.notAfter });
    if (isRevoked(each)) throw new Fault("trust.certificate_revoked", { subject, serial: each.serial.toString(16) });
    if (each.unknownCritical.length) throw new Unknown("trust.certificate_critical", { subject, oid: each.unknownCritical.join(", ") });
    if (n === 0) return;
    // versions 1 and 2 cannot say that they are authorities: the reader who gave one as root did
    const authority = each.isAuthority || (each.version < 3 && n === path.length - 1);
    // keyCertSign is bit 5
    if (!authority || (each.usages !== null && !each.usages.includes(5))) throw new Fault("trust.certificate_no_authority", { subject });
    if (each.pathLength !== null && below > each.pathLength) throw new Fault("trust.certificate_path_length", { subject, limit: each.pathLength });
    if (each.issuer !== each.subject) below += 1n;
  });
}

// ---- RFC 3161

/** A time stamp that was read and is not yet believed: {genTime, earliest, latest, tsa, ...}. Throws Fault, Unknown. */
function parseTimeStamp(bytes, where) {
  let token = readDer(bytes, where, SEQUENCE);
  const outer = new DerFields(token);
  const status = outer.optional(SEQUENCE);
  if (status !== null) {
    const number = new DerFields(status).take(INTEGER).integer();
    if (number !== 0n && number !== 1n) throw new Fault("trust.stamp_status", { where, found: number });
    token = outer.take(SEQUENCE);
    outer.end();
  }
  const need = (condition, value) => {
    if (!condition) throw new Fault("trust.stamp_field", { where, offset: value.offset });
  };
  const wrapper = new DerFields(token);
  const kind = wrapper.take(OID);
  const signedData = wrapper.take(0xa0).only(SEQUENCE);
  wrapper.end();
  need(SIGNED_DATA.includes(kind.oid()), kind);
  const data = new DerFields(signedData);
  const version = data.take(INTEGER);
  need([1n, 3n, 4n, 5n].includes(version.integer()), version);
  const hashes = data.take(SET).children().map(hashOid);
  const encapsulated = new DerFields(data.take(SEQUENCE));
  const contentKind = encapsulated.take(OID);
  const content = encapsulated.take(0xa0).only(OCTET_STRING).content;
  encapsulated.end();
  need(contentKind.oid() === OIDS.tstInfo, contentKind);
  const certificateField = data.optional(0xa0)?.children() ?? [];
  if (certificateField.length > MAX_CERTIFICATES) {
    throw new Fault("trust.certificate_file", { where, found: certificateField.length, limit: MAX_CERTIFICATES });
  }
  const certificates = certificateField.filter((each) => each.tag === SEQUENCE).map(certificateOf);
  data.optional(0xa1);
  const signers = data.take(SET);
  data.end();
  // RFC 3161 section 2.4.2: no other signature than the authority's
  need(signers.children().length === 1, signers);
  const signer = new DerFields(signers.children()[0]);
  const signerVersion = signer.take(INTEGER);
  const identifier = signer.take(SEQUENCE, 0x80);
  need(signerVersion.integer() === (identifier.tag === SEQUENCE ? 1n : 3n), signerVersion);
  const hashField = signer.take(SEQUENCE);
  const attributeField = signer.take(0xa0);
  const schemeField = signer.take(SEQUENCE);
  const signature = signer.take(OCTET_STRING).content;
  signer.optional(0xa1);
  signer.end();
  need(hashes.includes(hashOid(hashField)), hashField);
  const hash = hashName(hashField);

  const attributes = new Map();
  const members = attributeField.children();
  needSorted(attributeField, members);
  for (const each of members) {
    const fields = new DerFields(each);
    const oid = fields.take(OID).oid();
    const values = fields.take(SET).children();
    fields.end();
    need(!attributes.has(oid) && values.length === 1, each);
    attributes.set(oid, values[0]);
  }
  const attribute = (oid, tag) => {
    need(attributes.get(oid)?.tag === tag, attributeField);
    return attributes.get(oid);
  };
  const contentType = attribute(OIDS.contentType, OID);
  need(contentType.oid() === OIDS.tstInfo, contentType);
  const messageDigest = attribute(OIDS.messageDigest, OCTET_STRING).content;
  const stated = [OIDS.signingCertificate, OIDS.signingCertificateV2].filter((oid) => attributes.has(oid));
  need(stated.length > 0, attributeField);
  const certificateIds = stated.map((oid) => certificateId(attribute(oid, SEQUENCE), oid === OIDS.signingCertificateV2));

  let isSigner = (each) => each.subjectKeyId !== null && sameBytes(each.subjectKeyId, identifier.content);
  if (identifier.tag === SEQUENCE) {
    const fields = new DerFields(identifier);
    const [issuer, serial] = [toHex(fields.take(SEQUENCE).encoded), fields.take(INTEGER).integer()];
    fields.end();
    isSigner = (each) => each.issuer === issuer && each.serial === serial;
  }
  const named = certificates.filter(isSigner);
  if (!named.length) throw new Fault("trust.stamp_signer", { where });
  const tsa = named.find((each) => certificateIds.every((fits) => fits(each))) ?? named[0];

  const info = new DerFields(readDer(content, where, SEQUENCE));
  const infoVersion = info.take(INTEGER);
  need(infoVersion.integer() === 1n, infoVersion);
  info.take(OID).oid();
  const imprintFields = new DerFields(info.take(SEQUENCE));
  const imprintHash = hashName(imprintFields.take(SEQUENCE));
  const imprint = imprintFields.take(OCTET_STRING);
  imprintFields.end();
  need(imprint.content.length === digest(imprintHash).length, imprint);
  info.take(INTEGER);
  const { second: genTime, fraction } = info.take(GENERALIZED_TIME).time(true);
  const accuracy = accuracyOf(info.optional(SEQUENCE), need);
  info.optional(BOOLEAN);
  info.optional(INTEGER);
  const tsaName = info.optional(0xa0)?.only() ?? null;
  const extensionField = info.optional(0xa1);
  info.end();
  for (const each of extensionField === null ? [] : extensionField.children()) {
    const extension = parseExtension(each);
    if (extension.critical) throw unknownAlgorithm(extension.oid);
  }
  const tsaText = tsaName !== null && tsaName.tag === 0xa4 ? nameText(tsaName.only(SEQUENCE)) : null;
  const scheme = signatureScheme(schemeField, hash);
  const others = certificates.filter((each) => each !== tsa);

  return {
    ...boundsOf(genTime, fraction, accuracy), genTime, tsa, isToken: status === null,
    /** Imprint, signed attributes, signature, usage of the signer's certificate; not whether it can be trusted. */
    verify(message) {
      if (!sameBytes(digest(imprintHash, message), imprint.content)) throw new Fault("trust.stamp_imprint", { gen_time: genTime });
      if (!sameBytes(digest(hash, content), messageDigest)) throw new Fault("trust.stamp_digest");
      if (!certificateIds.every((fits) => fits(tsa))) throw new Fault("trust.stamp_certificate", { subject: tsa.subjectText });
      const isNamed = tsaName === null || tsa.altNames.some((each) => sameBytes(each, tsaName.encoded)) || tsaText === tsa.subjectText;
      if (!isNamed) throw new Fault("trust.stamp_tsa_name", { subject: tsa.subjectText });
      // RFC 5652 section 5.4: signed under the tag of a SET OF, not under the one that it has in the SignerInfo
      verifyWithSubjectKey(tsa.key, scheme, signature, der(SET, attributeField.content));
      checkPurpose(tsa, "time");
    },
    chain: (roots, isRevoked) => buildChain(tsa, others, roots, genTime, "time", isRevoked),
  };
}

/** The first ESSCertID or ESSCertIDv2 (RFC 5035 section 5) as a test of certificates. */
function certificateId(value, isV2) {
  const fields = new DerFields(new DerFields(new DerFields(value).take(SEQUENCE)).take(SEQUENCE));
  const named = isV2 ? fields.optional(SEQUENCE) : null;
  const hash = !isV2 ? "sha1" : named === null ? "sha256" : hashName(named);
  const stated = fields.take(OCTET_STRING).content;
  const issuerSerial = fields.optional(SEQUENCE);
  fields.end();
  let issuer = null;
  let serial = null;
  if (issuerSerial !== null) {
    const parts = new DerFields(issuerSerial);
    issuer = toHex(parts.take(SEQUENCE).only(0xa4).content);
    serial = parts.take(INTEGER).integer();
    parts.end();
  }
  return (certificate) =>
    (issuer === null || (certificate.issuer === issuer && certificate.serial === serial)) && sameBytes(digest(hash, certificate.der), stated);
}

/** Accuracy in microseconds, or null; what is left out counts as zero (RFC 3161 section 2.4.2). */
function accuracyOf(value, need) {
  if (value === null) return null;
  const fields = new DerFields(value);
  let total = 0;
  for (const [tag, unit, low, high] of [[INTEGER, 1e6, 0n, 3162240000n], [0x80, 1000, 1n, 999n], [0x81, 1, 1n, 999n]]) {
    const part = fields.optional(tag);
    if (part === null) continue;
    const number = part.integer();
    need(number >= low && number <= high, part);
    total += unit * Number(number);
  }
  fields.end();
  return total;
}

/** {earliest, latest}: genTime minus and plus the accuracy, rounded outward to seconds; none stated: the second itself, and one more. */
function boundsOf(genTime, fraction, accuracy) {
  const second = Date.parse(genTime) / 1000;
  if (accuracy === null) return { earliest: genTime, latest: utcText(second + 1) };
  const micros = Number(fraction.slice(0, 6).padEnd(6, "0"));
  const beyond = fraction.length > 6 ? 1 : 0;
  return { earliest: utcText(second + Math.floor((micros - accuracy) / 1e6)), latest: utcText(second + Math.ceil((micros + beyond + accuracy) / 1e6)) };
}

/** UTC text of Unix seconds, years 0001 to 9999. Throws Fault. */
function utcText(seconds) {
  const moment = new Date(seconds * 1000);
  const text = Number.isNaN(moment.getTime()) ? "" : moment.toISOString();
  if (!/^\d{4}-/.test(text) || text < "0001") throw new Fault("trust.der_value", { found: seconds });
  return text.replace(/\.\d+Z$/, "Z");
}
