"use strict";
// JSON read strictly (RFC 8259, I-JSON RFC 7493 without floats) and written as RFC 8785 bytes. `JSON.parse` takes repeated
// names, rounds integers and lets lone surrogates in, so that two readers could see two documents. Objects have no prototype.

const MAX_DEPTH = 64;
/** Most commas and opening brackets of a document of 64 MB: in memory an empty list takes many times its three bytes. */
const MAX_VALUES = 4_000_000;
const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
const PLAIN_TEXT = /[^"\\\u0000-\u001f]*/y;
const ESCAPES = { '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };
// with the flag u a pair is one character, so what is left of this category stands alone
const LONE_SURROGATE = /\p{Cs}/u;

class JsonReader {
  constructor(text, where, allowsFloats) {
    this.allowsFloats = allowsFloats;
    this.text = text;
    this.where = where;
    this.at = 0;
  }

  fault(reason) {
    return new Fault("trust.json_syntax", { where: this.where, offset: this.at, reason });
  }

  space() {
    while (" \t\n\r".includes(this.text[this.at] ?? "x")) this.at++;
  }

  document() {
    this.space();
    const value = this.value(0);
    this.space();
    if (this.at < this.text.length) throw this.fault("end");
    return value;
  }

  value(depth) {
    const { text, where } = this;
    const first = text[this.at];
    if (first === "{" || first === "[") {
      if (depth >= MAX_DEPTH) throw new Fault("trust.json_depth", { where, limit: MAX_DEPTH });
      this.at++;
      return first === "{" ? this.object(depth + 1) : this.array(depth + 1);
    }
    if (first === '"') return this.string();
    for (const [word, value] of [["true", true], ["false", false], ["null", null]]) {
      if (text.startsWith(word, this.at)) {
        this.at += word.length;
        return value;
      }
    }
    for (const word of ["NaN", "Infinity", "-Infinity"]) {
      if (text.startsWith(word, this.at)) throw new Fault("trust.json_constant", { where, found: word });
    }
    return this.number();
  }

  number() {
    NUMBER.lastIndex = this.at;
    const match = NUMBER.exec(this.text);
    if (match === null) throw this.fault("value");
    const found = match[0].length > 40 ? `${match[0].slice(0, 37)}...` : match[0];
    if ((match[1] !== undefined || match[2] !== undefined) && this.allowsFloats && Number.isFinite(Number(match[0]))) {
      this.at += match[0].length;
      return Number(match[0]);
    }
    if (match[1] !== undefined || match[2] !== undefined) throw new Fault("trust.json_float", { where: this.where, found });
    const number = Number(match[0]);
    if (!Number.isSafeInteger(number)) throw new Fault("trust.json_integer", { where: this.where, found });
    this.at += match[0].length;
    return number === 0 ? 0 : number;
  }

  string() {
    const { text } = this;
    let whole = "";
    this.at++;
    for (;;) {
      PLAIN_TEXT.lastIndex = this.at;
      const run = PLAIN_TEXT.exec(text)[0];
      whole += run;
      this.at += run.length;
      const next = text[this.at];
      if (next === '"') break;
      if (next !== "\\") throw this.fault("string");
      const mark = text[this.at + 1];
      if (mark === "u") {
        const digits = text.slice(this.at + 2, this.at + 6);
        if (!/^[0-9a-fA-F]{4}$/.test(digits)) throw this.fault("\\u");
        whole += String.fromCharCode(parseInt(digits, 16));
        this.at += 6;
      } else {
        if (mark === undefined || !Object.hasOwn(ESCAPES, mark)) throw this.fault("\\");
        whole += ESCAPES[mark];
        this.at += 2;
      }
    }
    this.at++;
    if (LONE_SURROGATE.test(whole)) throw new Fault("trust.json_surrogate", { where: this.where });
    return whole;
  }

  array(depth) {
    const members = [];
    this.space();
    if (this.text[this.at] === "]") {
      this.at++;
      return members;
    }
    for (;;) {
      this.space();
      members.push(this.value(depth));
      this.space();
      const next = this.text[this.at];
      if (next !== "," && next !== "]") throw this.fault(", ]");
      this.at++;
      if (next === "]") return members;
    }
  }

  object(depth) {
    const members = Object.create(null);
    this.space();
    if (this.text[this.at] === "}") {
      this.at++;
      return members;
    }
    for (;;) {
      this.space();
      if (this.text[this.at] !== '"') throw this.fault('"');
      const name = this.string();
      if (name in members) throw new Fault("trust.json_duplicate", { where: this.where, name: name.slice(0, 40) });
      this.space();
      if (this.text[this.at] !== ":") throw this.fault(":");
      this.at++;
      this.space();
      members[name] = this.value(depth);
      this.space();
      const next = this.text[this.at];
      if (next !== "," && next !== "}") throw this.fault(", }");
      this.at++;
      if (next === "}") return members;
    }
  }
}

function parseJson(bytes, where, allowsFloats = false) {
  const most = Math.max(MAX_VALUES, Math.floor(bytes.length / 16));
  if (bytes.length > most) {
    let found = 0;
    // commas, opening brackets and braces
    for (const byte of bytes) if (byte === 0x2c || byte === 0x5b || byte === 0x7b) found++;
    if (found > most) throw new Fault("trust.json_values", { where, limit: most });
  }
  if (startsWith(bytes, [0xef, 0xbb, 0xbf])) throw new Fault("trust.json_bom", { where });
  const text = fromUtf8(bytes);
  if (text === null) throw new Fault("trust.json_utf8", { where, offset: firstBadByte(bytes) });
  return new JsonReader(text, where, allowsFloats).document();
}

/** Where UTF-8 stops being valid: the longest beginning that decodes, found by halving. */
function firstBadByte(bytes) {
  let good = 0;
  let bad = bytes.length;
  const decodes = (size) => {
    try {
      new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(0, size), { stream: true });
      return true;
    } catch {
      return false;
    }
  };
  while (bad - good > 1) {
    const middle = (good + bad) >> 1;
    if (decodes(middle)) good = middle;
    else bad = middle;
  }
  return good;
}

/** RFC 8785: names in the order of UTF-16 units, which is how JavaScript compares; texts escaped as ECMAScript does. */
function writeJson(value) {
  if (Array.isArray(value)) return `[${value.map(writeJson).join(",")}]`;
  if (value !== null && typeof value === "object") {
    const names = Object.keys(value).sort();
    return `{${names.map((name) => `${JSON.stringify(name)}:${writeJson(value[name])}`).join(",")}}`;
  }
  return JSON.stringify(value);
}

function canonicalBytes(value) {
  return toUtf8(writeJson(value));
}

/** One value, one encoding: the bytes must be the RFC 8785 bytes of what they say. Throws Fault. */
function parseCanonical(bytes, where) {
  const value = parseJson(bytes, where);
  if (!sameBytes(canonicalBytes(value), bytes)) throw new Fault("trust.json_not_canonical", { where });
  return value;
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const isText = (value) => typeof value === "string";
const isHex64 = (value) => isText(value) && HEX64.test(value);
const isCount = (value) => Number.isSafeInteger(value) && value >= 0;

function hasFields(value, ...names) {
  return isObject(value) && Object.keys(value).length === names.length && names.every((name) => name in value);
}
