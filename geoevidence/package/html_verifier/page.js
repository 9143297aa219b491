"use strict";
// What is seen: choosing, progress, the report in Chinese and English. Everything that comes from a package is shown as text, never
// as markup, with control and direction characters written out.

const TEXTS = __TEXTS__;
const LANGUAGES = { zh: "中文", en: "English" };
const SHOWN = 200;
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
const state = { lang: "zh", main: null, supplements: [], spoken: null, trust: null, checkpoints: [], raw: null, fault: null, share: null };

const plain = (text) => String(text).replace(HIDDEN, (one) => `\\u{${one.codePointAt(0).toString(16)}}`);

function say(id, values = {}, lang = state.lang) {
  const text = TEXTS[lang][id];
  if (text === undefined) return id;
  return text.replace(/\{([a-z0-9_]+)\}/g, (place, name) => (name in values && values[name] !== null ? plain(values[name]) : place));
}

/** An element: name with classes ("p.note"), attributes, children (elements or texts). */
function make(kind, attributes = {}, ...children) {
  const [name, ...classes] = kind.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** This machine's time, UTC text. */
const clock = () => new Date().toISOString().replace(/\.\d+Z$/, "Z");

const at = (id) => document.getElementById(id);

// ---- choosing

/** A folder of an <input webkitdirectory>: the first part of each path is the folder itself. */
function folderOfInput(files) {
  const list = [...files].map((file) => [file.webkitRelativePath, file]);
  const label = list[0][0].split("/")[0];
  return { kind: "folder", label, files: list.map(([path, file]) => [path.slice(label.length + 1), file]), empty: null, failed: [] };
}

/**
 * What was dropped, as {isFolder, name, file(), list()}. Chromium refuses to list a dropped folder by its old interface (entries) on
 * a page of file://, and has another one (handles); Firefox and Safari have the old one alone.
 */
function droppedItem(item) {
  const file = item.getAsFile();
  const handle = item.getAsFileSystemHandle?.();
  const entry = item.webkitGetAsEntry?.();
  if (handle) return handle.then(ofHandle);
  return Promise.resolve(entry ? ofEntry(entry) : { isFolder: false, name: file.name, file: () => file });
}

function ofHandle(handle) {
  const list = async () => {
    const inside = [];
    for await (const each of handle.values()) inside.push(ofHandle(each));
    return inside;
  };
  return { isFolder: handle.kind === "directory", name: handle.name, file: () => handle.getFile(), list };
}

function ofEntry(entry) {
  const list = async () => {
    const reader = entry.createReader();
    const inside = [];
    for (;;) {
      // a reader gives its entries in portions, an empty one at the end
      const portion = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!portion.length) return inside.map(ofEntry);
      inside.push(...portion);
    }
  };
  return { isFolder: entry.isDirectory, name: entry.name, file: () => new Promise((resolve, reject) => entry.file(resolve, reject)), list };
}

/** Of a folder every file, and the names of empty folders. Throws where the browser does not list the folder itself. */
async function sourceOfDropped(dropped) {
  if (!dropped.isFolder) return { kind: "zip", file: await dropped.file() };
  const source = { kind: "folder", label: dropped.name, files: [], empty: [], failed: [] };
  const walk = async (inside, path) => {
    if (!inside.length) source.empty.push(path || dropped.name);
    for (const each of inside) {
      const below = path ? `${path}/${each.name}` : each.name;
      try {
        if (each.isFolder) await walk(await each.list(), below);
        else source.files.push([below, await each.file()]);
      } catch {
        source.failed.push(below);
      }
    }
  };
  await walk(await dropped.list(), "");
  return source;
}

const nameOf = (source) => (source.kind === "zip" ? source.file.name : source.label);

function chosen(source) {
  const count = source.kind === "zip" ? `${source.file.size.toLocaleString("en")} B` : say("html.files", { count: source.files.length });
  return `${plain(nameOf(source))} (${count})`;
}

