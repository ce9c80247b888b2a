// One job that somebody looks into: lanes, partitions and keys, errors, lines.

const LANE = 20; // height of a lane, pixels
const WIDTH = 1000; // width of the chart in its own units; the page stretches it
const MIN_WIDTH = 1.2; // of a bar
const MARK_WIDTH = 4; // of what went wrong
const MAX_LINES = 1000; // lines that are drawn
const LEVELS = { DEBUG: 10, INFO: 20, WARNING: 30, ERROR: 40, CRITICAL: 50 };
const SHAPES = { // outcome: [class, top, height]
  duplicate: ["dup", 11, 5], revoked: ["dup", 11, 5], failed: ["bad", 1, 18], died: ["bad", 1, 18],
  lost: ["bad", 1, 18], unprepared: ["bad", 1, 18],
};
const held = { lanes: new Map(), plots: new Map(), rows: new Map(), skew: new Map(), keys: new Map(), errors: new Map() };
let chosen = ""; // id of the job
let isPicked = false; // by a person
let view = {};
let lines = [];
let plot = []; // the lanes as they are drawn, for the readout

function choose(id) {
  if (chosen === id) return;
  isPicked = true;
  watch(id);
  $("view").focus();
}

function watch(id) {
  chosen = id;
  view = {};
  lines = [];
  $("log").replaceChildren();
  listen();
  draw();
}

function applyView(change) {
  if (change.job !== chosen) return;
  if (change.whole) { view = {}; lines = []; $("log").replaceChildren(); }
  for (const name of ["error", "over", "errors", "work", "running", "shape", "lost_lines", "unseen_tasks", "lost_bars"]) {
    if (change[name] !== undefined) view[name] = change[name];
  }
  if (change.lines) addLines(change.lines);
  drawView();
}

// Return the lanes with what runs now, and the first and last moment.
function lanesOf() {
  const lanes = ((view.work || {}).lanes || []).map((lane) => ({ ...lane, bars: lane.bars.slice(), runs: null }));
  const known = new Map(lanes.map((lane) => [`${lane.worker}\u0000${lane.slot}`, lane]));
  let hidden = 0;
  for (const row of view.over ? [] : view.running || []) {
    let lane = known.get(`${row.worker}\u0000${row.slot}`);
    if (!lane && lanes.length < 200) {
      lane = { worker: row.worker, slot: row.slot, tasks: 0, busy_s: 0, duplicates: 0, faults: 0, bars: [], runs: null };
      lanes.push(lane);
    }
    if (lane) lane.runs = row; else hidden += 1;
  }
  lanes.sort((a, b) => (a.worker < b.worker ? -1 : a.worker > b.worker ? 1 : a.slot - b.slot));
  let first = Infinity, last = view.over ? -Infinity : now();
  for (const lane of lanes) {
    for (const bar of lane.bars) { first = Math.min(first, bar[0]); last = Math.max(last, bar[1]); }
    if (lane.runs) first = Math.min(first, lane.runs.start);
  }
  return { lanes, first, last: Math.max(last, first + 0.001), hidden };
}

function rect(x, width, top, height) {
  return `M${x.toFixed(1)} ${top}h${width.toFixed(1)}v${height}h-${width.toFixed(1)}z`;
}

