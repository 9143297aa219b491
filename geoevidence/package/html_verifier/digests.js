"use strict";
// Digests that are fed in pieces: SHA-256, SHA-512, SHA-384, SHA-1 (FIPS 180-4), SM3 (GB/T 32905-2016), and CRC-32.
// The rounds are written out so that no register is moved: SHA-256 in groups of eight, SM3 in groups of four.
// SHA-1 serves only to recognise the certificate that an old time stamp names (RFC 2634 ESSCertID); no signature rests on it.

/** The first `count` primes; FIPS 180-4 takes its constants from their roots. */
function primes(count) {
  const found = [];
  for (let n = 2; found.length < count; n++) if (found.every((prime) => n % prime)) found.push(n);
  return found;
}

/** 64 bits after the point of the k-th root of n. */
function rootBits(n, k) {
  const scaled = BigInt(n) << BigInt(64 * k);
  let low = 0n;
  let high = 1n << 70n;
  while (high - low > 1n) {
    const middle = (low + high) >> 1n;
    if (middle ** BigInt(k) <= scaled) low = middle;
    else high = middle;
  }
  return low & 0xffffffffffffffffn;
}

const high32 = (number) => Number(number >> 32n) | 0;
const low32 = (number) => Number(number & 0xffffffffn) | 0;
const CUBE_ROOTS = primes(80).map((prime) => rootBits(prime, 3));
const SQUARE_ROOTS = primes(16).map((prime) => rootBits(prime, 2));
const K256 = Int32Array.from(CUBE_ROOTS.slice(0, 64), high32);
const K512_HIGH = Int32Array.from(CUBE_ROOTS, high32);
const K512_LOW = Int32Array.from(CUBE_ROOTS, low32);

/** Blocks of a digest: keeps what does not fill a block, pads, writes the length in bits. */
class BlockDigest {
  constructor(state, blockSize, size) {
    this.state = Int32Array.from(state);
    this.block = new Uint8Array(blockSize);
    this.view = new DataView(this.block.buffer);
    this.size = size;
    this.held = 0;
    this.length = 0;
  }

  update(bytes) {
    const data = Array.isArray(bytes) ? Uint8Array.from(bytes) : bytes;
    const blockSize = this.block.length;
    let at = 0;
    this.length += data.length;
    if (this.held) {
      at = Math.min(blockSize - this.held, data.length);
      this.block.set(data.subarray(0, at), this.held);
      this.held += at;
      if (this.held < blockSize) return this;
      this.compress(this.view, 0, blockSize);
      this.held = 0;
    }
    const end = at + Math.floor((data.length - at) / blockSize) * blockSize;
    if (end > at) this.compress(new DataView(data.buffer, data.byteOffset, data.length), at, end);
    this.block.set(data.subarray(end));
    this.held = data.length - end;
    return this;
  }

  digest() {
    const blockSize = this.block.length;
    const bits = BigInt(this.length) * 8n;
    this.block[this.held++] = 0x80;
    // the length has 8 bytes in blocks of 64, 16 in blocks of 128; its upper half is always zero here
    if (this.held > blockSize - blockSize / 8) {
      this.block.fill(0, this.held);
      this.compress(this.view, 0, blockSize);
      this.held = 0;
    }
    this.block.fill(0, this.held);
    this.view.setBigUint64(blockSize - 8, bits);
    this.compress(this.view, 0, blockSize);
    const bytes = new Uint8Array(this.state.length * 4);
    const view = new DataView(bytes.buffer);
    this.state.forEach((word, n) => view.setInt32(4 * n, word));
    return bytes.subarray(0, this.size);
  }
}

const W256 = new Int32Array(64);

class Sha256 extends BlockDigest {
  constructor() {
    super(SQUARE_ROOTS.slice(0, 8).map(high32), 64, 32);
  }

