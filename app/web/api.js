// Requests to the service: JSON with problem documents as errors, and event streams that resume.

let keyEntered = null;

export class Problem extends Error {
  constructor(document) {
    super(document.detail || document.title || "The service did not respond.");
    this.document = document;
  }
}

function headers(extra = {}) {
  const key = sessionStorage.getItem("collegium.key");
  return key ? { ...extra, Authorization: `Bearer ${key}` } : extra;
}

export const hasKey = () => sessionStorage.getItem("collegium.key") !== null;

function askForKey() {
  if (keyEntered) return keyEntered;
  const dialog = document.getElementById("key-dialog");
  keyEntered = new Promise((resolve) => {
    document.getElementById("key-form").addEventListener("submit", () => {
      sessionStorage.setItem("collegium.key", document.getElementById("key").value.trim());
      keyEntered = null;
      resolve();
    }, { once: true });
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.showModal();
  });
  return keyEntered;
}

export async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ title: "The service is not reachable", detail: "The service is not reachable. Is it running?" });
  }
  if (response.status === 401) {
    await askForKey();
    return request(path, options);
  }
  if (!response.ok && response.status !== 304) {
    const text = await response.text();
    let document = { title: response.statusText, detail: text.slice(0, 300) };
    try { document = JSON.parse(text); } catch { /* not a problem document: shown as it is */ }
    throw new Problem(document);
  }
  return response;
}

export const get = async (path, options) => (await request(path, options)).json();

export async function post(path, text) {
  const options = { method: "POST" };
  if (text !== undefined) Object.assign(options, { body: text, headers: { "Content-Type": "application/json" } });
  return (await request(path, options)).json();
}

export async function save(link, name) {
  if (!hasKey()) { window.location.assign(link); return; }
  const url = URL.createObjectURL(await (await request(link)).blob());
  const anchor = Object.assign(document.createElement("a"), { href: url, download: name });
  anchor.click();
  URL.revokeObjectURL(url);
}

// Calls onEvent(type, data) for each event, and resolves after the terminal one. EventSource cannot send a key.
export async function follow(path, onEvent, signal) {
  let last = 0;
  while (!signal.aborted) {
    try {
      const response = await request(path, { signal, headers: { Accept: "text/event-stream", "Last-Event-ID": String(last) } });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let waiting = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const blocks = (waiting + value).split("\n\n");
        waiting = blocks.pop();
        for (const block of blocks) {
          const fields = Object.fromEntries(block.split("\n").filter((line) => !line.startsWith(":")).map((line) => {
            const colon = line.indexOf(":");
            return [line.slice(0, colon), line.slice(colon + 1).trimStart()];
          }));
          if (fields.data === undefined) continue;
          last = Number(fields.id);
          const data = JSON.parse(fields.data);
          onEvent(fields.event, data);
          if (fields.event === "state" && ["succeeded", "failed", "cancelled"].includes(data.status)) return;
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem && error.document.status === 404) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 1500));
  }
}