/** Buttons for a folder and an archive, and a place to drop them; `take` is given sources. */
function chooser(id, label, take) {
  const folder = make("input", { type: "file", id: `${id}-folder`, webkitdirectory: true, hidden: true, tabindex: "-1" });
  const zip = make("input", { type: "file", id: `${id}-zip`, accept: ".zip", hidden: true, tabindex: "-1" });
  folder.addEventListener("change", () => {
    if (folder.files.length) take(folderOfInput(folder.files));
    else tell("html.folder_empty");
    folder.value = "";
  });
  zip.addEventListener("change", () => {
    for (const file of zip.files) take({ kind: "zip", file });
    zip.value = "";
  });
  const zone = make(
    "div.zone", { role: "group", "aria-label": label },
    make("p", {}, label),
    make("p", {},
      make("button", { type: "button", onclick: () => folder.click() }, say("html.choose_folder")), " ",
      make("button", { type: "button", onclick: () => zip.click() }, say("html.choose_zip"))),
    folder, zip,
  );
  const over = (isOver) => (event) => {
    event.preventDefault();
    zone.classList.toggle("over", isOver);
  };
  zone.addEventListener("dragover", over(true));
  zone.addEventListener("dragleave", over(false));
  zone.addEventListener("drop", async (event) => {
    over(false)(event);
    // what was dropped is gone after the first wait: all of it is asked for at once
    const dropped = [...event.dataTransfer.items].filter((item) => item.kind === "file").map(droppedItem);
    try {
      for (const each of dropped) take(await sourceOfDropped(await each));
    } catch (error) {
      tell("html.drop_failed", { reason: String(error?.message ?? error) });
    }
  });
  return zone;
}

function fileField(id, label, isMany, take) {
  const input = make("input", { type: "file", id, multiple: isMany });
  input.addEventListener("change", () => take([...input.files]));
  const clear = () => {
    at(id).value = "";
    take([]);
  };
  return make("p.field", {}, make("label", { for: id }, label), input, make("button.small", { type: "button", onclick: clear }, say("html.remove")));
}

function listOf(sources, drop) {
  return make("ul", {}, ...sources.map((source, n) =>
    make("li", {}, chosen(source), " ", make("button.small", { type: "button", onclick: () => drop(n) }, say("html.remove")))));
}

// ---- the worker

let port = null;
let asked = 0;

/** A worker made of the core's own text; where the browser allows none, the core in this page. */
function connect() {
  return new Promise((resolve) => {
    const here = () => {
      const channel = { postMessage: (message) => setTimeout(hear, 0, { data: message }) };
      serve(channel);
      resolve({ postMessage: (message) => channel.onmessage({ data: message }), terminate: () => {} });
    };
    try {
      const address = URL.createObjectURL(new Blob([at("core").textContent, "\nserve(self);\n"], { type: "text/javascript" }));
      const worker = new Worker(address);
      worker.onerror = here;
      worker.onmessage = ({ data }) => {
        if (!data.ready) return;
        worker.onmessage = hear;
        worker.onerror = (event) => hear({ data: { id: asked, fault: { id: "html.program_fault", values: { reason: event.message } } } });
        resolve(worker);
      };
    } catch {
      here();
    }
  });
}

function hear({ data }) {
  if (data.ready || data.id !== asked) return;
  if (data.progress !== undefined) {
    state.share = data.progress;
    showProgress();
    return;
  }
  Object.assign(state, { raw: data.report ?? null, fault: data.fault ?? null, share: null, checked: clock() });
  window.geoevidenceReport = state.raw ? jsonOf(state.raw) : null;
  draw();
  at("result").focus();
}

async function start() {
  if (!state.main) {
    tell("html.nothing_chosen");
    return;
  }
  const code = at("code").value.trim();
  Object.assign(state, { raw: null, fault: null, share: 0, code });
  window.geoevidenceReport = undefined;
  draw();
  const { main, supplements, spoken, trust, checkpoints } = state;
  const now = clock();
  const id = ++asked;
  port = port ?? (await connect());
  port.postMessage({ id, request: { main, supplements, spoken, trust, checkpoints, code: code || null, now } });
}

function cancel() {
  asked++;
  port?.terminate();
  port = null;
  state.share = null;
  draw();
}

// ---- the report as a document for machines