  compress(view, start, end) {
    const w = W256;
    const k = K256;
    const s = this.state;
    let h0 = s[0], h1 = s[1], h2 = s[2], h3 = s[3], h4 = s[4], h5 = s[5], h6 = s[6], h7 = s[7];
    for (let at = start; at < end; at += 64) {
      for (let t = 0; t < 16; t++) w[t] = view.getInt32(at + 4 * t);
      for (let t = 16; t < 64; t++) {
        const x = w[t - 2];
        const y = w[t - 15];
        w[t] =
          (((x >>> 17) | (x << 15)) ^ ((x >>> 19) | (x << 13)) ^ (x >>> 10)) + w[t - 7] +
          (((y >>> 7) | (y << 25)) ^ ((y >>> 18) | (y << 14)) ^ (y >>> 3)) + w[t - 16];
      }
      let a = h0, b = h1, c = h2, d = h3, e = h4, f = h5, g = h6, h = h7;
      for (let t = 0; t < 64; t += 8) {
        h = (h + ((e >>> 6 | e << 26) ^ (e >>> 11 | e << 21) ^ (e >>> 25 | e << 7)) + (g ^ (e & (f ^ g))) + k[t] + w[t]) | 0;
        d = (d + h) | 0;
        h = (h + ((a >>> 2 | a << 30) ^ (a >>> 13 | a << 19) ^ (a >>> 22 | a << 10)) + ((a & b) | (c & (a | b)))) | 0;
        g = (g + ((d >>> 6 | d << 26) ^ (d >>> 11 | d << 21) ^ (d >>> 25 | d << 7)) + (f ^ (d & (e ^ f))) + k[t + 1] + w[t + 1]) | 0;
        c = (c + g) | 0;
        g = (g + ((h >>> 2 | h << 30) ^ (h >>> 13 | h << 19) ^ (h >>> 22 | h << 10)) + ((h & a) | (b & (h | a)))) | 0;
        f = (f + ((c >>> 6 | c << 26) ^ (c >>> 11 | c << 21) ^ (c >>> 25 | c << 7)) + (e ^ (c & (d ^ e))) + k[t + 2] + w[t + 2]) | 0;
        b = (b + f) | 0;
        f = (f + ((g >>> 2 | g << 30) ^ (g >>> 13 | g << 19) ^ (g >>> 22 | g << 10)) + ((g & h) | (a & (g | h)))) | 0;
        e = (e + ((b >>> 6 | b << 26) ^ (b >>> 11 | b << 21) ^ (b >>> 25 | b << 7)) + (d ^ (b & (c ^ d))) + k[t + 3] + w[t + 3]) | 0;
        a = (a + e) | 0;
        e = (e + ((f >>> 2 | f << 30) ^ (f >>> 13 | f << 19) ^ (f >>> 22 | f << 10)) + ((f & g) | (h & (f | g)))) | 0;
        d = (d + ((a >>> 6 | a << 26) ^ (a >>> 11 | a << 21) ^ (a >>> 25 | a << 7)) + (c ^ (a & (b ^ c))) + k[t + 4] + w[t + 4]) | 0;
        h = (h + d) | 0;
        d = (d + ((e >>> 2 | e << 30) ^ (e >>> 13 | e << 19) ^ (e >>> 22 | e << 10)) + ((e & f) | (g & (e | f)))) | 0;
        c = (c + ((h >>> 6 | h << 26) ^ (h >>> 11 | h << 21) ^ (h >>> 25 | h << 7)) + (b ^ (h & (a ^ b))) + k[t + 5] + w[t + 5]) | 0;
        g = (g + c) | 0;
        c = (c + ((d >>> 2 | d << 30) ^ (d >>> 13 | d << 19) ^ (d >>> 22 | d << 10)) + ((d & e) | (f & (d | e)))) | 0;
        b = (b + ((g >>> 6 | g << 26) ^ (g >>> 11 | g << 21) ^ (g >>> 25 | g << 7)) + (a ^ (g & (h ^ a))) + k[t + 6] + w[t + 6]) | 0;
        f = (f + b) | 0;
        b = (b + ((c >>> 2 | c << 30) ^ (c >>> 13 | c << 19) ^ (c >>> 22 | c << 10)) + ((c & d) | (e & (c | d)))) | 0;
        a = (a + ((f >>> 6 | f << 26) ^ (f >>> 11 | f << 21) ^ (f >>> 25 | f << 7)) + (h ^ (f & (g ^ h))) + k[t + 7] + w[t + 7]) | 0;
        e = (e + a) | 0;
        a = (a + ((b >>> 2 | b << 30) ^ (b >>> 13 | b << 19) ^ (b >>> 22 | b << 10)) + ((b & c) | (d & (b | c)))) | 0;
      }
      h0 = (h0 + a) | 0; h1 = (h1 + b) | 0; h2 = (h2 + c) | 0; h3 = (h3 + d) | 0;
      h4 = (h4 + e) | 0; h5 = (h5 + f) | 0; h6 = (h6 + g) | 0; h7 = (h7 + h) | 0;
    }
    s[0] = h0; s[1] = h1; s[2] = h2; s[3] = h3; s[4] = h4; s[5] = h5; s[6] = h6; s[7] = h7;
  }
}

