"use strict";
// The other side of the page: takes what was chosen, answers with progress and a report. Runs in a worker, or in the page where
// a browser allows none.

async function openSource(source) {
  if (source.kind === "zip") return openZip(source.file);
  return openFolder(source.label, source.files, source.empty, source.failed);
}

/** request: {main, supplements (sources), spoken (source or null), trust (File or null), checkpoints (Files), code (text or null), now (UTC text)}. */
async function answer(request, progress) {
  const read = async (file) => {
    try {
      return await readSlice(file, 0, file.size);
    } catch (fault) {
      throw fault instanceof Fault ? new Fault("html.argument_unreadable", { where: file.name }) : fault;
    }
  };
  const options = { code: request.code, now: request.now, progress, checkpoints: [] };
  if (request.trust) options.policy = parsePolicy(await read(request.trust), request.trust.name);
  for (const file of request.checkpoints) options.checkpoints.push({ label: file.name, checkpoint: parseCheckpoint(await read(file), file.name) });
  const open = (sources) => Promise.all(sources.map(openSource));
  return verify(await openSource(request.main), options, await open(request.supplements), request.spoken ? await openSource(request.spoken) : null);
}

function serve(port) {
  port.onmessage = async ({ data: { id, request } }) => {
    let last = 0;
    const progress = (share) => {
      // a message for each file would cost more than the file
      if (Date.now() - last < 100) return;
      last = Date.now();
      port.postMessage({ id, progress: share });
    };
    try {
      port.postMessage({ id, report: await answer(request, progress) });
    } catch (error) {
      const isFault = error instanceof Fault;
      port.postMessage({ id, fault: isFault ? { id: error.id, values: error.values } : { id: "html.program_fault", values: { reason: String(error) } } });
    }
  };
  port.postMessage({ ready: true });
}