function jsonOf(raw, lang = state.lang, isMain = true) {
  const { checks, limits, supplements, ...rest } = raw;
  return {
    ...rest,
    package: plain(rest.package),
    checks: checks.map(({ values, ...check }) => ({ ...check, subject: plain(check.subject), text: check.detail ? say(check.detail, values, lang) : "" })),
    limits: limits.map((id) => ({ id, text: say(id, {}, lang) })),
    supplements: supplements.map((each) => jsonOf(each, lang, false)),
    ...(isMain ? { verifier: { name: "verify.html", program: `sha256:${programDigest}`, inside: null, browser: navigator.userAgent } } : {}),
  };
}

/** Of the program as it stands in this page: tells versions apart; a page cannot vouch for itself. */
const programDigest = toHex(sha256(...[...document.scripts].map((script) => toUtf8(script.textContent))));

// ---- showing

function tell(id, values) {
  at("message").textContent = say(id, values);
}

function showProgress() {
  const bar = at("bar");
  if (!bar) return;
  const percent = Math.floor(state.share * 100);
  bar.value = percent;
  at("percent").textContent = `${percent} %`;
}

function draw() {
  document.documentElement.lang = state.lang === "zh" ? "zh-CN" : "en";
  document.title = say("html.title");
  const code = at("code")?.value ?? state.code ?? "";
  const isOpen = at("outside")?.open ?? false;
  at("app").replaceChildren(heading(), form(isOpen), result());
  at("code").value = code;
  showProgress();
}

function heading() {
  const switches = Object.entries(LANGUAGES).map(([lang, name]) =>
    make("button", {
      type: "button", lang, "aria-pressed": String(state.lang === lang), onclick: () => {
        state.lang = lang;
        if (state.raw) window.geoevidenceReport = jsonOf(state.raw);
        draw();
      },
    }, name));
  return make("header", {},
    make("nav", { "aria-label": say("html.language") }, ...switches),
    make("h1", {}, say("html.title")),
    make("p", {}, say("html.intro")),
    make("p.note", {}, say("html.inside")));
}

function form(isOpen) {
  const set = (change) => {
    Object.assign(state, change);
    draw();
  };
  const outside = make("details.outside", { id: "outside", open: isOpen },
    make("summary", {}, say("html.outside")),
    make("p.note", {}, say("html.outside_note")),
    fileField("trust", say("html.trust"), false, ([file]) => { state.trust = file ?? null; }),
    fileField("checkpoints", say("html.checkpoints"), true, (files) => { state.checkpoints = files; }),
    make("p.field", {}, make("label", { for: "code" }, say("html.code")),
      make("input", { id: "code", type: "text", autocomplete: "off", spellcheck: "false", size: "24", placeholder: "7K2M-9QXA-04ZT-PRW8" })),
    make("h3", {}, say("html.supplements")), chooser("supplement", say("html.supplements_note"), (source) => set({ supplements: [...state.supplements, source] })),
    listOf(state.supplements, (gone) => set({ supplements: state.supplements.filter((_, n) => n !== gone) })),
    make("h3", {}, say("html.spoken")), chooser("of", say("html.spoken_note"), (source) => set({ spoken: source })),
    listOf(state.spoken ? [state.spoken] : [], () => set({ spoken: null })));
  const busy = state.share !== null;
  return make("section.form", { "aria-label": say("html.choose") },
    make("h2", {}, say("html.choose")),
    chooser("package", say("html.choose_note"), (source) => set({ main: source, raw: null, fault: null })),
    make("p.chosen", { id: "chosen" }, state.main ? say("html.chosen", { name: chosen(state.main) }) : say("html.none_chosen")),
    keepFiles(outside),
    make("p", {}, make("button.start", { id: "start", type: "button", disabled: busy, onclick: start }, say("html.start"))),
    make("p.message", { id: "message", role: "alert" }));
}

/** A file field that is drawn again would lose its files: the old ones are put back, with the words of this language. */
function keepFiles(outside) {
  for (const name of ["trust", "checkpoints"]) {
    const old = at(name);
    if (old) outside.querySelector(`#${name}`).replaceWith(old);
  }
  return outside;
}

