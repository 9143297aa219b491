"use strict";
// The page of one sample: it shows pictures and keeps answers. It asks no network for anything and knows nothing of the map.
const DATA = JSON.parse(document.getElementById("data").textContent);
const TILE = 116, LARGE = 380, SVG = "http://www.w3.org/2000/svg";
const KEY = "geoevidence-form:" + DATA.sample + (DATA.adjudication ? ":settle" : "");
const FIELDS = ["change", "last_before", "first_after", "from_class", "to_class", "confidence", "note"];
const answers = {};
const hidden = new Set();
const sprites = new Map();
let lang = DATA.lang, here = 0, picture = 0, pinned = -1, colours = "", unsaved = false, keeps = true;

const $ = (id) => document.getElementById(id);
const text = (name, values = {}) =>
  DATA.texts[lang][name].replace(/\{([a-z_]+)\}/g, (whole, key) => (key in values ? String(values[key]) : whole));
const point = () => DATA.points[here];
const answer = () => (answers[point().id] ??= Object.fromEntries(FIELDS.map((name) => [name, name.endsWith("_class") ? "unknown" : ""])));

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function draw(tag, attributes, content = "") {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = content;
  return node;
}

function keep(change) {
  Object.assign(answer(), change);
  unsaved = true;
  try {
    localStorage.setItem(KEY, JSON.stringify({ name: $("name").value, answers }));
  } catch {
    keeps = false;
  }
  show();
}

function wrongDates(one) {
  return one.last_before !== "" && one.first_after !== "" && one.last_before >= one.first_after;
}

function state(id) {
  const one = answers[id];
  if (!one || one.change === "") return "";
  const dated = one.last_before !== "" && one.first_after !== "" && !wrongDates(one);
  return one.change === "yes" && !dated ? "part" : "done";
}

const given = () => DATA.points.filter((each) => answers[each.id] && answers[each.id].change !== "");

// Pictures ---------------------------------------------------------------------------------------

function sprite(entry, kind) {
  const source = entry.sprites[kind];
  if (!sprites.has(source)) {
    if (sprites.size > 12) sprites.clear();
    const image = new Image();
    sprites.set(source, new Promise((done, failed) => {
      image.onload = () => done(image);
      image.onerror = failed;
    }));
    image.src = source;
  }
  return sprites.get(source);
}

function paint(canvas, entry, index, side) {
  const size = DATA.size, scale = Math.floor(side / size), kind = colours;
  canvas.width = canvas.height = size * scale;
  sprite(entry, kind).then((image) => {
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    const columns = Math.round(image.width / size);
    context.drawImage(image, (index % columns) * size, Math.floor(index / columns) * size, size, size, 0, 0, size * scale, size * scale);
    const middle = ((size - 1) / 2) * scale;
    for (const [colour, width] of [["#000", 3], ["#00e5ff", 1.6]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.strokeRect(middle - 1, middle - 1, scale + 2, scale + 2);
      context.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        const from = scale / 2 + 5, to = from + 2 * scale, centre = middle + scale / 2;
        context.moveTo(centre + dx * from, centre + dy * from);
        context.lineTo(centre + dx * to, centre + dy * to);
      }
      context.stroke();
    }
  });
  return canvas;
}

