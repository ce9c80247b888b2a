
"use strict";
// Texts come from other people's programs: they are put into the page as text, never as markup.

const token = new URLSearchParams(location.search).get("token") || "";
const FIRST_WORKERS = 200; // rows of workers that are drawn at first; more on demand
const HISTORY = 600; // points of the history: ten minutes at one a second
const FIRST_HISTORY = 120; // points that the chart has room for at first
const jobs = new Map();
const workers = new Map();
const history = [];
const drawn = { jobs: new Map(), workers: new Map() };
let server = {};
let state = { connected: false, why: "connecting" };
let shownWorkers = FIRST_WORKERS;
let asked = null; // the job that the dialog is about

const $ = (id) => document.getElementById(id);

function count(number) {
  return Number(number || 0).toLocaleString("en");
}

function size(bytes) {
  if (bytes === undefined) return "";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return `${unit && bytes < 10 ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}

function span(seconds) {
  if (seconds === undefined || !isFinite(seconds)) return "";
  seconds = Math.max(0, Math.round(seconds));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} days`;
}

const now = () => Date.now() / 1000;
const since = (row) => (row.since === undefined ? "" : span(now() - row.since));

function cell(label, content, small, kind) {
  return { label, content: String(content === undefined ? "" : content), small: small || "", kind: kind || "" };
}

// Write a table row anew only where a text has changed, so that focus and selection stay.
function write(row, cells) {
  while (row.children.length < cells.length) {
    const td = document.createElement("td");
    row.append(td);
  }
  cells.forEach((given, at) => {
    const td = row.children[at];
    const key = given.element ? null : `${given.kind}\u0000${given.content}\u0000${given.small}`;
    if (given.element) {
      if (td.firstElementChild !== given.element) td.replaceChildren(given.element);
      return;
    }
    if (td.dataset.key === key) return;
    td.dataset.key = key;
    td.dataset.label = given.label;
    td.replaceChildren();
    if (!given.content && !given.small) return;
    const box = document.createElement("div");
    if (given.kind) box.className = given.kind;
    box.textContent = given.content;
    if (given.small) {
      const small = document.createElement("small");
      small.textContent = given.small;
      box.append(small);
    }
    td.append(box);
  });
}

function progressOf(job, held) {
  if (!held.progress) {
    held.progress = document.createElement("div");
    held.bar = document.createElement("progress");
    held.bar.max = 100;
    held.note = document.createElement("small");
    held.progress.append(held.bar, held.note);
  }
  const done = count(job.done);
  const isCounted = job.total && job.percent !== undefined;
  const isBegun = job.done !== undefined; // a job whose code or results travel counts nothing
  const text = isCounted ? `${job.percent.toFixed(1)} %, ${done} of ${count(job.total)}` : isBegun ? `${done} done` : "";
  if (held.note.textContent !== text) held.note.textContent = text;
  held.bar.setAttribute("aria-label", `${job.name || job.id}: ${text}`);
  if (isCounted) held.bar.value = job.percent; else held.bar.removeAttribute("value");
  return held.progress;
}

function drawJobs() {
  const body = $("job-rows");
  for (const [number, held] of drawn.jobs) {
    if (!jobs.has(number)) { held.row.remove(); drawn.jobs.delete(number); }
  }
  for (const [number, job] of [...jobs].sort((a, b) => a[0] - b[0])) {
    let held = drawn.jobs.get(number);
    if (!held) {
      held = { row: document.createElement("tr"), button: document.createElement("button") };
      held.button.type = "button";
      held.button.textContent = "Cancel";
      held.button.addEventListener("click", () => ask(number));
      drawn.jobs.set(number, held);
      body.append(held.row);
    }
    held.button.setAttribute("aria-label", `Cancel ${job.name || job.id}`);
    write(held.row, [
      cell("Job", job.name || job.id, job.name ? job.id : ""),
      cell("Submitted by", job.user === undefined ? "" : `${job.user}@${job.host}`, job.pid ? `pid ${job.pid}` : ""),
      cell("Phase", job.phase),
      { element: progressOf(job, held) },
      cell("Left", span(job.left_s)),
      cell("Running", job.running === undefined ? "" : count(job.running)),
      cell("Skipped", count(job.skipped), "", job.skipped ? "warn" : ""),
      cell("Spilled", job.spilled_bytes ? size(job.spilled_bytes) : "0"),
      cell("For", since(job)),
      { element: held.button },
    ]);
    held.row.children[3].dataset.label = "Progress";
    held.row.children[9].dataset.label = "Order";
  }
  $("jobs-table").hidden = !jobs.size;
  $("no-jobs").hidden = jobs.size > 0;
}