function drawLanes() {
  const { lanes, first, last, hidden } = lanesOf();
  plot = lanes;
  $("lanes").hidden = $("lanes-details").hidden = !lanes.length;
  $("no-lanes").hidden = lanes.length > 0;
  if (!lanes.length) return;
  const at = (moment) => Math.min(WIDTH, Math.max(0, ((moment - first) / (last - first)) * WIDTH));
  const svg = $("lane-plot");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${LANE * lanes.length}`);
  svg.setAttribute("height", LANE * lanes.length);
  plot.first = first; plot.last = last;
  const key = (lane) => `${lane.worker}\u0000${lane.slot}`;
  keep($("lane-names"), held.lanes, lanes, key, (lane) => {
    const item = make("li");
    item.append(make("span", "", lane.worker), make("span", "", `slot ${lane.slot}`));
    return item;
  }, () => {});
  keep(svg, held.plots, lanes, key, () => {
    const group = draw_svg("g", {});
    group.kinds = {};
    for (const kind of ["lane", "run", "map", "reduce", "dup", "bad"]) {
      group.kinds[kind] = draw_svg("path", { class: kind });
      group.append(group.kinds[kind]);
    }
    return group;
  }, (group, lane) => {
    group.setAttribute("transform", `translate(0 ${LANE * lanes.indexOf(lane)})`);
    const paths = { lane: rect(0, WIDTH, 9.5, 1), run: "", map: "", reduce: "", dup: "", bad: "" };
    for (const [start, end, phase, outcome] of lane.bars) {
      const [kind, top, height] = SHAPES[outcome] || [phase === "reduce" ? "reduce" : "map", 4, 12];
      const least = kind === "bad" ? MARK_WIDTH : MIN_WIDTH;
      const width = Math.max(least, at(end) - at(start));
      paths[kind] += rect(Math.min(at(start), WIDTH - least), width, top, height);
    }
    if (lane.runs) paths.run = rect(Math.min(at(lane.runs.start), WIDTH - MIN_WIDTH), Math.max(MIN_WIDTH, WIDTH - at(lane.runs.start)), 4, 12);
    for (const [kind, d] of Object.entries(paths)) group.kinds[kind].setAttribute("d", d);
  });
  $("lane-axis").replaceChildren(...[0, 1, 2, 3, 4].map((part) => make("span", "", part ? span(((last - first) * part) / 4) : "0")));
  drawLaneTexts(lanes, last - first, hidden);
}

function drawLaneTexts(lanes, seconds, hidden) {
  const work = view.work || {};
  const sum = (name) => lanes.reduce((all, lane) => all + lane[name], 0);
  const twice = lanes.reduce((all, lane) => all + lane.bars.filter((bar) => (SHAPES[bar[3]] || [])[0] === "dup").length, 0);
  const texts = [`${plural(lanes.length, "slot")}, ${plural(sum("tasks"), "task")} in ${span(seconds)}, ${count(sum("faults"))} died, failed or lost, ${count(twice)} duplicate or revoked.`];
  const more = hidden + (work.hidden_lanes || 0);
  if (work.hidden_tasks || more) texts.push(`And ${more ? `${count(more)} more slots` : "more slots"}, with ${plural(work.hidden_tasks || 0, "task")}, which are not drawn.`);
  if (view.unseen_tasks) texts.push(`${plural(view.unseen_tasks, "task")} of further slots were only counted.`);
  if (work.hidden_marks) texts.push(`${plural(work.hidden_marks, "task")} more failed or ran twice and are not drawn.`);
  if (work.gap_s) texts.push(`Tasks less than ${span(work.gap_s)} apart are one bar.`);
  if (view.lost_bars) texts.push("The server no longer remembers what was before.");
  say($("lanes-text"), texts.join(" "));
  keep($("lane-rows"), held.rows, $("lanes-details").open ? lanes : [], (lane) => `${lane.worker}\u0000${lane.slot}`, () => make("tr"), (row, lane) => write(row, [
    cell("Slot", lane.worker, `slot ${lane.slot}`),
    cell("Runs now", lane.runs ? `${lane.runs.phase} task ${lane.runs.task}` : "", lane.runs ? `for ${span(now() - lane.runs.start)}` : ""),
    number_cell("Tasks", count(lane.tasks)),
    cell("Busy", span(lane.busy_s), `${Math.min(100, (100 * lane.busy_s) / seconds).toFixed(0)} % of the time`),
    number_cell("Died or failed", count(lane.faults), lane.faults ? "bad" : ""),
    number_cell("Duplicate or revoked", count(lane.bars.filter((bar) => (SHAPES[bar[3]] || [])[0] === "dup").length)),
  ]));
}

function readout(event) {
  const box = $("lane-plot").getBoundingClientRect();
  const lane = plot[Math.floor((event.clientY - box.top) / LANE)];
  const moment = plot.first + ((event.clientX - box.left) / box.width) * (plot.last - plot.first);
  const slack = ((plot.last - plot.first) * 3) / box.width;
  if (!lane) return;
  const bar = lane.bars.find(([start, end]) => start - slack <= moment && moment <= end + slack);
  const name = `${lane.worker}, slot ${lane.slot}`;
  if (bar) {
    const [start, end, phase, outcome, tasks, busy, task] = bar;
    say($("lane-readout"), `${name}: ${phase} ${tasks === 1 ? `task ${task}` : plural(tasks, "task")}, ${outcome}, ${span(tasks === 1 ? end - start : busy)}`);
  } else say($("lane-readout"), lane.runs && moment >= lane.runs.start ? `${name}: ${lane.runs.phase} task ${lane.runs.task} runs` : name);
}

function drawBars(table, rows, map, key, label, value, text) {
  const most = Math.max(1, ...rows.map(value));
  keep($(`${table}-rows`), map, rows, key, () => {
    const row = make("tr");
    row.svg = draw_svg("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" });
    row.rect = draw_svg("rect", { x: 0, y: 0, height: 8, rx: 0 });
    row.svg.append(row.rect);
    return row;
  }, (row, item) => {
    write(row, [cell("", label(item)), number_cell("", text(item)), { label: "", element: row.svg }]);
    row.rect.setAttribute("width", Math.max(0.5, (100 * value(item)) / most).toFixed(1));
  });
  $(`${table}-table`).hidden = !rows.length;
}

function drawShape() {
  const shape = view.shape || {}, largest = (shape.largest || []).slice(0, 10), keys = (shape.keys || []).slice(0, 10);
  drawBars("skew", largest, held.skew, (row) => row.partition, (row) => String(row.partition), (row) => row.bytes, (row) => size(row.bytes));
  drawBars("keys", keys, held.keys, (row) => `${row.key}\u0000${row.values}\u0000${row.worker}`, (row) => row.key, (row) => row.values, (row) => count(row.values));
  const mean = shape.count ? shape.bytes / shape.count : 0;
  say($("skew-text"), mean && largest.length
    ? `${plural(shape.count, "partition")}, ${size(shape.bytes)}. The largest has ${(largest[0].bytes / mean).toFixed(1)} times the mean of ${size(mean)}.`
    : "Nothing has come out of map yet.");
  say($("keys-text"), keys.length ? "" : "Keys are counted in reduce, for jobs with --job-log or --report.");
}

function drawErrors() {
  const job = [...jobs.values(), ...ended].find((each) => each.id === chosen) || {};
  const who = job.user === undefined ? job.submitter : `${job.user}@${job.host}`;
  keep($("errors"), held.errors, view.errors || [], (row) => row.number, () => {
    const item = make("li");
    for (const kind of ["what", "text", "faint", "faint replay"]) item.append(make("p", kind));
    return item;
  }, (item, row) => {
    const [what, text, where, replay] = item.children;
    const place = `${row.function ? `${row.function}: ` : ""}${row.error_type}${row.line ? ` at ${row.line}` : ""}`;
    say(what, `${count(row.count)} × ${place}`);
    say(text, row.error || "");
    const facts = [];
    if (row.set_aside) facts.push(`${plural(row.set_aside, "item")} set aside`);
    if (row.key) facts.push(`such as ${row.key}`);
    if (row.worker) facts.push(`on ${row.worker}`);
    facts.push(`last ${ago(row.last_at)}`);
    say(where, facts.join(", "));
    replay.hidden = !row.replay && !row.set_aside && job.outcome === "done"; // tried again, and done
    const told = row.replay ? "" : `. The job names the file when it ends${who ? `, to ${who}` : ""}.`;
    const command = row.replay || "mmg-run --replay FILE";
    if (replay.dataset.key !== command + told) {
      replay.dataset.key = command + told;
      replay.replaceChildren("Run it again: ", make("code", "", command), told);
    }
  });
  $("no-errors").hidden = (view.errors || []).length > 0;
}

function isShown(line) {
  const worker = $("log-worker").value.trim().toLowerCase(), level = Number($("log-level").value || 0);
  return (!worker || (line.worker || "").toLowerCase().includes(worker)) && (!level || (LEVELS[line.level] || 0) >= level);
}

function itemOf(line) {
  const item = make("li");
  const moment = new Date((line.at || 0) * 1000);
  const who = `${line.worker || ""}${line.item ? ` ${line.item}` : ""}`;
  const shownWho = make("span", "who", who);
  shownWho.title = who;
  item.append(make("span", "when", isNaN(moment) ? "" : moment.toTimeString().slice(0, 8)), shownWho,
    make("span", `what${LEVELS[line.level] >= 40 ? " bad" : LEVELS[line.level] === 30 ? " warn" : ""}`, line.text));
  return item;
}

function addLines(fresh) {
  const log = $("log");
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 30;
  for (const line of fresh) {
    lines.push(line);
    if (isShown(line)) log.append(itemOf(line));
  }
  lines = lines.slice(-MAX_LINES);
  while (log.children.length > MAX_LINES) log.firstChild.remove();
  countLines();
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

function countLines() {
  const shown = $("log").children.length;
  const texts = [shown === lines.length ? plural(shown, "line") : `${count(shown)} of ${plural(lines.length, "line")}`];
  if (view.lost_lines) texts.push(`${count(view.lost_lines)} more were dropped or are forgotten`);
  say($("log-count"), lines.length || view.lost_lines ? texts.join("; ") : "");
  $("log").hidden = !lines.length;
  $("no-lines").hidden = lines.length > 0;
}

function filterLines() {
  $("log").replaceChildren(...lines.filter(isShown).map(itemOf));
  $("log").scrollTop = $("log").scrollHeight;
  countLines();
}

function drawView() {
  $("view").hidden = !chosen;
  if (!chosen) return;
  const job = [...jobs.values(), ...ended].find((each) => each.id === chosen);
  say($("view-title"), job ? job.name || job.id : chosen);
  say($("view-note"), view.error ? `Nothing is known of it: ${view.error}` : job && job.outcome ? `${job.id}, ${job.outcome} ${ago(job.ended)}${job.error ? `: ${job.error}` : ""}` : job ? job.id : "");
  $("view-note").className = job && job.outcome && job.outcome !== "done" ? "bad" : "faint";
  drawLanes(); drawShape(); drawErrors(); countLines();
}
