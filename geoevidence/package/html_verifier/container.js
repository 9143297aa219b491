"use strict";
// The files of a package, of a folder as the browser lists it or of a zip, with every irregularity as a defect that names the
// file. Files are read in slices; nothing is extracted. Of a zip each header is made again (PKWARE APPNOTE 6.3.10) and compared.

const SLICE = 4 << 20;
const MAX_DIRECTORY = 1 << 29;

class Container {
  constructor(label) {
    this.label = label;
    this.sizes = new Map();
    this.defects = [];
    this.pathDefects = [];
    this.readable = true;
    this.blobs = new Map();
    this.crcs = new Map();
    this.limits = [];
  }

  defect(subject, id, expected = null, found = null) {
    this.defects.push({ subject, id, expected, found });
  }

  /** Puts the files in package order; finds bad names, and names that are one on some computer. */
  settle(sizes) {
    this.sizes = new Map(sortPaths(sizes.keys()).map((path) => [path, sizes.get(path)]));
    const seen = new Map();
    const folders = new Map();
    const bad = (path, id, found = null) => this.pathDefects.push({ subject: path, id, found });
    for (const path of this.sizes.keys()) {
      const id = pathDefect(path);
      if (id) bad(path, id);
      const folded = fold(path);
      if (seen.has(folded)) bad(path, "trust.path_collides", seen.get(folded));
      seen.set(folded, path);
      for (let cut = folded.lastIndexOf("/"); cut >= 0; cut = folded.lastIndexOf("/", cut - 1)) {
        folders.set(folded.slice(0, cut), path);
        if (cut === 0) break;
      }
    }
    for (const [folded, path] of seen) if (folders.has(folded)) bad(path, "trust.path_collides", folders.get(folded));
  }

  /** Blocks of a file, one after another. Throws Fault where it cannot be read. */
  async *blocks(path) {
    const blob = this.blobs.get(path);
    if (!blob) throw new Fault("trust.unreadable");
    const read = (at) => {
      const slice = readSlice(blob, at, Math.min(at + SLICE, blob.size));
      // where nobody waits for it any more its failure is no news
      slice.catch(() => {});
      return slice;
    };
    let next = blob.size ? read(0) : null;
    for (let at = SLICE; next !== null; at += SLICE) {
      const block = await next;
      // read while the one before is digested
      next = at < blob.size ? read(at) : null;
      yield block;
    }
  }
}

async function readSlice(blob, start, end) {
  let bytes;
  try {
    bytes = new Uint8Array(await blob.slice(start, end).arrayBuffer());
  } catch (error) {
    // NotReadableError, NotFoundError: permissions, a medium that fails, a file that changed while it was read
    throw new Fault("trust.unreadable", { found: String(error && error.message) });
  }
  if (bytes.length !== end - start) throw new Fault("trust.unreadable", { found: `${bytes.length} / ${end - start}` });
  return bytes;
}

/**
 * A folder of files as a browser hands them over: [[path in the folder, File]]. `empty`: names of empty folders, null where
 * the browser does not show them; `failed`: names that could not be listed.
 */
function openFolder(label, files, empty, failed = []) {
  const container = new Container(label);
  const sizes = new Map();
  for (const [path, file] of files) {
    sizes.set(path, file.size);
    container.blobs.set(path, file);
  }
  for (const path of failed) container.defect(path, "trust.unreadable");
  for (const path of empty ?? []) container.defect(path, "trust.empty_folder");
  container.limits.push(empty === null ? "html.limit.folder_chosen" : "html.limit.folder_dropped");
  container.settle(sizes);
  return container;
}

function number(view, at, size) {
  if (size === 2) return view.getUint16(at, true);
  if (size === 4) return view.getUint32(at, true);
  const value = view.getBigUint64(at, true);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new Fault("trust.zip_directory", { found: String(value) });
  return Number(value);
}

