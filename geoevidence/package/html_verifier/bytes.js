"use strict";
// Bytes and texts: hex, base64 in its one spelling, UTF-8, the order of paths. A `Fault` is what a check says
// went wrong: a message id with its values. Nothing here reads a file.

class Fault extends Error {
  constructor(id, values = {}) {
    super(id);
    this.id = id;
    this.values = values;
  }
}

const HEX = Array.from({ length: 256 }, (_, n) => n.toString(16).padStart(2, "0"));
const HEX64 = /^[0-9a-f]{64}$/;

function toHex(bytes) {
  let text = "";
  for (const each of bytes) text += HEX[each];
  return text;
}

function fromHex(text) {
  const bytes = new Uint8Array(text.length / 2);
  for (let n = 0; n < bytes.length; n++) bytes[n] = parseInt(text.substr(2 * n, 2), 16);
  return bytes;
}

function toUtf8(text) {
  return new TextEncoder().encode(text);
}

/** The text of UTF-8 bytes, or null where they are none (WHATWG: no surrogates, no overlong forms). */
function fromUtf8(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}

/** For messages and for names in archives: each byte that is no UTF-8 becomes U+DC80 to U+DCFF, so that names stay distinct. */
function fromUtf8Anyhow(bytes) {
  const whole = fromUtf8(bytes);
  if (whole !== null) return whole;
  let text = "";
  for (let n = 0; n < bytes.length; ) {
    let taken = null;
    let size = 1;
    for (; size <= 4 && n + size <= bytes.length && taken === null; size++) taken = fromUtf8(bytes.subarray(n, n + size));
    if (taken === null) {
      text += String.fromCharCode(0xdc00 + bytes[n]);
      n += 1;
    } else {
      text += taken;
      n += size - 1;
    }
  }
  return text;
}

function concat(...parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function sameBytes(one, other) {
  if (one.length !== other.length) return false;
  for (let n = 0; n < one.length; n++) if (one[n] !== other[n]) return false;
  return true;
}

function startsWith(bytes, head) {
  return bytes.length >= head.length && sameBytes(bytes.subarray(0, head.length), head);
}

const BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const FROM_BASE64 = new Int16Array(128).fill(-1);
for (let n = 0; n < 64; n++) FROM_BASE64[BASE64.charCodeAt(n)] = n;

function toBase64(bytes) {
  const parts = [];
  for (let start = 0; start < bytes.length; start += 3) {
    const left = bytes.length - start;
    const three = (bytes[start] << 16) | ((bytes[start + 1] || 0) << 8) | (bytes[start + 2] || 0);
    parts.push(
      BASE64[three >> 18], BASE64[(three >> 12) & 63], left > 1 ? BASE64[(three >> 6) & 63] : "=", left > 2 ? BASE64[three & 63] : "=",
    );
  }
  return parts.join("");
}

/** Bytes of standard base64 with padding; padding bits must be zero (RFC 4648 sections 3.3, 3.5). Throws Fault. */
function fromBase64(text, where) {
  const fault = () => new Fault("trust.base64", { where });
  if (typeof text !== "string" || text.length % 4) throw fault();
  const pad = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
  const bytes = new Uint8Array((text.length / 4) * 3 - pad);
  const digits = text.length - pad;
  let held = 0;
  let bits = 0;
  let at = 0;
  for (let n = 0; n < digits; n++) {
    const code = text.charCodeAt(n);
    const value = code < 128 ? FROM_BASE64[code] : -1;
    if (value < 0) throw fault();
    held = ((held << 6) | value) & 0xffff;
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes[at++] = (held >> bits) & 255;
    }
  }
  if (held & ((1 << bits) - 1)) throw fault();
  return bytes;
}

/** Big-endian whole number of bytes. */
function toNumber(bytes) {
  return bytes.length ? BigInt("0x" + toHex(bytes)) : 0n;
}

function fromNumber(number, size) {
  return fromHex(number.toString(16).padStart(2 * size, "0"));
}

/** Order of code points, as UTF-8 and UTF-32 have it; JavaScript itself compares UTF-16 units. */
function compareText(one, other) {
  const size = Math.min(one.length, other.length);
  for (let n = 0; n < size; n++) {
    let a = one.charCodeAt(n);
    let b = other.charCodeAt(n);
    if (a === b) continue;
    // units of a pair stand for characters beyond U+FFFF; a lone one stands for itself
    if (a >= 0xd800 && b >= 0xd800) {
      a = one.codePointAt(startOfPair(one, n));
      b = other.codePointAt(startOfPair(other, n));
    }
    return a < b ? -1 : 1;
  }
  return Math.sign(one.length - other.length);
}

function startOfPair(text, n) {
  const unit = text.charCodeAt(n);
  const before = n ? text.charCodeAt(n - 1) : 0;
  return unit >= 0xdc00 && unit <= 0xdfff && before >= 0xd800 && before <= 0xdbff ? n - 1 : n;
}

/** NFC, then the full case folding of Unicode: two paths with one fold would be one file on some computer. */
function fold(path) {
  const text = path.normalize("NFC");
  if (/^[\x00-\x7f]*$/.test(text)) return text.toLowerCase();
  let folded = "";
  for (const character of text) folded += FOLDS.get(character.codePointAt(0)) ?? character;
  return folded;
}

/** Sorts by (folded path, path): the order of files everywhere in a package. */
function sortPaths(paths) {
  const keyed = Array.from(paths, (path) => [fold(path), path]);
  keyed.sort((one, other) => compareText(one[0], other[0]) || compareText(one[1], other[1]));
  return keyed.map((each) => each[1]);
}

function comparePaths(one, other) {
  return compareText(fold(one), fold(other)) || compareText(one, other);
}
