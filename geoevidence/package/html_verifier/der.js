"use strict";
// DER (ITU-T X.690): the one encoding of ASN.1 values, walked whole before anything is believed, and written where a check
// makes bytes again. What stands under context tags is checked when it is taken, as only the structure says what it is.

const BOOLEAN = 0x01, INTEGER = 0x02, BIT_STRING = 0x03, OCTET_STRING = 0x04, NULL = 0x05, OID = 0x06, ENUMERATED = 0x0a;
const UTC_TIME = 0x17, GENERALIZED_TIME = 0x18, SEQUENCE = 0x30, SET = 0x31;
const MAX_DER = 1 << 18;
const MAX_DER_DEPTH = 32;
const TEXT_DECODERS = {
  0x0c: (bytes) => fromUtf8(bytes),
  0x12: ascii, 0x13: ascii, 0x16: ascii, 0x1a: ascii,
  0x14: latin1,
  0x1c: (bytes) => wide(bytes, 4),
  0x1e: (bytes) => wide(bytes, 2),
};

function latin1(bytes) {
  let text = "";
  for (const each of bytes) text += String.fromCharCode(each);
  return text;
}

function ascii(bytes) {
  return bytes.some((each) => each > 127) ? null : latin1(bytes);
}

/** UTF-32 or UTF-16, big-endian, or null. */
function wide(bytes, size) {
  if (bytes.length % size) return null;
  let text = "";
  for (let n = 0; n < bytes.length; n += size) {
    const unit = Number(toNumber(bytes.subarray(n, n + size)));
    if (unit > 0x10ffff) return null;
    text += size === 4 ? String.fromCodePoint(unit) : String.fromCharCode(unit);
  }
  return LONE_SURROGATE.test(text) ? null : text;
}

class DerValue {
  constructor(tag, content, encoded, offset, where) {
    Object.assign(this, { tag, content, encoded, offset, where });
  }

  fault() {
    return new Fault("trust.der_value", { where: this.where, offset: this.offset, tag: `0x${this.tag.toString(16).padStart(2, "0")}` });
  }

  need(condition) {
    if (!condition) throw this.fault();
    return this;
  }

  children() {
    return splitDer(this.content, this.offset + this.encoded.length - this.content.length, this.where);
  }

  /** The one value inside. */
  only(...tags) {
    const fields = new DerFields(this, this.tag);
    const value = fields.take(...tags);
    fields.end();
    return value;
  }

  integer() {
    const [first, second] = this.content;
    this.need(this.content.length && !(this.content.length > 1 && ((first === 0 && second < 128) || (first === 255 && second > 127))));
    const number = toNumber(this.content);
    return first > 127 ? number - (1n << BigInt(8 * this.content.length)) : number;
  }

  boolean() {
    this.need(this.content.length === 1 && (this.content[0] === 0 || this.content[0] === 255));
    return this.content[0] === 255;
  }

  /** Octets of a BIT STRING; unused bits are zero. */
  bits() {
    const unused = this.content.length ? this.content[0] : 8;
    const last = this.content[this.content.length - 1];
    this.need(unused < 8 && !(unused && (this.content.length === 1 || last & ((1 << unused) - 1))));
    return this.content.subarray(1);
  }

  wholeBits() {
    const octets = this.bits();
    this.need(this.content[0] === 0);
    return octets;
  }

  oid() {
    const { content } = this;
    this.need(content.length > 0 && content.length <= 64 && content[content.length - 1] < 128);
    const arcs = [];
    let arc = 0n;
    let started = false;
    for (const octet of content) {
      this.need(started || octet !== 0x80);
      started = octet > 127;
      arc = (arc << 7n) | BigInt(octet & 127);
      if (started) continue;
      arcs.push(arc);
      arc = 0n;
    }
    const top = arcs[0] < 80n ? arcs[0] / 40n : 2n;
    return [top, arcs[0] - 40n * top, ...arcs.slice(1)].join(".");
  }

  text() {
    const decode = TEXT_DECODERS[this.tag];
    const text = decode ? decode(this.content) : null;
    if (text === null) throw this.fault();
    return text;
  }

  /** {second: UTC text, fraction: digits} of a UTCTime or GeneralizedTime in UTC with seconds. */
  time(fractions = false) {
    const found = latin1(this.content.subarray(0, 64));
    const pattern = this.tag === UTC_TIME ? /^(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)()Z$/ : /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\.\d*[1-9])?Z$/;
    const match = this.tag === UTC_TIME || this.tag === GENERALIZED_TIME ? pattern.exec(found) : null;
    this.need(match !== null && this.content.length <= 64 && (fractions || !match[7]));
    const [, years, month, day, hour, minute, second] = match;
    // RFC 5280 section 4.1.2.5.1: 50 to 99 are of the last century
    const year = this.tag === UTC_TIME ? (years >= "50" ? `19${years}` : `20${years}`) : years;
    const text = `${year}-${month}-${day}T${hour}:${minute}:${second}Z`;
    this.need(year !== "0000" && isCalendarTime(text));
    return { second: text, fraction: (match[7] || "").slice(1) };
  }
}

/** True where the calendar has such a time; leap seconds are not written here. */
function isCalendarTime(text) {
  const moment = new Date(text);
  return !Number.isNaN(moment.getTime()) && moment.toISOString() === text.replace("Z", ".000Z");
}

