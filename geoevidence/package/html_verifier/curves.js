"use strict";
// Signatures: Ed25519 (RFC 8032), ECDSA on P-256 and P-384 (FIPS 186-5), SM2 (GB/T 32918.2-2016), RSA (RFC 8017).
// Verification alone, in whole numbers of any size: no secret is handled, so time does not matter.

const modulo = (number, modulus) => ((number % modulus) + modulus) % modulus;

function power(base, exponent, modulus) {
  let result = 1n;
  for (let square = base % modulus; exponent; exponent >>= 1n) {
    if (exponent & 1n) result = (result * square) % modulus;
    square = (square * square) % modulus;
  }
  return result;
}

/** By the extended algorithm of Euclid; `number` and `modulus` have no common divisor. */
function inverse(number, modulus) {
  let [r, next] = [modulus, modulo(number, modulus)];
  let [t, nextT] = [0n, 1n];
  while (next) {
    const quotient = r / next;
    [r, next] = [next, r - quotient * next];
    [t, nextT] = [nextT, t - quotient * nextT];
  }
  return modulo(t, modulus);
}

/** Non-adjacent form of width 4, lowest first: odd digits from -7 to 7, few of them. */
function sparseDigits(scalar) {
  const digits = [];
  while (scalar) {
    let digit = 0;
    if (scalar & 1n) {
      digit = Number(scalar & 15n);
      if (digit > 8) digit -= 16;
      scalar -= BigInt(digit);
    }
    digits.push(digit);
    scalar >>= 1n;
  }
  return digits;
}

/** The sum of scalar * point over pairs, with one chain of doublings. */
function combine(group, ...pairs) {
  const rows = pairs.map(([scalar, point]) => {
    const odd = [point];
    const twice = group.double(point);
    while (odd.length < 4) odd.push(group.add(odd[odd.length - 1], twice));
    return { digits: sparseDigits(scalar), odd, negative: odd.map(group.negate) };
  });
  let total = group.neutral;
  for (let n = Math.max(...rows.map((row) => row.digits.length)) - 1; n >= 0; n--) {
    total = group.double(total);
    for (const { digits, odd, negative } of rows) {
      const digit = digits[n] ?? 0;
      if (digit) total = group.add(total, digit > 0 ? odd[digit >> 1] : negative[-digit >> 1]);
    }
  }
  return total;
}

// ---- Ed25519

const P25519 = 2n ** 255n - 19n;
const L25519 = 2n ** 252n + 27742317777372353535851937790883648493n;
const D25519 = modulo(-121665n * inverse(121666n, P25519), P25519);
const ROOT25519 = power(2n, (P25519 - 1n) / 4n, P25519);

/** Points (X, Y, Z, T) with x = X/Z, y = Y/Z, xy = T/Z; the sums are complete (Hisil, Wong, Carter, Dawson 2008, section 3.1). */
const EDWARDS = {
  neutral: [0n, 1n, 1n, 0n],
  negate: ([x, y, z, t]) => [P25519 - x, y, z, P25519 - t],
  add([x1, y1, z1, t1], [x2, y2, z2, t2]) {
    const a = (x1 * x2) % P25519;
    const b = (y1 * y2) % P25519;
    const c = (((t1 * D25519) % P25519) * t2) % P25519;
    const d = (z1 * z2) % P25519;
    const e = (x1 + y1) * (x2 + y2) - a - b;
    const f = d - c;
    const g = d + c;
    const h = a + b;
    return [modulo(e * f, P25519), modulo(g * h, P25519), modulo(f * g, P25519), modulo(e * h, P25519)];
  },
  double([x, y, z]) {
    const a = (x * x) % P25519;
    const b = (y * y) % P25519;
    const c = (2n * z * z) % P25519;
    const e = (x + y) * (x + y) - a - b;
    const g = b - a;
    const f = g - c;
    const h = -a - b;
    return [modulo(e * f, P25519), modulo(g * h, P25519), modulo(f * g, P25519), modulo(e * h, P25519)];
  },
};