function showPictures() {
  const entry = point(), one = answer();
  const kinds = DATA.kinds.filter((kind) => kind in entry.sprites);
  if (!kinds.includes(colours)) colours = kinds[0] ?? "";
  $("colours").replaceChildren(...kinds.map((kind) => {
    const button = make("button", { type: "button", textContent: text("colours_" + kind) });
    button.setAttribute("aria-pressed", String(kind === colours));
    button.className = kind === colours ? "main" : "";
    button.addEventListener("click", () => { colours = kind; show(); });
    return button;
  }));
  $("pin").hidden = !entry.dates.length;
  $("pin").setAttribute("aria-pressed", String(pinned >= 0));
  if (!entry.dates.length) {
    $("large").replaceChildren(make("p", { textContent: text("no_pictures") }));
    $("strip").replaceChildren();
    return;
  }
  picture = Math.min(picture, entry.dates.length - 1);
  const left = pinned >= 0 ? pinned : picture - 1;
  const pair = left >= 0 ? [left, picture] : [picture];
  $("large").replaceChildren(...pair.map((index) =>
    make("figure", {}, paint(make("canvas"), entry, index, LARGE), make("figcaption", { textContent: entry.dates[index] }))));
  $("strip").replaceChildren(...entry.dates.map((day, index) => {
    const button = make("button", { type: "button" }, paint(make("canvas"), entry, index, TILE), make("span", { textContent: day }));
    button.setAttribute("aria-pressed", String(index === picture));
    if (one.change === "yes" && day === one.last_before) button.classList.add("old");
    if (one.change === "yes" && day === one.first_after) button.classList.add("new");
    button.addEventListener("click", () => { picture = index; show(); });
    return button;
  }));
}

// Series -----------------------------------------------------------------------------------------

const stamp = (day) => Date.parse(day + "T00:00:00Z");

function showSeries() {
  const entry = point(), names = Object.keys(entry.series), one = answer();
  $("legend").replaceChildren(...names.map((name, index) => {
    const button = make("button", { type: "button", textContent: "● " + name, className: "b" + (index % 5) });
    button.setAttribute("aria-pressed", String(!hidden.has(name)));
    button.addEventListener("click", () => { hidden.has(name) ? hidden.delete(name) : hidden.add(name); show(); });
    return button;
  }));
  const seen = names.filter((name) => !hidden.has(name));
  const values = seen.flatMap((name) => entry.series[name].map(([, value]) => Number(value)));
  const W = 900, H = 260, left = 44, right = 10, top = 10, bottom = 26;
  const svg = draw("svg", { viewBox: `0 0 ${W} ${H}`, role: "img" });
  if (values.length) {
    const low = Math.min(...values) - 0.03, high = Math.max(...values) + 0.03;
    const start = stamp(DATA.first), end = Math.max(stamp(DATA.last), start + 1);
    const x = (day) => left + ((stamp(day) - start) / (end - start)) * (W - left - right);
    const y = (value) => top + ((high - value) / (high - low)) * (H - top - bottom);
    if (one.change === "yes" && one.last_before && one.first_after && !wrongDates(one)) {
      const [a, b] = [x(one.last_before), x(one.first_after)];
      svg.append(draw("rect", { x: a, y: top, width: Math.max(1, b - a), height: H - top - bottom, class: "span" }));
    }
    for (let year = Number(DATA.first.slice(0, 4)); year <= Number(DATA.last.slice(0, 4)) + 1; year += 1) {
      const at = x(`${year}-01-01`);
      if (at < left || at > W - right) continue;
      svg.append(draw("line", { x1: at, x2: at, y1: top, y2: H - bottom, class: "grid" }),
        draw("text", { x: at + 2, y: H - 8 }, at + 30 <= W - right ? String(year) : ""));
    }
    const step = high - low > 1 ? 0.5 : 0.2;
    for (let value = Math.ceil(low / step) * step; value <= high; value += step) {
      svg.append(draw("line", { x1: left, x2: W - right, y1: y(value), y2: y(value), class: "grid" }),
        draw("text", { x: 4, y: y(value) + 4 }, value.toFixed(1)));
    }
    if (entry.dates.length) svg.append(draw("line", { x1: x(entry.dates[picture]), x2: x(entry.dates[picture]), y1: top, y2: H - bottom, class: "now" }));
    names.forEach((name, index) => {
      if (hidden.has(name)) return;
      for (const [day, value] of entry.series[name]) {
        const dot = draw("circle", { cx: x(day), cy: y(Number(value)), r: 3.2, class: "c" + (index % 5) });
        dot.append(draw("title", {}, `${day}  ${name} ${value}`));
        dot.addEventListener("click", () => {
          const apart = entry.dates.map((each) => Math.abs(stamp(each) - stamp(day)));
          if (apart.length) { picture = apart.indexOf(Math.min(...apart)); show(); }
        });
        svg.append(dot);
      }
    });
  }
  $("plot").replaceChildren(svg);
}