// GB/T 32905-2016 section 4.2, each constant already rotated by its round
const T_SM3 = Int32Array.from({ length: 64 }, (_, j) => {
  const t = j < 16 ? 0x79cc4519 : 0x7a879d8a;
  return (t << (j & 31)) | (j & 31 ? t >>> (32 - (j & 31)) : 0);
});
const W_SM3 = new Int32Array(68);
const SM3_START = [0x7380166f, 0x4914b2b9, 0x172442d7, 0xda8a0600, 0xa96f30bc, 0x163138aa, 0xe38dee4d, 0xb0fb0e4e];

class Sm3 extends BlockDigest {
  constructor() {
    super(SM3_START, 64, 32);
  }

  compress(view, start, end) {
    const w = W_SM3;
    const t = T_SM3;
    const v = this.state;
    let v0 = v[0], v1 = v[1], v2 = v[2], v3 = v[3], v4 = v[4], v5 = v[5], v6 = v[6], v7 = v[7];
    for (let at = start; at < end; at += 64) {
      for (let j = 0; j < 16; j++) w[j] = view.getInt32(at + 4 * j);
      for (let j = 16; j < 68; j++) {
        const x = w[j - 3];
        const y = w[j - 13];
        const p = w[j - 16] ^ w[j - 9] ^ ((x << 15) | (x >>> 17));
        w[j] = p ^ ((p << 15) | (p >>> 17)) ^ ((p << 23) | (p >>> 9)) ^ ((y << 7) | (y >>> 25)) ^ w[j - 6];
      }
      let a = v0, b = v1, c = v2, d = v3, e = v4, f = v5, g = v6, h = v7, r = 0, ss = 0, tt = 0;
      for (let j = 0; j < 16; j += 4) {
        r = a << 12 | a >>> 20; ss = (r + e + t[j]) | 0; ss = ss << 7 | ss >>> 25;
        d = ((a ^ b ^ c) + d + (ss ^ r) + (w[j] ^ w[j + 4])) | 0;
        tt = ((e ^ f ^ g) + h + ss + w[j]) | 0; h = tt ^ (tt << 9 | tt >>> 23) ^ (tt << 17 | tt >>> 15);
        b = b << 9 | b >>> 23; f = f << 19 | f >>> 13;
        r = d << 12 | d >>> 20; ss = (r + h + t[j + 1]) | 0; ss = ss << 7 | ss >>> 25;
        c = ((d ^ a ^ b) + c + (ss ^ r) + (w[j + 1] ^ w[j + 5])) | 0;
        tt = ((h ^ e ^ f) + g + ss + w[j + 1]) | 0; g = tt ^ (tt << 9 | tt >>> 23) ^ (tt << 17 | tt >>> 15);
        a = a << 9 | a >>> 23; e = e << 19 | e >>> 13;
        r = c << 12 | c >>> 20; ss = (r + g + t[j + 2]) | 0; ss = ss << 7 | ss >>> 25;
        b = ((c ^ d ^ a) + b + (ss ^ r) + (w[j + 2] ^ w[j + 6])) | 0;
        tt = ((g ^ h ^ e) + f + ss + w[j + 2]) | 0; f = tt ^ (tt << 9 | tt >>> 23) ^ (tt << 17 | tt >>> 15);
        d = d << 9 | d >>> 23; h = h << 19 | h >>> 13;
        r = b << 12 | b >>> 20; ss = (r + f + t[j + 3]) | 0; ss = ss << 7 | ss >>> 25;
        a = ((b ^ c ^ d) + a + (ss ^ r) + (w[j + 3] ^ w[j + 7])) | 0;
        tt = ((f ^ g ^ h) + e + ss + w[j + 3]) | 0; e = tt ^ (tt << 9 | tt >>> 23) ^ (tt << 17 | tt >>> 15);
        c = c << 9 | c >>> 23; g = g << 19 | g >>> 13;
      }
      for (let j = 16; j < 64; j += 4) {
        r = a << 12 | a >>> 20; ss = (r + e + t[j]) | 0; ss = ss << 7 | ss >>> 25;
        d = (((a & b) | (c & (a | b))) + d + (ss ^ r) + (w[j] ^ w[j + 4])) | 0;
        tt = ((g ^ (e & (f ^ g))) + h + ss + w[j]) | 0; h = tt ^ (tt << 9 | tt >>> 23) ^ (tt << 17 | tt >>> 15);
        b = b << 9 | b >>> 23; f = f << 19 | f >>> 13;
        r = d << 12 | d >>> 20; ss = (r + h + t[j + 1]) | 0; ss = ss << 7 | ss >>> 25;
        c = (((d & a) | (b & (d | a))) + c + (ss ^ r) + (w[j + 1] ^ w[j + 5])) | 0;
        tt = ((f ^ (h & (e ^ f))) + g + ss + w[j + 1]) | 0; g = tt ^ (tt << 9 | tt >>> 23) ^ (tt << 17 | tt >>> 15);
        a = a << 9 | a >>> 23; e = e << 19 | e >>> 13;
        r = c << 12 | c >>> 20; ss = (r + g + t[j + 2]) | 0; ss = ss << 7 | ss >>> 25;
        b = (((c & d) | (a & (c | d))) + b + (ss ^ r) + (w[j + 2] ^ w[j + 6])) | 0;
        tt = ((e ^ (g & (h ^ e))) + f + ss + w[j + 2]) | 0; f = tt ^ (tt << 9 | tt >>> 23) ^ (tt << 17 | tt >>> 15);
        d = d << 9 | d >>> 23; h = h << 19 | h >>> 13;
        r = b << 12 | b >>> 20; ss = (r + f + t[j + 3]) | 0; ss = ss << 7 | ss >>> 25;
        a = (((b & c) | (d & (b | c))) + a + (ss ^ r) + (w[j + 3] ^ w[j + 7])) | 0;
        tt = ((h ^ (f & (g ^ h))) + e + ss + w[j + 3]) | 0; e = tt ^ (tt << 9 | tt >>> 23) ^ (tt << 17 | tt >>> 15);
        c = c << 9 | c >>> 23; g = g << 19 | g >>> 13;
      }
      v0 ^= a; v1 ^= b; v2 ^= c; v3 ^= d; v4 ^= e; v5 ^= f; v6 ^= g; v7 ^= h;
    }
    v[0] = v0; v[1] = v1; v[2] = v2; v[3] = v3; v[4] = v4; v[5] = v5; v[6] = v6; v[7] = v7;
  }
}