/** The values inside a SEQUENCE (or another tag), taken from first to last. */
class DerFields {
  constructor(parent, tag = SEQUENCE) {
    if (parent.tag !== tag) {
      const [expected, found] = [tag, parent.tag].map((each) => `0x${each.toString(16).padStart(2, "0")}`);
      throw new Fault("trust.der_structure", { where: parent.where, offset: parent.offset, expected, found });
    }
    this.parent = parent;
    this.left = parent.children();
    this.next = 0;
  }

  take(...tags) {
    const value = this.left[this.next];
    if (value === undefined || (tags.length && !tags.includes(value.tag))) throw this.unexpected(tags);
    this.next++;
    return value;
  }

  optional(...tags) {
    const value = this.left[this.next];
    if (value === undefined || !tags.includes(value.tag)) return null;
    this.next++;
    return value;
  }

  rest() {
    const rest = this.left.slice(this.next);
    this.next = this.left.length;
    return rest;
  }

  end() {
    if (this.next < this.left.length) throw this.unexpected([]);
  }

  unexpected(tags) {
    const value = this.left[this.next];
    const show = (tag) => `0x${tag.toString(16).padStart(2, "0")}`;
    const { where, offset, encoded } = this.parent;
    return new Fault("trust.der_structure", {
      where, offset: value ? value.offset : offset + encoded.length, expected: tags.map(show).join(" ") || "-", found: value ? show(value.tag) : "-",
    });
  }
}

function splitDer(bytes, offset, where) {
  const values = [];
  for (let at = 0; at < bytes.length; ) {
    const start = at;
    const fault = () => new Fault("trust.der_length", { where, offset: offset + start });
    const tag = bytes[at];
    let length = bytes[at + 1];
    at += 2;
    if ((tag & 31) === 31 || length === undefined || length === 128) throw fault();
    if (length > 128) {
      const octets = bytes.subarray(at, at + length - 128);
      if (octets.length !== length - 128 || octets.length > 4 || octets[0] === 0) throw fault();
      at += octets.length;
      length = Number(toNumber(octets));
      if (length < 128) throw fault();
    }
    if (at + length > bytes.length) throw fault();
    values.push(new DerValue(tag, bytes.subarray(at, at + length), bytes.subarray(start, at + length), offset + start, where));
    at += length;
  }
  return values;
}

function compareBytes(one, other) {
  const size = Math.min(one.length, other.length);
  for (let n = 0; n < size; n++) if (one[n] !== other[n]) return one[n] - other[n];
  return one.length - other.length;
}

/** X.690 section 11.6: the members of a SET OF are in the order of their encodings. */
function needSorted(value, children) {
  for (let n = 1; n < children.length; n++) {
    if (compareBytes(children[n - 1].encoded, children[n].encoded) > 0) {
      throw new Fault("trust.der_order", { where: value.where, offset: value.offset });
    }
  }
}

/** The one value that the bytes encode, its whole tree checked. Throws Fault. */
function readDer(bytes, where, tag = null) {
  if (bytes.length > MAX_DER) throw new Fault("trust.der_size", { where, found: bytes.length, limit: MAX_DER });
  const found = splitDer(bytes, 0, where);
  if (found.length !== 1) throw new Fault("trust.der_one", { where, found: found.length });
  if (tag !== null && found[0].tag !== tag) {
    throw new Fault("trust.der_structure", { where, offset: 0, expected: `0x${tag.toString(16)}`, found: `0x${found[0].tag.toString(16)}` });
  }
  checkDer(found[0], 1);
  return found[0];
}

function checkDer(value, depth) {
  if (!(value.tag & 0x20)) {
    if (value.tag === BOOLEAN) value.boolean();
    if (value.tag === INTEGER || value.tag === ENUMERATED) value.integer();
    if (value.tag === BIT_STRING) value.bits();
    if (value.tag === OID) value.oid();
    value.need(!(value.tag === NULL && value.content.length) && value.tag !== 0 && value.tag !== 0x10 && value.tag !== 0x11);
    return;
  }
  if (depth >= MAX_DER_DEPTH) throw new Fault("trust.der_depth", { where: value.where, limit: MAX_DER_DEPTH });
  // X.690 section 10.2: strings are never cut into pieces
  value.need(value.tag >= 0x40 || value.tag === SEQUENCE || value.tag === SET);
  const children = value.children();
  if (value.tag === SET) needSorted(value, children);
  for (const child of children) checkDer(child, depth + 1);
}

/** A value of that tag with the parts as its contents. */
function der(tag, ...parts) {
  const content = concat(...parts);
  if (content.length < 128) return concat([tag, content.length], content);
  const octets = [];
  for (let left = content.length; left; left = Math.floor(left / 256)) octets.unshift(left & 255);
  return concat([tag, 128 | octets.length, ...octets], content);
}

function derOid(text) {
  const [first, second, ...others] = text.split(".").map(Number);
  const octets = [40 * first + second, ...others].flatMap((arc) => {
    const parts = [arc & 127];
    for (let left = Math.floor(arc / 128); left; left = Math.floor(left / 128)) parts.unshift((left & 127) | 128);
    return parts;
  });
  return der(OID, octets);
}