/** The point of its one encoding (RFC 8032 section 5.1.3), or null. */
function decodeEdwards(bytes) {
  const number = toNumber(Uint8Array.from(bytes).reverse());
  const sign = number >> 255n;
  const y = number & (2n ** 255n - 1n);
  if (y >= P25519) return null;
  const u = modulo(y * y - 1n, P25519);
  const v = modulo(D25519 * y * y + 1n, P25519);
  // the candidate root of u/v
  const v3 = (((v * v) % P25519) * v) % P25519;
  let x = (u * v3 * power((u * v3 * v3 * v) % P25519, (P25519 - 5n) / 8n, P25519)) % P25519;
  if ((v * x * x) % P25519 !== u) {
    x = (x * ROOT25519) % P25519;
    if ((v * x * x) % P25519 !== u) return null;
  }
  if (x === 0n && sign) return null;
  if ((x & 1n) !== sign) x = P25519 - x;
  return [x, y, 1n, (x * y) % P25519];
}

function hasSmallOrder(point) {
  const [x, y, z] = EDWARDS.double(EDWARDS.double(EDWARDS.double(point)));
  return x === 0n && y === z;
}

const BASE25519 = decodeEdwards(fromHex("5866666666666666666666666666666666666666666666666666666666666666"));

/** RFC 8032 section 5.1.7 without the cofactor; S, A and R canonical, A and R not of small order. Throws Fault. */
function verifyEd25519(key, signature, message) {
  if (key.length !== 32 || signature.length !== 64) {
    throw new Fault("trust.signature_length", { key: key.length, signature: signature.length });
  }
  const s = toNumber(signature.slice(32).reverse());
  if (s >= L25519) throw new Fault("trust.signature_malleable");
  const a = decodeEdwards(key);
  const r = decodeEdwards(signature.subarray(0, 32));
  if (a === null || r === null) throw new Fault("trust.signature_point");
  if (hasSmallOrder(a) || hasSmallOrder(r)) throw new Fault("trust.signature_small_order");
  const k = toNumber(digest("sha512", signature.subarray(0, 32), key, message).reverse()) % L25519;
  const [x, y, z] = combine(EDWARDS, [s, BASE25519], [k, EDWARDS.negate(a)]);
  if ((r[0] * z) % P25519 !== x || (r[1] * z) % P25519 !== y) throw new Fault("trust.signature_wrong");
}

// ---- y^2 = x^3 - 3x + b over a prime field, of prime order n

class Curve {
  constructor(name, size, p, b, n, x, y) {
    Object.assign(this, { name, size, p, b, n, neutral: [0n, 1n, 0n], base: [x, y, 1n] });
    this.add = this.add.bind(this);
    this.negate = ([px, py, pz]) => [px, modulo(-py, p), pz];
    this.double = (point) => this.add(point, point);
  }

  /** Projective sum, complete on curves of odd order: Renes, Costello, Batina 2016, algorithm 4. */
  add([x1, y1, z1], [x2, y2, z2]) {
    const { p, b } = this;
    const xx = (x1 * x2) % p;
    const yy = (y1 * y2) % p;
    const zz = (z1 * z2) % p;
    const xy = (x1 + y1) * (x2 + y2) - xx - yy;
    const yz = (y1 + z1) * (y2 + z2) - yy - zz;
    const xz = (x1 + z1) * (x2 + z2) - xx - zz;
    const u = 3n * (xz - b * zz);
    const w = 3n * (b * xz - 3n * zz - xx);
    const t = 3n * (xx - zz);
    const low = modulo(yy - u, p);
    const high = modulo(yy + u, p);
    const ww = modulo(w, p);
    const mxy = modulo(xy, p);
    const myz = modulo(yz, p);
    return [modulo(high * mxy - myz * ww, p), modulo(high * low + t * ww, p), modulo(low * myz + mxy * t, p)];
  }

  /** An uncompressed point on the curve (SEC 1 section 2.3.3). Throws Fault. */
  point(raw) {
    const x = toNumber(raw.subarray(1, 1 + this.size));
    const y = toNumber(raw.subarray(1 + this.size));
    const fits = raw.length === 1 + 2 * this.size && raw[0] === 4 && x < this.p && y < this.p;
    if (!fits || modulo(y * y - x * x * x + 3n * x - this.b, this.p)) throw new Fault("trust.key_point", { curve: this.name });
    return [x, y, 1n];
  }

  /** x of a point, or null of the point at infinity. */
  affineX([x, , z]) {
    return z ? (x * inverse(z, this.p)) % this.p : null;
  }
}