/** Little-endian fields [value, size] one after another. */
function littleEndian(...fields) {
  const bytes = new Uint8Array(fields.reduce((sum, [, size]) => sum + size, 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const [value, size] of fields) {
    if (size === 2) view.setUint16(at, value, true);
    else if (size === 4) view.setUint32(at, value, true);
    else view.setBigUint64(at, BigInt(value), true);
    at += size;
  }
  return bytes;
}

const FULL32 = 0xffffffff;
const FULL16 = 0xffff;

/** The header before a file's bytes: stored, 1980-01-01 00:00, UTF-8, ZIP64 only where a number needs it. */
function localHeader({ name, size, crc }) {
  const big = size >= FULL32;
  const extra = big ? littleEndian([1, 2], [16, 2], [size, 8], [size, 8]) : new Uint8Array(0);
  const stated = big ? FULL32 : size;
  const head = littleEndian(
    [0x04034b50, 4], [big ? 45 : 20, 2], [0x0800, 2], [0, 2], [0, 2], [0x21, 2], [crc, 4], [stated, 4], [stated, 4], [name.length, 2], [extra.length, 2],
  );
  return concat(head, name, extra);
}

function centralHeader({ name, size, crc, offset }) {
  const big = size >= FULL32;
  const far = offset >= FULL32;
  const wide = [...(big ? [[size, 8], [size, 8]] : []), ...(far ? [[offset, 8]] : [])];
  const extra = wide.length ? littleEndian([1, 2], [8 * wide.length, 2], ...wide) : new Uint8Array(0);
  const version = wide.length ? 45 : 20;
  const stated = big ? FULL32 : size;
  const head = littleEndian(
    [0x02014b50, 4], [0x0300 | version, 2], [version, 2], [0x0800, 2], [0, 2], [0, 2], [0x21, 2], [crc, 4], [stated, 4], [stated, 4], [name.length, 2],
    [extra.length, 2], [0, 2], [0, 2], [0, 2], [0o644 * 65536, 4], [far ? FULL32 : offset, 4],
  );
  return concat(head, name, extra);
}

function endRecords(count, offset, size) {
  const wide = count >= FULL16 || offset >= FULL32 || size >= FULL32;
  const short = Math.min(count, FULL16);
  const end = littleEndian([0x06054b50, 4], [0, 2], [0, 2], [short, 2], [short, 2], [Math.min(size, FULL32), 4], [Math.min(offset, FULL32), 4], [0, 2]);
  if (!wide) return end;
  const end64 = littleEndian([0x06064b50, 4], [44, 8], [0x0300 | 45, 2], [45, 2], [0, 4], [0, 4], [count, 8], [count, 8], [size, 8], [offset, 8]);
  return concat(end64, littleEndian([0x07064b50, 4], [0, 4], [offset + size, 8], [1, 4]), end);
}

/** The files of a zip archive; an archive whose directory cannot be read is not `readable`. */
async function openZip(file) {
  const container = new Container(file.name);
  try {
    await readDirectory(container, file);
  } catch (fault) {
    if (!(fault instanceof Fault)) throw fault;
    container.readable = false;
    container.defect(container.label, "trust.zip_directory", null, fault.values.found ?? null);
  }
  return container;
}

async function readDirectory(container, file) {
  const total = file.size;
  const damaged = (found) => new Fault("trust.zip_directory", { found });
  if (total < 22) throw damaged("size");
  const end = new DataView((await readSlice(file, total - 22, total)).buffer);
  if (number(end, 0, 4) !== 0x06054b50 || number(end, 20, 2) !== 0) throw damaged("end of central directory");
  let count = number(end, 8, 2);
  let size = number(end, 12, 4);
  let offset = number(end, 16, 4);
  if (count === FULL16 || size === FULL32 || offset === FULL32) {
    const start = total - 22 - 20 - 56;
    if (start < 0) throw damaged("ZIP64");
    const end64 = new DataView((await readSlice(file, start, start + 56)).buffer);
    [count, size, offset] = [32, 40, 48].map((at) => number(end64, at, 8));
  }
  if (offset + size > total || size > MAX_DIRECTORY) throw damaged("central directory");
  const directory = await readSlice(file, offset, offset + size);
  const entries = splitDirectory(directory);
  if (entries.length !== count) throw damaged(`${count} != ${entries.length}`);
  const records = endRecords(count, offset, size);
  const isEnd = offset + size + records.length === total && sameBytes(await readSlice(file, total - records.length, total), records);
  if (!isEnd) container.defect(container.label, "trust.zip_end");
  await placeEntries(container, file, entries, offset);
}

function splitDirectory(directory) {
  const view = new DataView(directory.buffer, directory.byteOffset, directory.length);
  const entries = [];
  for (let at = 0; at < directory.length; ) {
    const damaged = new Fault("trust.zip_directory", { found: `entry ${entries.length + 1}` });
    if (at + 46 > directory.length || number(view, at, 4) !== 0x02014b50) throw damaged;
    const [nameSize, extraSize, commentSize] = [28, 30, 32].map((place) => number(view, at + place, 2));
    const after = at + 46 + nameSize + extraSize + commentSize;
    if (after > directory.length) throw damaged;
    const name = directory.subarray(at + 46, at + 46 + nameSize);
    let size = number(view, at + 24, 4);
    let offset = number(view, at + 42, 4);
    const wide = [];
    // ZIP64 numbers, in the order size, compressed size, offset
    if (extraSize % 8 === 4) for (let n = 4; n < extraSize; n += 8) wide.push(number(view, at + 46 + nameSize + n, 8));
    if (size === FULL32 && wide.length >= 2) [size] = wide.splice(0, 2);
    if (offset === FULL32 && wide.length) [offset] = wide;
    entries.push({ name, text: fromUtf8Anyhow(name), size, offset, crc: number(view, at + 16, 4), raw: directory.subarray(at, after) });
    at = after;
  }
  return entries;
}

async function placeEntries(container, file, entries, directoryOffset) {
  const tops = new Map();
  for (const { text } of entries) tops.set(text.split("/")[0], (tops.get(text.split("/")[0]) ?? 0) + 1);
  const top = [...tops.keys()].sort(compareText).reduce((best, name) => (best === null || tops.get(name) > tops.get(best) ? name : best), null) ?? "";
  const sizes = new Map();
  let running = 0;
  let previous = null;
  for (const entry of entries) {
    const path = entry.text.startsWith(`${top}/`) ? entry.text.slice(top.length + 1) : entry.text;
    if (sizes.has(path)) {
      container.defect(path, "trust.zip_twice");
      continue;
    }
    sizes.set(path, entry.size);
    if (path === entry.text) container.defect(path, "trust.zip_top", top, entry.text);
    if (previous !== null && comparePaths(previous, entry.text) >= 0) container.defect(path, "trust.zip_order");
    previous = entry.text;
    const local = localHeader(entry);
    const start = entry.offset + local.length;
    const isWhole = entry.offset >= running && start + entry.size <= directoryOffset;
    const isHeader =
      fromUtf8(entry.name) !== null && sameBytes(entry.raw, centralHeader(entry)) && entry.offset === running && isWhole &&
      sameBytes(await readSlice(file, entry.offset, start), local);
    if (!isHeader) container.defect(path, "trust.zip_header");
    // ranges that overlap are not read: a small archive must not cost an endless read
    if (!isWhole || fromUtf8(entry.name) === null) continue;
    running = start + entry.size;
    container.blobs.set(path, file.slice(start, running));
    container.crcs.set(path, entry.crc);
  }
  if (running !== directoryOffset) container.defect(container.label, "trust.zip_end");
  container.settle(sizes);
}