function matches(worker, words) {
  const text = `${worker.name} ${worker.address || ""} ${worker.state || ""} ${worker.why || ""}`.toLowerCase();
  return words.every((word) => text.includes(word));
}

function drawWorkers() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = [...workers.values()].filter((worker) => matches(worker, words)).sort((a, b) => a.number - b.number);
  const listed = found.slice(0, shownWorkers);
  const wanted = new Set(listed.map((worker) => worker.number));
  for (const [number, held] of drawn.workers) {
    if (!wanted.has(number)) { held.remove(); drawn.workers.delete(number); }
  }
  const body = $("worker-rows");
  listed.forEach((worker, at) => {
    let row = drawn.workers.get(worker.number);
    if (!row) {
      row = document.createElement("tr");
      drawn.workers.set(worker.number, row);
    }
    if (body.children[at] !== row) body.insertBefore(row, body.children[at] || null);
    write(row, [
      cell("Worker", worker.name),
      cell("Address", worker.address),
      cell("Slots busy", `${count(worker.busy)} of ${count(worker.slots)}`),
      cell("Cores used", worker.cores === undefined ? "" : worker.cores.toFixed(1)),
      cell("Memory", size(worker.memory_bytes)),
      cell("State", worker.state, worker.why, worker.state === "ready" ? "" : "warn"),
      cell("Deaths", count(worker.deaths), "", worker.deaths ? "bad" : ""),
      cell("Last death", worker.last_death, worker.last_death ? `${span(now() - worker.last_death_at)} ago` : ""),
      cell("For", since(worker)),
      cell("Version", worker.version),
    ]);
  });
  $("workers-table").hidden = !listed.length;
  $("no-workers").hidden = workers.size > 0;
  $("more").hidden = found.length <= listed.length;
  $("workers-count").textContent =
    found.length === workers.size && listed.length === found.length
      ? "" : `showing ${count(listed.length)} of ${count(found.length)}${words.length ? " found" : ""}`;
}

function drawTotals() {
  let slots = 0, busy = 0, deaths = 0;
  for (const worker of workers.values()) {
    slots += worker.slots; busy += worker.busy || 0; deaths += worker.deaths || 0;
  }
  const totals = [
    ["Workers", count(workers.size)], ["Slots busy", `${count(busy)} of ${count(slots)}`],
    ["Jobs", count(jobs.size)], ["Deaths", count(deaths)],
    ["Memory of the server", size((server.segment_bytes || 0) + (server.batch_bytes || 0))],
    ["Server", server.host === undefined ? "" : `${server.host}, ${server.version}`],
    ["Up for", server.since === undefined ? "" : span(now() - server.since)],
  ];
  const list = $("totals");
  totals.forEach(([name, value], at) => {
    let box = list.children[at];
    if (!box) {
      box = document.createElement("div");
      box.append(document.createElement("dt"), document.createElement("dd"));
      list.append(box);
    }
    if (box.firstChild.textContent !== name) box.firstChild.textContent = name;
    if (box.lastChild.textContent !== value) box.lastChild.textContent = value;
  });
  return { slots, busy };
}

