// The page: a list of jobs on the left; on the right a new request, or one job followed live.

import { get } from "./api.js";
import { ago, h } from "./dom.js";
import { showForm } from "./form.js";
import { jobName, showJob } from "./job.js";

const main = document.getElementById("main");
const list = document.getElementById("jobs");
const more = document.getElementById("more");
const kind = document.getElementById("kind");
const status = document.getElementById("status");
let navigation = new AbortController();
let pages = 1;

function route() {
  navigation.abort();
  navigation = new AbortController();
  const id = /^#\/jobs\/([A-Za-z0-9_-]+)$/.exec(location.hash)?.[1];
  const wanted = new URLSearchParams(/^#\/new\?(.*)$/.exec(location.hash)?.[1] ?? "");
  document.title = "collegium";
  main.replaceChildren(h("p.muted", {}, "Loading…"));
  const shown = id ? showJob(main, id, navigation.signal, refresh) : showForm(main, wanted, (job) => { location.hash = `#/jobs/${job.id}`; refresh(); });
  shown.catch((error) => { if (error.name !== "AbortError") main.replaceChildren(h("p.notice.bad", { role: "alert" }, error.message)); });
  for (const item of list.children) item.classList.toggle("current", item.dataset.id === id);
}

function entry(job) {
  const running = ["running", "cancelling"].includes(job.status);
  const item = h("li", { class: `job ${job.status}` },
    h("a", { href: `#/jobs/${job.id}` },
      h("span.name", {}, jobName(job)),
      h("span.meta", {}, h("span.dot", {}), job.status, running ? ` · ${Math.round(100 * job.progress.fraction)} %` : "", " · ",
        h("time", { datetime: job.created_at, title: new Date(job.created_at).toLocaleString() }, ago(job.created_at)))));
  item.dataset.id = job.id;
  item.classList.toggle("current", location.hash === `#/jobs/${job.id}`);
  return item;
}

let tag = null;
async function refresh() {
  const query = new URLSearchParams({ limit: String(Math.min(200, 25 * pages)) });
  if (kind.value) query.set("kind", kind.value);
  if (status.value) query.set("status", status.value);
  try {
    const page = await get(`/v1/jobs?${query}`);
    const text = JSON.stringify(page.items.map((job) => [job.id, job.status, job.progress.fraction, ago(job.created_at)]));
    if (text !== tag) {
      tag = text;
      const focused = list.contains(document.activeElement) ? document.activeElement.closest("li").dataset.id : null;
      list.replaceChildren(...page.items.map(entry));
      if (focused) list.querySelector(`[data-id="${focused}"] a`)?.focus({ preventScroll: true });
      if (!page.items.length) list.append(h("li.muted.empty", {}, "No jobs."));
    }
    more.hidden = !page.next_cursor || pages >= 8;
  } catch (error) {
    tag = null;
    list.replaceChildren(h("li.muted.empty", {}, error.message));
  }
}

kind.addEventListener("change", refresh);
status.addEventListener("change", refresh);
more.addEventListener("click", () => { pages += 1; refresh(); });
addEventListener("hashchange", () => { route(); main.focus({ preventScroll: true }); scrollTo(0, 0); });
document.getElementById("skip").addEventListener("click", () => main.focus());
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
setInterval(() => { if (!document.hidden) refresh(); }, 4000);
refresh();
route();