// SP 800-186 section 3.2.1; GB/T 32918.5-2017
const P256 = new Curve(
  "P-256", 32, 2n ** 256n - 2n ** 224n + 2n ** 192n + 2n ** 96n - 1n,
  0x5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604bn,
  0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n,
  0x6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296n,
  0x4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5n,
);
const P384 = new Curve(
  "P-384", 48, 2n ** 384n - 2n ** 128n - 2n ** 96n + 2n ** 32n - 1n,
  0xb3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aefn,
  0xffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973n,
  0xaa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7n,
  0x3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5fn,
);
const SM2 = new Curve(
  "SM2", 32, 2n ** 256n - 2n ** 224n - 2n ** 96n + 2n ** 64n - 1n,
  0x28e9fa9e9d9f5e344d5a9e4bcf6509a7f39789f515ab8f92ddbcbd414d940e93n,
  0xfffffffeffffffffffffffffffffffff7203df6b21c6052b53bbf40939d54123n,
  0x32c4ae2c1f1981195f9904466a39c9948fe30bbff2660be1715a4589334c74c7n,
  0xbc3736a2f4f6779c59bdcee36b692153d0a9877cc62a474002df32e52139f0a0n,
);

/** r and s of the DER of SEQUENCE {r, s} (RFC 3279 section 2.2.3, GM/T 0009-2012), each from 1 to n - 1. Throws Fault. */
function parsePair(curve, signature) {
  let r;
  let s;
  try {
    const fields = new DerFields(readDer(signature, "signature", SEQUENCE));
    [r, s] = [fields.take(INTEGER).integer(), fields.take(INTEGER).integer()];
    fields.end();
  } catch (fault) {
    throw fault instanceof Fault ? new Fault("trust.signature_encoding") : fault;
  }
  if (r < 1n || s < 1n || r >= curve.n || s >= curve.n) throw new Fault("trust.signature_range");
  return [r, s];
}

/** FIPS 186-5 section 6.4.2. Throws Fault. */
function verifyEcdsa(curve, key, signature, hash) {
  const point = curve.point(key);
  const [r, s] = parsePair(curve, signature);
  const e = toNumber(hash.subarray(0, curve.size));
  const w = inverse(s, curve.n);
  const x = curve.affineX(combine(curve, [(e * w) % curve.n, curve.base], [(r * w) % curve.n, point]));
  if (x === null || x % curve.n !== r) throw new Fault("trust.signature_wrong");
}

const SM2_SIGNER = toUtf8("1234567812345678");

/** GB/T 32918.2-2016 sections 5.5 and 7.1, with SM3. Throws Fault. */
function verifySm2(key, signature, message) {
  const point = SM2.point(key);
  const [r, s] = parsePair(SM2, signature);
  const constants = [SM2.p - 3n, SM2.b, SM2.base[0], SM2.base[1]].map((number) => fromNumber(number, 32));
  const identity = digest("sm3", [0, 8 * SM2_SIGNER.length], SM2_SIGNER, ...constants, key.subarray(1));
  const e = toNumber(digest("sm3", identity, message));
  const t = (r + s) % SM2.n;
  const x = t ? SM2.affineX(combine(SM2, [s, SM2.base], [t, point])) : null;
  if (x === null || (e + x) % SM2.n !== r) throw new Fault("trust.signature_wrong");
}

// ---- RSA

/** Modulus and exponent of the DER of an RSAPublicKey (RFC 8017 appendix A.1.1), 2048 to 8192 bits. Throws Fault. */
function parseRsaKey(raw) {
  const fields = new DerFields(readDer(raw, "RSA", SEQUENCE));
  const [modulus, exponent] = [fields.take(INTEGER).integer(), fields.take(INTEGER).integer()];
  fields.end();
  const bits = modulus > 0n ? modulus.toString(2).length : 0;
  if (bits < 2048 || bits > 8192) throw new Fault("trust.key_rsa_bits", { found: bits, low: 2048, high: 8192 });
  if (!(modulus & 1n) || !(exponent & 1n) || exponent < 3n || exponent >= 1n << 256n) throw new Fault("trust.key_rsa_numbers");
  return { modulus, exponent, bits };
}

/** The encoded message inside a signature (RFC 8017 section 5.2.2). Throws Fault. */
function openRsa({ modulus, exponent, bits }, signature) {
  const size = Math.ceil(bits / 8);
  if (signature.length !== size) throw new Fault("trust.signature_length", { key: size, signature: signature.length });
  const number = toNumber(signature);
  if (number >= modulus) throw new Fault("trust.signature_range");
  return fromNumber(power(number, exponent, modulus), size);
}