const W512_HIGH = new Int32Array(80);
const W512_LOW = new Int32Array(80);

/** SHA-512, and SHA-384 by another start and a shorter end. A word is two halves of 32 bits; `state` holds high, low, high, low ... */
class Sha512 extends BlockDigest {
  constructor(start = SQUARE_ROOTS.slice(0, 8), size = 64) {
    super(start.flatMap((word) => [high32(word), low32(word)]), 128, size);
  }

  compress(view, start, end) {
    const wh = W512_HIGH;
    const wl = W512_LOW;
    const s = this.state;
    for (let at = start; at < end; at += 128) {
      for (let t = 0; t < 16; t++) {
        wh[t] = view.getInt32(at + 8 * t);
        wl[t] = view.getInt32(at + 8 * t + 4);
      }
      for (let t = 16; t < 80; t++) {
        const xh = wh[t - 2], xl = wl[t - 2], yh = wh[t - 15], yl = wl[t - 15];
        // sigma 1: rotations by 19 and 61, shift by 6; sigma 0: rotations by 1 and 8, shift by 7
        const s1h = ((xh >>> 19) | (xl << 13)) ^ ((xl >>> 29) | (xh << 3)) ^ (xh >>> 6);
        const s1l = ((xl >>> 19) | (xh << 13)) ^ ((xh >>> 29) | (xl << 3)) ^ ((xl >>> 6) | (xh << 26));
        const s0h = ((yh >>> 1) | (yl << 31)) ^ ((yh >>> 8) | (yl << 24)) ^ (yh >>> 7);
        const s0l = ((yl >>> 1) | (yh << 31)) ^ ((yl >>> 8) | (yh << 24)) ^ ((yl >>> 7) | (yh << 25));
        const low = (s1l >>> 0) + (wl[t - 7] >>> 0) + (s0l >>> 0) + (wl[t - 16] >>> 0);
        wl[t] = low | 0;
        wh[t] = s1h + wh[t - 7] + s0h + wh[t - 16] + ((low / 4294967296) | 0);
      }
      let ah = s[0], al = s[1], bh = s[2], bl = s[3], ch = s[4], cl = s[5], dh = s[6], dl = s[7];
      let eh = s[8], el = s[9], fh = s[10], fl = s[11], gh = s[12], gl = s[13], hh = s[14], hl = s[15];
      for (let t = 0; t < 80; t++) {
        const s1h = ((eh >>> 14) | (el << 18)) ^ ((eh >>> 18) | (el << 14)) ^ ((el >>> 9) | (eh << 23));
        const s1l = ((el >>> 14) | (eh << 18)) ^ ((el >>> 18) | (eh << 14)) ^ ((eh >>> 9) | (el << 23));
        const low1 = (hl >>> 0) + (s1l >>> 0) + ((gl ^ (el & (fl ^ gl))) >>> 0) + (K512_LOW[t] >>> 0) + (wl[t] >>> 0);
        const t1h = (hh + s1h + (gh ^ (eh & (fh ^ gh))) + K512_HIGH[t] + wh[t] + ((low1 / 4294967296) | 0)) | 0;
        const t1l = low1 | 0;
        const s0h = ((ah >>> 28) | (al << 4)) ^ ((al >>> 2) | (ah << 30)) ^ ((al >>> 7) | (ah << 25));
        const s0l = ((al >>> 28) | (ah << 4)) ^ ((ah >>> 2) | (al << 30)) ^ ((ah >>> 7) | (al << 25));
        const low2 = (s0l >>> 0) + (((al & bl) | (cl & (al | bl))) >>> 0);
        const t2h = (s0h + ((ah & bh) | (ch & (ah | bh))) + ((low2 / 4294967296) | 0)) | 0;
        hh = gh; hl = gl; gh = fh; gl = fl; fh = eh; fl = el;
        const low3 = (dl >>> 0) + (t1l >>> 0);
        eh = (dh + t1h + ((low3 / 4294967296) | 0)) | 0;
        el = low3 | 0;
        dh = ch; dl = cl; ch = bh; cl = bl; bh = ah; bl = al;
        const low4 = (t1l >>> 0) + ((low2 | 0) >>> 0);
        ah = (t1h + t2h + ((low4 / 4294967296) | 0)) | 0;
        al = low4 | 0;
      }
      const words = [ah, al, bh, bl, ch, cl, dh, dl, eh, el, fh, fl, gh, gl, hh, hl];
      for (let n = 0; n < 16; n += 2) {
        const low = (s[n + 1] >>> 0) + (words[n + 1] >>> 0);
        s[n] = s[n] + words[n] + ((low / 4294967296) | 0);
        s[n + 1] = low;
      }
    }
  }
}

