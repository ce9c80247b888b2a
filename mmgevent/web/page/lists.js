// The cluster, its jobs and its workers.

const HISTORY = 600; // points of the history: ten minutes at one a second
const FIRST_HISTORY = 120; // points that the chart has room for at first
const FIND_MS = 300; // a pause after which a word is searched for
const jobs = new Map();
const workers = new Map(); // the busiest
const history = [];
const drawn = { jobs: new Map(), workers: new Map(), ended: new Map() };
let totals = { workers: 0, slots: 0, busy: 0, deaths: 0, cores: 0, memory_bytes: 0, states: {} };
let found = null; // the workers that the filter found: {workers, found}
let ended = [];
let server = {};
let state = { connected: false, why: "connecting" };

function progressOf(job, row) {
  if (!row.progress) {
    row.progress = make("div");
    row.bar = make("progress");
    row.bar.max = 100;
    row.note = make("small");
    row.progress.append(row.bar, row.note);
  }
  const done = count(job.done);
  const isCounted = job.percent !== undefined;
  const isBegun = job.done !== undefined; // a job whose code or results travel counts nothing
  const ofAll = job.total ? `${done} of ${count(job.total)}` : isBegun ? `${done} done` : "";
  const text = isCounted ? `${job.percent.toFixed(1)} %, ${ofAll}` : ofAll;
  say(row.note, text);
  row.bar.setAttribute("aria-label", `${job.name || job.id}: ${text}`);
  if (isCounted) row.bar.value = job.percent; else row.bar.removeAttribute("value");
  return row.progress;
}

function nameOf(job, row) {
  if (!row.choose) {
    row.choose = make("div");
    row.button = make("button", "name");
    row.button.type = "button";
    row.button.addEventListener("click", () => choose(row.job));
    row.small = make("small");
    row.choose.append(row.button, row.small);
  }
  row.job = job.id;
  say(row.button, job.name || job.id);
  say(row.small, job.name ? job.id : "");
  const isChosen = chosen === job.id;
  row.button.setAttribute("aria-pressed", isChosen);
  row.classList.toggle("chosen", isChosen);
  return row.choose;
}

function drawJobs() {
  const ordered = [...jobs.values()].sort((a, b) => a.number - b.number);
  keep($("job-rows"), drawn.jobs, ordered, (job) => job.number, (job) => {
    const row = make("tr");
    row.cancel = make("button", "", "Cancel");
    row.cancel.type = "button";
    row.cancel.addEventListener("click", () => ask(job.number));
    return row;
  }, (row, job) => {
    row.cancel.setAttribute("aria-label", `Cancel ${job.name || job.id}`);
    write(row, [
      { label: "Job", element: nameOf(job, row) },
      cell("Submitted by", job.user === undefined ? "" : `${job.user}@${job.host}`, job.pid ? `pid ${job.pid}` : ""),
      cell("Phase", job.phase),
      { label: "Progress", element: progressOf(job, row) },
      cell("Left", job.left_s === undefined ? "" : span(Math.max(1, job.left_s))),
      number_cell("Running", job.running === undefined ? "" : count(job.running)),
      number_cell("Skipped", count(job.skipped), job.skipped ? "warn" : ""),
      number_cell("Spilled", job.spilled_bytes ? size(job.spilled_bytes) : "0"),
      cell("For", since(job)),
      { label: "Order", element: row.cancel },
    ]);
  });
  $("jobs-table").hidden = !jobs.size;
  $("no-jobs").hidden = jobs.size > 0;
}

function drawEnded() {
  keep($("ended-rows"), drawn.ended, ended, (job) => job.id, () => make("tr"), (row, job) => write(row, [
    { label: "Job", element: nameOf(job, row) },
    cell("Outcome", job.outcome, "", job.outcome === "done" ? "good" : "bad"),
    cell("Ended", ago(job.ended)),
    cell("Took", span(job.ended - job.since)),
    cell("Submitted by", job.submitter),
    cell("Error", job.error),
  ]));
  say($("ended-count"), count(ended.length));
  $("ended").hidden = !ended.length;
}

// A small chart of the last values, the largest at its top.
function sparkOf(row, name, values, text) {
  const held = row[name] || (row[name] = make("div"));
  if (!held.text) {
    held.text = make("span");
    held.svg = draw_svg("svg", { class: "spark", viewBox: "0 0 60 16", preserveAspectRatio: "none", "aria-hidden": "true" });
    held.path = draw_svg("path", {});
    held.svg.append(held.path);
    held.append(held.text, held.svg);
  }
  say(held.text, text);
  const points = values || [];
  held.svg.toggleAttribute("hidden", points.length < 2);
  const most = Math.max(1e-9, ...points);
  const step = 60 / Math.max(12, points.length - 1);
  const line = points.map((value, at) => `${(at * step).toFixed(1)},${(15 - (14 * value) / most).toFixed(1)}`);
  held.path.setAttribute("d", line.length > 1 ? `M${line.join(" L")}` : "");
  return held;
}