const HASH_OIDS = {
  sha1: "1.3.14.3.2.26", sha256: "2.16.840.1.101.3.4.2.1", sha384: "2.16.840.1.101.3.4.2.2", sha512: "2.16.840.1.101.3.4.2.3",
  sm3: "1.2.156.10197.1.401",
};

/** RSASSA-PKCS1-v1_5 (RFC 8017 section 8.2.2): the encoded message is made again and compared, not parsed. Throws Fault. */
function verifyRsaPkcs1(key, signature, message, hash = "sha256") {
  const found = openRsa(parseRsaKey(key), signature);
  const info = der(SEQUENCE, der(SEQUENCE, derOid(HASH_OIDS[hash]), der(NULL)), der(OCTET_STRING, digest(hash, message)));
  const wanted = concat([0, 1], new Uint8Array(found.length - info.length - 3).fill(255), [0], info);
  if (!sameBytes(found, wanted)) throw new Fault("trust.signature_wrong");
}

/** RSASSA-PSS (RFC 8017 section 9.1.2) with MGF1 of the same hash and a salt as long as the hash, unless said. Throws Fault. */
function verifyRsaPss(key, signature, message, hash = "sha256", saltSize = null) {
  const numbers = parseRsaKey(key);
  const opened = openRsa(numbers, signature);
  const wrong = () => new Fault("trust.signature_wrong");
  const size = Math.ceil((numbers.bits - 1) / 8);
  const encoded = opened.subarray(opened.length - size);
  if (opened.length > size && opened[0]) throw wrong();
  const hashed = digest(hash, message);
  const zeros = size - hashed.length - (saltSize ?? hashed.length) - 2;
  if (zeros < 0 || encoded[size - 1] !== 0xbc) throw wrong();
  const unused = 8 * size - (numbers.bits - 1);
  if (encoded[0] >> (8 - unused)) throw wrong();
  const masked = encoded.subarray(0, size - hashed.length - 1);
  const mark = encoded.subarray(masked.length, size - 1);
  const block = new Uint8Array(masked.length);
  for (let n = 0, counter = 0; n < block.length; counter++) {
    for (const each of digest(hash, mark, [counter >>> 24, counter >>> 16, counter >>> 8, counter].map((part) => part & 255))) {
      if (n < block.length) block[n] = masked[n++] ^ each;
    }
  }
  block[0] &= 255 >> unused;
  if (block.subarray(0, zeros).some((each) => each) || block[zeros] !== 1) throw wrong();
  if (!sameBytes(digest(hash, new Uint8Array(8), hashed, block.subarray(zeros + 1)), mark)) throw wrong();
}

// ---- keys: the algorithm belongs to the key, never to the message

const KEY_ALGORITHMS = {
  ed25519: {
    check(raw) {
      if (raw.length !== 32) throw new Fault("trust.key_length", { algorithm: "ed25519", found: raw.length });
    },
    verify: verifyEd25519,
  },
  "ecdsa-p256-sha256": { check: (raw) => P256.point(raw), verify: (key, sig, text) => verifyEcdsa(P256, key, sig, sha256(text)) },
  "ecdsa-p384-sha384": { check: (raw) => P384.point(raw), verify: (key, sig, text) => verifyEcdsa(P384, key, sig, digest("sha384", text)) },
  "sm2-sm3": { check: (raw) => SM2.point(raw), verify: verifySm2 },
  "rsa-pkcs1-sha256": { check: parseRsaKey, verify: (key, sig, text) => verifyRsaPkcs1(key, sig, text) },
  "rsa-pss-sha256": { check: parseRsaKey, verify: (key, sig, text) => verifyRsaPss(key, sig, text) },
};

/** {algorithm, raw, id, chain, name} of a public key. Throws Fault. */
function makeKey(algorithm, raw) {
  if (!Object.hasOwn(KEY_ALGORITHMS, algorithm)) throw new Fault("trust.key_algorithm", { found: String(algorithm).slice(0, 40) });
  KEY_ALGORITHMS[algorithm].check(raw);
  const id = toHex(sha256(toUtf8(algorithm), [0], raw));
  return { algorithm, raw, id, chain: id.slice(0, 8), name: `geoevidence-${id.slice(0, 8)}` };
}

function verifySignature(key, signature, message) {
  KEY_ALGORITHMS[key.algorithm].verify(key.raw, signature, message);
}
