// Resumable upload of files into a case (tus 1.0). A broken upload goes on where the server stopped, also after the page was closed:
// the same file (name, size, date) chosen again finds its earlier upload.
// Trigger given back to Python: `finished`, once every chosen file is complete on the server.
import { Upload } from "tus-js-client";
import "./upload.css";

const forms = new WeakMap();

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function size(bytes) {
  for (const [unit, step] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) if (bytes >= step) return `${(bytes / step).toFixed(1)} ${unit}`;
  return `${bytes} B`;
}

function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function add(form, file) {
  const { texts, endpoint } = form.data;
  const row = element("div", "geo-upload-row");
  const name = element("div", "geo-upload-name", file.name);
  const bar = element("progress");
  bar.max = 1;
  bar.value = 0;
  const state = element("div", "geo-upload-state", texts.waiting);
  const button = element("button", "geo-upload-button", texts.pause);
  button.type = "button";
  row.append(name, bar, state, button);
  form.list.append(row);
  const job = { file, done: false, running: false };
  form.jobs.push(job);

  const say = (kind, text) => { row.dataset.state = kind; state.textContent = text; };
  job.upload = new Upload(file, {
    endpoint: window.location.origin + endpoint,
    retryDelays: [0, 1000, 3000, 5000, 10000, 20000],
    removeFingerprintOnSuccess: true,
    headers: { "Accept-Language": form.data.texts.lang }, // in which the server says what is wrong
    metadata: { filename: file.webkitRelativePath || file.name, filetype: file.type || "application/octet-stream" },
    onProgress: (sent, total) => {
      bar.value = total ? sent / total : 1;
      say("sending", fill(texts.sending, { sent: size(sent), total: size(total) }));
    },
    onSuccess: () => {
      job.done = true;
      job.running = false;
      bar.value = 1;
      button.remove();
      say("done", fill(texts.done, { total: size(file.size) }));
      if (form.jobs.every((other) => other.done)) form.finished();
    },
    onError: (error) => {
      job.running = false;
      button.textContent = texts.resume;
      const status = error.originalResponse?.getStatus();
      const body = error.originalResponse?.getBody();
      say("failed", fill(texts.failed, { reason: body || (status ? `HTTP ${status}` : texts.no_connection) }));
    },
  });
  job.start = async () => {
    job.running = true;
    button.textContent = texts.pause;
    const earlier = (await job.upload.findPreviousUploads()).sort((a, b) => b.creationTime.localeCompare(a.creationTime));
    if (earlier.length && !job.upload.url) job.upload.resumeFromPreviousUpload(earlier[0]);
    job.upload.start();
  };
  button.onclick = async () => {
    if (!job.running) { await job.start(); return; }
    job.running = false;
    await job.upload.abort();
    button.textContent = texts.resume;
    say("paused", fill(texts.paused, { sent: size(bar.value * file.size), total: size(file.size) }));
  };
  job.start();
}

function open(root, data) {
  const style = element("link");
  style.rel = "stylesheet";
  style.href = data.css;
  const frame = element("div", "geo-upload");
  const drop = element("label", "geo-upload-drop");
  const input = element("input");
  input.type = "file";
  input.multiple = true;
  const [choose, hint] = [element("strong"), element("span")];
  drop.append(choose, hint, input);
  const list = element("div", "geo-upload-list");
  frame.append(drop, list);
  root.replaceChildren(style, frame);
  const form = { data, frame, list, choose, hint, jobs: [], finished: () => {} };
  const take = (files) => {
    if (form.jobs.every((job) => job.done)) { form.jobs = []; list.replaceChildren(); }
    for (const file of files) add(form, file);
  };
  input.onchange = () => { take([...input.files]); input.value = ""; };
  drop.ondragover = (event) => { event.preventDefault(); drop.classList.add("over"); };
  drop.ondragleave = () => drop.classList.remove("over");
  drop.ondrop = (event) => { event.preventDefault(); drop.classList.remove("over"); take([...event.dataTransfer.files]); };
  return form;
}

export default function ({ parentElement, data, setTriggerValue }) {
  let form = forms.get(parentElement);
  if (!form) forms.set(parentElement, (form = open(parentElement, data)));
  form.data = data;
  form.choose.textContent = data.texts.choose;
  form.hint.textContent = data.texts.hint;
  form.finished = () => setTriggerValue("finished", form.jobs.length);
  return () => {
    forms.delete(parentElement);
    for (const job of form.jobs) if (job.running) job.upload.abort();
  };
}
