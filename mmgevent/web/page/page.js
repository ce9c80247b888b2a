// The stream of changes, and what people do with the page.

let asked = null; // the job that the dialog is about
let events = null;

function draw() {
  drawState(); drawJobs(); drawEnded(); drawWorkers(); drawTotals(); drawLeft(); drawView();
}

function apply(change) {
  if (change.whole) { jobs.clear(); workers.clear(); }
  say($("address"), change.address);
  document.title = `mmgevent ${change.address}`;
  if (change.state) state = change.state;
  if (change.server) server = change.server;
  if (change.totals) totals = change.totals;
  if (change.ended) ended = change.ended;
  if (change.busy_lately && !history.length) {
    for (const [at, busy, slots] of change.busy_lately) if (at <= now() && now() - at < HISTORY) history.push({ at, busy, slots });
  }
  for (const [rows, part] of [[jobs, change.jobs], [workers, change.workers]]) {
    if (!part) continue;
    for (const number of part.gone) {
      if (rows === jobs && jobs.has(number)) tell(`${jobs.get(number).name || jobs.get(number).id} is over`);
      rows.delete(number);
    }
    for (const row of part.rows) rows.set(row.number, row);
  }
  if (!isPicked && jobs.size && ![...jobs.values()].some((job) => job.id === chosen)) watch([...jobs.values()][0].id);
  if (change.view) applyView(change.view);
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
  if (events) events.close();
  const about = chosen ? `&job=${encodeURIComponent(chosen)}` : "";
  const mine = events = new EventSource(`api/events?token=${encodeURIComponent(token)}${about}`);
  events.addEventListener("message", (event) => { if (mine === events) apply(JSON.parse(event.data)); });
  events.addEventListener("error", () => {
    if (mine !== events) return;
    const isOver = events.readyState === EventSource.CLOSED;
    state = { connected: false, why: isOver ? "this dashboard has ended, or too many pages are open: start mmg-dashboard again, and open its address" : "the dashboard does not answer: trying again" };
    drawState();
  });
}

$("ask-no").addEventListener("click", () => $("ask").close());
$("ask-yes").addEventListener("click", cancelAsked);
$("filter").addEventListener("input", () => { clearTimeout(findWorkers.timer); findWorkers.timer = setTimeout(findWorkers, FIND_MS); });
$("log-worker").addEventListener("input", filterLines);
$("log-level").addEventListener("change", filterLines);
$("lanes-details").addEventListener("toggle", drawLanes);
$("lane-plot").addEventListener("pointermove", readout);
$("lane-plot").addEventListener("pointerleave", () => say($("lane-readout"), ""));
setInterval(() => {
  if (state.connected) history.push({ at: now(), busy: totals.busy, slots: totals.slots });
  while (history.length > HISTORY || (history.length && now() - history[0].at > HISTORY)) history.shift();
  drawTotals(); drawHistory(); drawJobs(); drawEnded(); drawView();
  if (found) findWorkers();
}, 1000);
draw();
listen();