function result() {
  const section = make("section.result", { id: "result", tabindex: "-1", "aria-live": "polite", "aria-label": say("html.result") });
  if (state.share !== null) {
    section.append(make("p", {}, say("trust.progress.files")),
      make("p", {}, make("progress", { id: "bar", max: "100", value: "0", "aria-label": say("trust.progress.files") }), " ", make("span", { id: "percent" }, "0 %"), " ",
        make("button.small", { type: "button", onclick: cancel }, say("html.cancel"))));
  }
  if (state.fault) section.append(make("h2", {}, say("html.usage")), make("p.failed", { id: "fault" }, say(state.fault.id, state.fault.values)));
  if (state.raw) section.append(...reportOf(state.raw), ...ending());
  return section;
}

/** The whole of one report: sentence, verdicts, failures, what was not checked, signers, events, limits. */
function reportOf(raw) {
  const { facts } = raw;
  const failed = raw.checks.filter((check) => check.status === FAILED);
  const open = raw.checks.filter((check) => check.status === NOT_CHECKED);
  const overall = { 0: "passed", 1: "failed", 2: "not_checked", 3: "not_checked", 4: "failed" }[raw.exit_code];
  return [
    make("h2", {}, say(`html.report.${raw.kind}`, { package: raw.package })),
    make("p", {}, say("html.checked_at", { time: state.checked })),
    make(`p.overall.${overall}`, { id: "overall" }, say(`html.exit.${raw.exit_code}`)),
    factsOf(raw),
    make("h3", {}, say("trust.report.verdicts")),
    verdictTable(raw),
    ...(facts.short_code
      ? [make("p.code", {}, say("html.short_code", { size: facts.tree_size }), " ", make("strong", {}, facts.short_code))] : []),
    ...(raw.fork_proof ? [make("h3", {}, say("html.fork_proof")), make("pre", {}, raw.fork_proof.known), make("pre", {}, raw.fork_proof.here)] : []),
    ...checkList("html.failed", failed, "failed"),
    ...checkList("html.not_checked", open, "not_checked"),
    ...signerTable(raw.signers),
    ...claimTable(raw.claims),
    make("h3", {}, say("html.limits")),
    make("ul.limits", {}, ...raw.limits.map((id) => make("li", {}, say(id)))),
    ...raw.supplements.flatMap((each) => [make("hr"), ...reportOf(each)]),
  ];
}

function factsOf({ facts, kind }) {
  const rows = [];
  const row = (id, value) => value !== undefined && value !== null && value !== "" && rows.push(make("dt", {}, say(id)), make("dd", {}, plain(value)));
  row("html.fact.case", facts.case);
  row("html.fact.workspace", facts.workspace);
  row("html.fact.software", facts.software);
  row(kind === "supplement" ? "html.fact.written" : "html.fact.sealed", facts.time_claimed && `${facts.time_claimed} ${say("html.claimed")}`);
  row("html.fact.attested", facts.attested_before && `${facts.attested_after ?? "\u2026"} \u2013 ${facts.attested_before}`);
  if (facts.files !== undefined) row("html.fact.size", say("html.size", { files: facts.files.toLocaleString("en"), bytes: facts.bytes.toLocaleString("en") }));
  row("html.fact.leaves", facts.leaves);
  if (facts.withheld || facts.files_withheld) row("html.fact.withheld", say("html.withheld_short", { files: facts.files_withheld ?? 0, leaves: facts.withheld ?? 0 }));
  row("html.fact.reason", facts.reason);
  row("html.fact.author", facts.author);
  row("html.fact.text", facts.text);
  return make("div", {}, ...(facts.demonstration ? [make("p.demonstration", {}, say("trust.report.demonstration"))] : []), make("dl.facts", {}, ...rows));
}

function badge(status) {
  return make(`span.badge.${status}`, {}, say(`trust.status.${status}`));
}

function verdictTable(raw) {
  const rows = Object.entries(raw.verdicts).map(([name, status]) => {
    // a supplement has no history of its own
    const kind = raw.kind === "supplement" && name === "continuous" ? "supplement." : "";
    const required = raw.required.includes(name) ? make("span.required", {}, say("html.required")) : null;
    return make(`tr.${status}`, { "data-verdict": name, "data-status": status },
      make("th", { scope: "row" }, say(`trust.verdict.${name}`), " ", required),
      make("td", {}, badge(status)),
      make("td", {}, make("span.question", {}, say(`html.question.${kind}${name}`)), make("br"), say(`html.verdict.${kind}${name}.${status}`)));
  });
  return make("table.verdicts", {},
    make("thead", {}, make("tr", {}, ...["html.verdict", "html.status", "html.meaning"].map((id) => make("th", { scope: "col" }, say(id))))),
    make("tbody", {}, ...rows));
}

