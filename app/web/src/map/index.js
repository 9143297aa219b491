// The map of a case: raster layers from this server's own tile route, findings as polygons, a scale bar.
// No base map, no glyphs, no sprites: nothing is fetched from another host.
// Trigger given back to Python: `clicked`, the key of the finding that was clicked.
import { Map as MapLibre, Marker, NavigationControl, LngLatBounds, ScaleControl, setWorkerUrl } from "maplibre-gl";
import "maplibre-gl/dist/maplibre-gl.css";
import "./map.css";

setWorkerUrl(new URL("./maplibre-gl-worker.mjs", import.meta.url).href);

const views = new WeakMap(); // root element -> view, so that a rerun updates the map instead of building a new one

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function open(root, data) {
  const frame = element("div", "geo-map");
  const canvas = element("div", "geo-map-canvas");
  const panel = element("div", "geo-map-panel");
  const banner = element("div", "geo-map-banner");
  frame.append(canvas, panel, banner);
  const style = element("link");
  style.rel = "stylesheet";
  style.href = data.css;
  root.replaceChildren(style, frame);
  const view = { root, frame, canvas, panel, banner, markers: [], pins: [], key: null, map: null, send: () => {} };
  // MapLibre measures its container when it starts: wait until the style sheet has given it a size.
  view.ready = new Promise((resolve) => {
    style.onload = style.onerror = () => {
      view.map = new MapLibre({
        container: canvas,
        style: { version: 8, sources: {}, layers: [{ id: "background", type: "background", paint: { "background-color": "#eef1f4" } }] },
        attributionControl: false,
        dragRotate: false,
        pitchWithRotate: false,
        maxZoom: 24,
        canvasContextAttributes: { preserveDrawingBuffer: true }, // so that the page can be printed with its map
      });
      view.map.touchZoomRotate.disableRotation();
      view.map.addControl(new NavigationControl({ showCompass: false }), "top-right");
      view.map.addControl(new ScaleControl({ unit: "metric", maxWidth: 160 }), "bottom-left");
      view.observer = new ResizeObserver(() => view.map.resize());
      view.observer.observe(canvas);
      view.map.on("load", () => resolve(view));
    };
  });
  return view;
}

function draw(view, data) {
  const { map } = view;
  view.markers.forEach((marker) => marker.remove());
  view.markers = [];
  view.pins = [];
  for (const layer of map.getStyle().layers) if (layer.id !== "background") map.removeLayer(layer.id);
  for (const source of Object.keys(map.getStyle().sources)) map.removeSource(source);
  view.panel.replaceChildren();
  view.banner.textContent = data.banner;

  for (const layer of data.rasters) {
    map.addSource(layer.id, {
      type: "raster", tiles: [window.location.origin + layer.tiles], tileSize: 256,
      bounds: layer.bounds, minzoom: layer.minzoom, maxzoom: layer.maxzoom,
    });
    map.addLayer({ id: layer.id, type: "raster", source: layer.id, layout: { visibility: layer.visible ? "visible" : "none" },
      paint: { "raster-fade-duration": 0, "raster-resampling": "nearest" } });
    const row = element("label", "geo-map-layer");
    const box = element("input");
    box.type = "checkbox";
    box.checked = layer.visible;
    box.onchange = () => map.setLayoutProperty(layer.id, "visibility", box.checked ? "visible" : "none");
    row.append(box, element("span", "", layer.title));
    view.panel.append(row);
  }

  map.addSource("findings", { type: "geojson", data: data.findings });
  map.addLayer({ id: "findings-fill", type: "fill", source: "findings", filter: ["==", ["geometry-type"], "Polygon"],
    paint: { "fill-color": "#d4380d", "fill-opacity": 0.12 } });
  map.addLayer({ id: "findings-halo", type: "line", source: "findings", paint: { "line-color": "#ffffff", "line-width": 4 } });
  map.addLayer({ id: "findings-line", type: "line", source: "findings", paint: { "line-color": "#d4380d", "line-width": 2 } });
  map.addLayer({ id: "findings-selected", type: "line", source: "findings", filter: ["==", ["get", "key"], ""],
    paint: { "line-color": "#0050b3", "line-width": 4 } });

  for (const { keys, label, title, at } of data.labels) {
    const pin = element("button", "geo-map-pin", label);
    pin.type = "button";
    pin.title = title;
    pin.onclick = (event) => { // findings on one outline take turns
      event.stopPropagation();
      view.send(keys[(keys.indexOf(view.frame.dataset.selected) + 1) % keys.length]);
    };
    view.pins.push({ pin, keys });
    view.markers.push(new Marker({ element: pin, anchor: "bottom", offset: [0, -4] }).setLngLat(at).addTo(map));
  }
  const hit = (event) => map.queryRenderedFeatures(event.point, { layers: ["findings-fill", "findings-line"] })[0];
  if (!view.bound) {
    view.bound = true;
    map.on("click", (event) => { const feature = hit(event); if (feature) view.send(feature.properties.key); });
    map.on("mousemove", (event) => { map.getCanvas().style.cursor = hit(event) ? "pointer" : ""; });
    map.on("idle", () => { view.frame.dataset.state = "idle"; });
    map.on("error", (event) => { view.frame.dataset.error = event.error?.message ?? "error"; });
  }
  if (data.bounds) {
    map.fitBounds(new LngLatBounds(data.bounds), { padding: 40, animate: false, maxZoom: 21 });
  }
}

function select(view, selected) {
  view.frame.dataset.selected = selected ?? "";
  view.map.setFilter("findings-selected", ["==", ["get", "key"], selected ?? ""]);
  for (const { pin, keys } of view.pins) pin.classList.toggle("selected", keys.includes(selected));
}

export default function ({ parentElement, data, setTriggerValue }) {
  let view = views.get(parentElement);
  if (!view) views.set(parentElement, (view = open(parentElement, data)));
  view.send = (key) => { select(view, key); setTriggerValue("clicked", key); };
  view.ready.then(() => {
    if (view.key !== data.key) {
      view.key = data.key; // what is drawn is named by Python: the same key draws nothing again
      view.frame.dataset.state = "drawing";
      draw(view, data);
    }
    select(view, data.selected);
  });
  return () => {
    views.delete(parentElement);
    view.ready.then(() => { view.observer.disconnect(); view.map.remove(); });
  };
}
