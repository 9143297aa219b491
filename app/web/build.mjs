// Bundles each component `src/<name>/index.js` (or .ts) into `../components/<name>/dist/`:
//   <name>-<hash>.js, <name>-<hash>.css   what the component loads (found by glob, so the hash defeats stale caches)
//   maplibre-gl-worker.mjs                only where the bundle holds MapLibre, which starts it from its own address
//   LICENSES.txt                          licence texts of every package that ended up in the bundle
// Same sources and lock, same bytes.
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const sources = join(here, "src");
const packageOf = /^(?:.*\/)?node_modules\/((?:@[^/]+\/)?[^/]+)\//;

function licences(packages) {
  return packages.map((name) => {
    const folder = join(here, "node_modules", name);
    const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    const file = readdirSync(folder).sort().find((entry) => /^licen[cs]e/i.test(entry));
    const text = file ? readFileSync(join(folder, file), "utf8").trim() : `(the package ships no licence text; it declares ${license})`;
    return `${name} ${version} (${license})\n\n${text}\n`;
  }).join(`\n${"-".repeat(80)}\n\n`);
}

async function build(name, entry) {
  const dist = join(here, "..", "components", name, "dist");
  rmSync(dist, { recursive: true, force: true });
  mkdirSync(dist, { recursive: true });
  const { metafile } = await esbuild.build({
    absWorkingDir: here,
    entryPoints: { [name]: entry },
    outdir: dist,
    entryNames: "[name]-[hash]",
    assetNames: "[name]-[hash]",
    bundle: true,
    format: "esm",
    minify: true,
    charset: "utf8",
    target: "es2022",
    metafile: true,
    legalComments: "none", // all of them stand in LICENSES.txt
    logLevel: "warning",
  });
  const packages = [...new Set(Object.keys(metafile.inputs).map((path) => path.match(packageOf)?.[1]).filter(Boolean))].sort();
  if (packages.includes("maplibre-gl")) {
    const worker = readFileSync(join(here, "node_modules/maplibre-gl/dist/maplibre-gl-worker.mjs"), "utf8");
    const parts = [...new Set([...worker.matchAll(/["']\.\/(maplibre-gl-[\w-]+\.mjs)["']/g)].map((match) => match[1]))];
    for (const file of ["maplibre-gl-worker.mjs", ...parts.sort()]) {
      copyFileSync(join(here, "node_modules/maplibre-gl/dist", file), join(dist, file));
    }
  }
  if (packages.length) writeFileSync(join(dist, "LICENSES.txt"), licences(packages));
  console.log(`${name}: ${readdirSync(dist).sort().join(" ")}`);
}

const names = existsSync(sources) ? readdirSync(sources, { withFileTypes: true }).filter((entry) => entry.isDirectory()).map((entry) => entry.name).sort() : [];
for (const name of names) {
  const entry = ["index.js", "index.ts"].map((file) => join(sources, name, file)).find(existsSync);
  if (!entry) throw new Error(`app/web/src/${name} has neither index.js nor index.ts`);
  await build(name, entry);
}