// Questions --------------------------------------------------------------------------------------

function choices(id, field, names) {
  const now = answer()[field];
  $(id).replaceChildren(...names.map(([value, name]) => {
    const button = make("button", { type: "button", textContent: text(name) });
    button.dataset.value = value;
    button.setAttribute("aria-pressed", String(now === value));
    button.addEventListener("click", () => keep({ [field]: value }));
    return button;
  }));
}

function showQuestions() {
  const entry = point(), one = answer();
  choices("change", "change", [["yes", "yes"], ["no", "no"], ["unsure", "unsure"]]);
  choices("confidence", "confidence", DATA.confidences.map((value) => [value, "confidence_" + value]));
  $("more").hidden = one.change !== "yes";
  for (const side of ["from_class", "to_class"]) {
    $(side).replaceChildren(...DATA.classes.map((value) =>
      make("option", { value, textContent: text("class_" + value), selected: value === one[side] })));
  }
  for (const name of ["last_before", "first_after", "note"]) if ($(name).value !== one[name]) $(name).value = one[name];
  $("dates-wrong").hidden = !wrongDates(one);
  $("former").hidden = !entry.former.length;
  $("former").replaceChildren(make("strong", { textContent: text("former") }), ...entry.former.map((said) => {
    const dates = said.change === "yes" ? ` ${said.last_before || "?"} – ${said.first_after || "?"}` : "";
    return make("div", { textContent: `${said.interpreter}: ${text(said.change)}${dates} ${said.note}` });
  }));
}

function show() {
  const entry = point();
  document.documentElement.lang = lang === "zh" ? "zh-CN" : "en";
  document.title = text("title");
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = text(node.dataset.text);
  for (const node of document.querySelectorAll("[data-title]")) node.title = node.ariaLabel = text(node.dataset.title);
  $("switch").textContent = lang === "zh" ? "English" : "中文";
  $("synthetic").hidden = !DATA.synthetic;
  $("adjudication").hidden = !DATA.adjudication;
  $("progress").textContent = text("progress", { done: given().length, all: DATA.points.length });
  $("points").replaceChildren(...DATA.points.map((each, index) => {
    const button = make("button", { type: "button", textContent: each.id.replace("P-", ""), className: state(each.id) });
    if (index === here) { button.classList.add("here"); button.setAttribute("aria-current", "true"); }
    button.addEventListener("click", () => go(index));
    return button;
  }));
  $("point").textContent = `${entry.id}（${here + 1} / ${DATA.points.length}）`;
  $("place").textContent = entry.place;
  $("width").textContent = text("width", { size: DATA.width_m, pixel: DATA.pixel_m });
  $("kept").textContent = text(keeps ? "kept" : "not_kept");
  showPictures();
  showSeries();
  showQuestions();
}

function go(index) {
  here = Math.max(0, Math.min(DATA.points.length - 1, index));
  picture = 0;
  pinned = -1;
  show();
}

// Files ------------------------------------------------------------------------------------------

function rows() {
  return given().map((each) => {
    const one = answers[each.id], changed = one.change === "yes", dated = changed && !wrongDates(one);
    return {
      point: each.id,
      change: one.change,
      last_before: dated ? one.last_before : "",
      first_after: dated ? one.first_after : "",
      from_class: changed ? one.from_class : "unknown",
      to_class: changed ? one.to_class : "unknown",
      confidence: one.confidence,
      note: one.note,
    };
  });
}

