// Two pictures of one place over each other, with a bar to wipe from before to after; or side by side.
import "./compare.css";

const views = new WeakMap();

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function picture(source, alt) {
  const image = element("img");
  image.src = source;
  image.alt = alt;
  image.draggable = false;
  return image;
}

function open(root, data) {
  const style = element("link");
  style.rel = "stylesheet";
  style.href = data.css;
  const frame = element("div", "geo-compare");
  const stage = element("div", "geo-compare-stage");
  const over = element("div", "geo-compare-over");
  over.append(picture(data.after.source, data.after.title));
  const bar = element("div", "geo-compare-bar");
  stage.append(picture(data.before.source, data.before.title), over, bar);
  const slider = element("input", "geo-compare-slider");
  Object.assign(slider, { type: "range", min: 0, max: 100, value: 50, step: 0.5, ariaLabel: data.hint });
  const wipe = () => {
    stage.style.setProperty("--at", `${slider.value}%`);
    frame.dataset.at = slider.value;
  };
  slider.oninput = wipe;
  const names = element("div", "geo-compare-names");
  names.append(element("span", "", data.before.title), element("span", "geo-compare-hint", data.hint), element("span", "", data.after.title));
  const pair = element("div", "geo-compare-pair");
  pair.append(picture(data.before.source, data.before.title), picture(data.after.source, data.after.title));
  const both = element("button", "geo-compare-button", data.side_by_side);
  both.type = "button";
  both.onclick = () => {
    const on = frame.classList.toggle("pair");
    both.textContent = on ? data.wipe : data.side_by_side;
  };
  frame.append(names, stage, slider, pair, both);
  root.replaceChildren(style, frame);
  wipe();
}

export default function ({ parentElement, data }) {
  if (views.get(parentElement) !== data.key) {
    views.set(parentElement, data.key);
    open(parentElement, data);
  }
  return () => views.delete(parentElement);
}