class Sha384 extends Sha512 {
  constructor() {
    super(SQUARE_ROOTS.slice(8), 48);
  }
}

const W_SHA1 = new Int32Array(80);

class Sha1 extends BlockDigest {
  constructor() {
    super([0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0], 64, 20);
  }

  compress(view, start, end) {
    const w = W_SHA1;
    for (let at = start; at < end; at += 64) {
      for (let t = 0; t < 80; t++) {
        const x = t < 16 ? 0 : w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16];
        w[t] = t < 16 ? view.getInt32(at + 4 * t) : (x << 1) | (x >>> 31);
      }
      let [a, b, c, d, e] = this.state;
      for (let t = 0; t < 80; t++) {
        const f = t < 20 ? (b & c) | (~b & d) : t < 40 || t >= 60 ? b ^ c ^ d : (b & c) | (b & d) | (c & d);
        const k = t < 20 ? 0x5a827999 : t < 40 ? 0x6ed9eba1 : t < 60 ? 0x8f1bbcdc : 0xca62c1d6;
        const next = (((a << 5) | (a >>> 27)) + f + e + k + w[t]) | 0;
        e = d;
        d = c;
        c = (b << 30) | (b >>> 2);
        b = a;
        a = next;
      }
      [a, b, c, d, e].forEach((word, n) => {
        this.state[n] += word;
      });
    }
  }
}