function drawWorkers() {
  const rows = found ? found.workers : [...workers.values()];
  rows.sort((a, b) => (b.busy || 0) - (a.busy || 0) || a.number - b.number);
  keep($("worker-rows"), drawn.workers, rows, (worker) => worker.number, () => make("tr"), (row, worker) => write(row, [
    cell("Worker", worker.name, worker.address),
    cell("Slots busy", `${count(worker.busy)} of ${count(worker.slots)}`),
    { label: "Cores used", element: sparkOf(row, "cores", worker.cores_lately, worker.cores === undefined ? "" : worker.cores.toFixed(1)) },
    { label: "Memory", element: sparkOf(row, "memory", worker.memory_lately, size(worker.memory_bytes)) },
    cell("State", worker.state, worker.why, worker.state === "ready" ? "" : "warn"),
    number_cell("Deaths", count(worker.deaths), worker.deaths ? "bad" : ""),
    cell("Last death", worker.last_death, worker.last_death ? ago(worker.last_death_at) : ""),
    cell("For", since(worker), worker.version),
  ]));
  $("workers-table").hidden = !rows.length;
  const all = found ? found.found : totals.workers;
  $("no-workers").hidden = rows.length > 0;
  say($("no-workers"), found && totals.workers ? "No worker has these words." : "No worker is connected.");
  say($("workers-count"), rows.length === all && !found ? "" : `the ${count(rows.length)} busiest of ${count(all)}${found ? " found" : ""}`);
}

async function findWorkers() {
  const words = $("filter").value.trim();
  if (!words) { found = null; drawWorkers(); return; }
  try {
    const answer = await fetch(`api/workers?find=${encodeURIComponent(words.slice(0, 100))}`, { headers: { "Authorization": `Bearer ${token}` } });
    if (answer.ok && words === $("filter").value.trim()) { found = await answer.json(); drawWorkers(); }
  } catch (error) { /* the stream says that the dashboard is lost */ }
}

function drawTotals() {
  const facts = [
    ["Workers", count(totals.workers)], ["Slots busy", `${count(totals.busy)} of ${count(totals.slots)}`],
    ["Cores used", totals.cores.toFixed(1)], ["Memory of executors", size(totals.memory_bytes)],
    ["Jobs", count(jobs.size)], ["Deaths", count(totals.deaths)],
    ["Memory of the server", size((server.segment_bytes || 0) + (server.batch_bytes || 0))],
    ["Server", server.host === undefined ? "" : [server.host, server.version, server.since === undefined ? "" : `up ${span(now() - server.since)}`].filter(Boolean).join(", ")],
  ];
  for (const [name, number] of Object.entries(totals.states)) facts.splice(1, 0, [`Workers ${name}`, count(number)]);
  const list = $("totals");
  while (list.children.length > facts.length) list.lastChild.remove();
  facts.forEach(([name, value], at) => {
    let box = list.children[at];
    if (!box) {
      box = make("div");
      box.append(make("dt"), make("dd"));
      list.append(box);
    }
    say(box.firstChild, name);
    say(box.lastChild, value);
  });
}

function drawHistory() {
  const first = history.length ? history[0].at : now();
  const length = Math.max(FIRST_HISTORY, now() - first);
  const most = Math.max(1, ...history.map((point) => point.slots));
  const path = (value) => {
    // Steps: nothing has changed between two points.
    const points = history.map((point) => `H${(600 - (600 * (now() - point.at)) / length).toFixed(1)} V${(60 - (56 * value(point)) / most).toFixed(1)}`);
    return points.length ? `M0,60 ${points.join(" ")} H600 V60 Z` : "";
  };
  $("history-slots").setAttribute("d", path((point) => point.slots));
  $("history-busy").setAttribute("d", path((point) => point.busy));
  const last = history[history.length - 1] || { busy: 0, slots: 0 };
  const reach = span(Math.max(1, now() - first));
  say($("history-title"), `${count(last.busy)} of ${count(last.slots)} slots are busy; the chart shows the last ${reach}`);
  say($("history-text"), `Busy slots in the last ${reach}, up to ${count(most)}`);
}

function drawState() {
  say($("state"), state.connected ? "connected" : state.why);
  $("state").className = state.connected ? "good" : "bad";
}

function drawLeft() {
  const rows = server.left || [];
  $("left-section").hidden = !rows.length;
  $("left").replaceChildren(...rows.slice().reverse().map((row) => make("li", "", `${row.name}, ${ago(row.at)}: ${row.why}`)));
}