function drawHistory() {
  const most = Math.max(1, ...history.map((point) => point.slots));
  const path = (value) => {
    const step = 600 / (Math.max(FIRST_HISTORY, history.length) - 1);
    const first = 600 - step * (history.length - 1);
    const points = history.map((point, at) => `${(first + step * at).toFixed(1)},${(60 - (56 * value(point)) / most).toFixed(1)}`);
    return points.length ? `M${first.toFixed(1)},60 L${points.join(" L")} L600,60 Z` : "";
  };
  $("history-slots").setAttribute("d", path((point) => point.slots));
  $("history-busy").setAttribute("d", path((point) => point.busy));
  const last = history[history.length - 1] || { busy: 0, slots: 0 };
  const text = `${count(last.busy)} of ${count(last.slots)} slots are busy`;
  $("history-title").textContent = `${text}; the line shows the last ${span(history.length)}`;
  $("history-text").textContent = `Busy slots in the last ${span(history.length)}, up to ${count(most)}`;
}

function drawState() {
  const shown = $("state");
  const text = state.connected ? "connected" : state.why;
  if (shown.textContent !== text) shown.textContent = text;
  shown.className = state.connected ? "good" : "bad";
}

function drawLeft() {
  const rows = server.left || [];
  $("left-section").hidden = !rows.length;
  $("left").replaceChildren(...rows.slice().reverse().map((row) => {
    const item = document.createElement("li");
    item.textContent = `${row.name}, ${span(now() - row.at)} ago: ${row.why}`;
    return item;
  }));
}

function draw() {
  drawState(); drawJobs(); drawWorkers(); drawTotals(); drawLeft();
}

function tell(text) {
  $("news").textContent = text;
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => { $("news").textContent = ""; }, 8000);
}

function apply(change) {
  if (change.whole) { jobs.clear(); workers.clear(); }
  $("address").textContent = change.address;
  document.title = `mmgevent ${change.address}`;
  if (change.state) state = change.state;
  if (change.server) server = change.server;
  for (const [rows, part] of [[jobs, change.jobs], [workers, change.workers]]) {
    if (!part) continue;
    for (const number of part.gone) {
      if (rows === jobs && jobs.has(number)) tell(`${jobs.get(number).name || jobs.get(number).id} is over`);
      rows.delete(number);
    }
    for (const row of part.rows) rows.set(row.number, row);
  }
  draw();
}

function ask(number) {
  const job = jobs.get(number);
  if (!job) return;
  asked = job;
  $("ask-text").textContent = `${job.name || job.id}, submitted by ${job.user}@${job.host}. Its results are lost, and who submitted it is told that you cancelled it.`;
  $("ask").showModal();
}

async function cancelAsked() {
  const job = asked;
  $("ask").close();
  try {
    const answer = await fetch("api/cancel", {
      method: "POST",
      headers: { "Authorization": `Bearer ${token}`, "Content-Type": "application/json" },
      body: JSON.stringify({ job: job.id }),
    });
    const said = await answer.json();
    tell(answer.ok ? `${job.name || job.id} is cancelled` : said.error);
  } catch (error) {
    tell(`not cancelled: ${error.message}`);
  }
}

function listen() {
  const events = new EventSource(`api/events?token=${encodeURIComponent(token)}`);
  events.addEventListener("message", (event) => apply(JSON.parse(event.data)));
  events.addEventListener("error", () => {
    const isOver = events.readyState === EventSource.CLOSED;
    state = { connected: false, why: isOver ? "this dashboard has ended: start mmg-dashboard again, and open its address" : "the dashboard does not answer: trying again" };
    drawState();
  });
}

$("ask-no").addEventListener("click", () => $("ask").close());
$("ask-yes").addEventListener("click", cancelAsked);
$("filter").addEventListener("input", () => { shownWorkers = FIRST_WORKERS; drawWorkers(); });
$("more").addEventListener("click", () => { shownWorkers *= 2; drawWorkers(); });
setInterval(() => {
  const { slots, busy } = drawTotals();
  history.push({ slots, busy });
  if (history.length > HISTORY) history.shift();
  drawHistory();
  drawJobs();
}, 1000);
draw();
listen();