const DIGESTS = { sha1: Sha1, sha256: Sha256, sha384: Sha384, sha512: Sha512, sm3: Sm3 };

function digest(name, ...parts) {
  const made = new DIGESTS[name]();
  for (const part of parts) made.update(part);
  return made.digest();
}

function sha256(...parts) {
  return digest("sha256", ...parts);
}

const CRC_TABLES = Array.from({ length: 8 }, () => new Int32Array(256));
for (let n = 0; n < 256; n++) {
  let c = n;
  for (let bit = 0; bit < 8; bit++) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1;
  CRC_TABLES[0][n] = c;
}
for (let n = 0; n < 256; n++) {
  for (let k = 1; k < 8; k++) CRC_TABLES[k][n] = (CRC_TABLES[k - 1][n] >>> 8) ^ CRC_TABLES[0][CRC_TABLES[k - 1][n] & 255];
}

/** CRC-32 of ISO 3309, eight bytes at a time (Kounavis, Berry 2005); `before` is the value so far. */
function crc32(data, before = 0) {
  const [t0, t1, t2, t3, t4, t5, t6, t7] = CRC_TABLES;
  let crc = ~before;
  let at = 0;
  for (const end = data.length - 7; at < end; at += 8) {
    const x = crc ^ (data[at] | (data[at + 1] << 8) | (data[at + 2] << 16) | (data[at + 3] << 24));
    crc =
      t7[x & 255] ^ t6[(x >>> 8) & 255] ^ t5[(x >>> 16) & 255] ^ t4[x >>> 24] ^
      t3[data[at + 4]] ^ t2[data[at + 5]] ^ t1[data[at + 6]] ^ t0[data[at + 7]];
  }
  for (; at < data.length; at++) crc = (crc >>> 8) ^ t0[(crc ^ data[at]) & 255];
  return ~crc >>> 0;
}

const CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/** The first 80 bits in Crockford base32, to be read aloud. */
function shortCode(bytes) {
  const number = toNumber(bytes.subarray(0, 10));
  let code = "";
  for (let shift = 75n; shift >= 0n; shift -= 5n) code += CROCKFORD[Number((number >> shift) & 31n)];
  return code.match(/.{4}/g).join("-");
}