function checkList(id, checks, status) {
  if (!checks.length) return [];
  const items = checks.slice(0, SHOWN).map((check) => {
    const value = (label, text) => (text === null ? null : make("div.value", {}, make("span", {}, say(label)), make("code", {}, plain(text))));
    return make("li", {},
      make("div", {}, make("span.number", {}, check.number), " ", make("strong", {}, say(`trust.check.${check.name}`)), " ", make("code.subject", {}, plain(check.subject))),
      check.detail ? make("div", {}, say(check.detail, check.values)) : null,
      value("html.expected", check.expected), value("html.found", check.found));
  });
  const more = checks.length > SHOWN ? [make("p.note", {}, say("html.more", { count: checks.length - SHOWN }))] : [];
  return [make("h3", {}, say(id, { count: checks.length })), make(`ul.checks.${status}`, {}, ...items), ...more];
}

function table(name, heads, rows) {
  return make("div.wide", { tabindex: "0", role: "region", "aria-label": say(name) }, make("table", {},
    make("thead", {}, make("tr", {}, ...heads.map((id) => make("th", { scope: "col" }, say(id))))),
    make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, cell)))))));
}

function signerTable(signers) {
  if (!signers.length) return [];
  const rows = signers.map(({ key_id: id, algorithm, label, holder, revoked }) => [
    make("code", {}, id), algorithm ?? "-",
    make("span", {}, holder === null ? say("html.holder_unknown", { label: label || "-" }) : plain(holder),
      revoked === null ? null : make("div.note", {}, say("html.revoked", { size: revoked }))),
  ]);
  return [make("h3", {}, say("html.signers")), table("html.signers", ["html.key", "html.algorithm", "html.holder"], rows)];
}

function claimTable(claims) {
  if (!claims.length) return [];
  const rows = claims.slice(0, SHOWN).map((claim) => [
    make("span.time", {}, claim.time_claimed), make("code.id", {}, claim.event_id), say(`trust.event.${claim.type}`), plain(claim.role),
    claim.after || claim.before ? make("span.time", {}, `${claim.after ?? "\u2026"} \u2013 ${claim.before ?? "\u2026"}`) : "\u2014",
  ]);
  const more = claims.length > SHOWN ? [make("p.note", {}, say("html.more", { count: claims.length - SHOWN }))] : [];
  const heads = ["html.claimed_time", "html.event", "html.kind", "html.role", "html.attested_interval"];
  return [make("h3", {}, say("html.claims")), make("p.note", {}, say("html.claims_note")), table("html.claims", heads, rows), ...more];
}

function ending() {
  const text = JSON.stringify(jsonOf(state.raw), null, 1);
  const copied = make("span", { role: "status" });
  const save = () => {
    const address = URL.createObjectURL(new Blob([`${text}\n`], { type: "application/json" }));
    make("a", { href: address, download: `${plain(nameOf(state.main)).replace(/[^\p{L}\p{N}._-]/gu, "_")}.verification.json` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  };
  const copy = () => {
    const area = at("json");
    at("json-box").open = true;
    getSelection().selectAllChildren(area);
    // from file:// a page has no clipboard interface in every browser; the old command works in all
    copied.textContent = document.execCommand("copy") ? say("html.copied") : say("html.select_copy");
  };
  return [
    make("h3", {}, say("html.program")),
    make("p.note", {}, say("html.program_note", { digest: programDigest })),
    make("p.actions", {},
      make("button", { type: "button", onclick: () => window.print() }, say("html.print")), " ",
      make("button", { type: "button", onclick: save }, say("html.save")), " ",
      make("button", { type: "button", onclick: copy }, say("html.copy")), " ", copied),
    make("details.json", { id: "json-box" }, make("summary", {}, "JSON"), make("pre", { id: "json" }, text)),
  ];
}

window.addEventListener("dragover", (event) => event.preventDefault());
window.addEventListener("drop", (event) => event.preventDefault());
draw();