function download(name, content, type) {
  const link = make("a", { href: URL.createObjectURL(new Blob([content], { type })), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  unsaved = false;
  $("say").textContent = text("saved", { name, count: given().length });
}

function fileName(ending) {
  const who = $("name").value.trim();
  if (!who) {
    $("say").textContent = text("name_needed");
    $("name").focus();
    return "";
  }
  return `${DATA.file}-${who.replace(/[^\p{L}\p{N}]+/gu, "_")}.${ending}`;
}

function save() {
  const name = fileName("json");
  const record = { schema: "geoevidence.responses.v1", sample: DATA.sample, interpreter: $("name").value.trim(), answers: rows() };
  if (name) download(name, JSON.stringify(record, null, 1) + "\n", "application/json");
}

function saveTable() {
  const name = fileName("csv"), columns = ["point", ...FIELDS];
  const cell = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const lines = [columns, ...rows().map((row) => columns.map((column) => row[column]))];
  // The mark at the start lets spreadsheets read Chinese.
  if (name) download(name, "\ufeff" + lines.map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n", "text/csv");
}

function take(saved) {
  let count = 0;
  for (const row of saved) {
    if (!DATA.points.some((each) => each.id === row.point) || !["yes", "no", "unsure"].includes(row.change)) continue;
    answers[row.point] = Object.fromEntries(FIELDS.map((name) => [name, String(row[name] ?? "")]));
    count += 1;
  }
  return count;
}

$("load").addEventListener("change", async () => {
  const [file] = $("load").files;
  if (!file) return;
  try {
    const record = JSON.parse(await file.text());
    if (record.schema !== "geoevidence.responses.v1" || record.sample !== DATA.sample) throw new Error("other sample");
    const count = take(record.answers);
    $("name").value = record.interpreter;
    keep({});
    $("say").textContent = text("loaded", { count });
  } catch {
    $("say").textContent = text("load_wrong");
  }
  $("load").value = "";
});

$("switch").addEventListener("click", () => { lang = lang === "zh" ? "en" : "zh"; show(); });
$("pin").addEventListener("click", () => { pinned = pinned >= 0 ? -1 : picture; show(); });
$("save").addEventListener("click", save);
$("save-csv").addEventListener("click", saveTable);
$("previous").addEventListener("click", () => go(here - 1));
for (const id of ["next", "next-below"]) $(id).addEventListener("click", () => { go(here + 1); window.scrollTo(0, 0); });
for (const name of ["last_before", "first_after"]) $(name).addEventListener("change", () => keep({ [name]: $(name).value }));
for (const name of ["from_class", "to_class"]) $(name).addEventListener("change", () => keep({ [name]: $(name).value }));
$("note").addEventListener("input", () => keep({ note: $("note").value }));
$("name").addEventListener("input", () => { $("say").textContent = ""; keep({}); });
for (const button of document.querySelectorAll("[data-use]"))
  button.addEventListener("click", () => { if (point().dates.length) keep({ [button.dataset.use]: point().dates[picture] }); });
for (const button of document.querySelectorAll("[data-empty]")) button.addEventListener("click", () => keep({ [button.dataset.empty]: "" }));
window.addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, textarea, select") || event.ctrlKey || event.altKey || event.metaKey) return;
  const chosen = { 1: "yes", 2: "no", 3: "unsure" }[event.key];
  if (chosen) keep({ change: chosen });
  else if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
    picture = Math.max(0, Math.min(point().dates.length - 1, picture + (event.key === "ArrowRight" ? 1 : -1)));
    show();
  } else if (event.key === "PageDown") go(here + 1);
  else if (event.key === "PageUp") go(here - 1);
  else return;
  event.preventDefault();
});

try {
  const kept = JSON.parse(localStorage.getItem(KEY) ?? "null");
  if (kept) {
    take(Object.entries(kept.answers).map(([id, one]) => ({ point: id, ...one })));
    $("name").value = kept.name;
  }
} catch {
  keeps = false;
}
go(0);
