
"use strict";
// Texts come from other people's programs: they are put into the page as text, never as markup.

const token = new URLSearchParams(location.search).get("token") || "";
const $ = (id) => document.getElementById(id);
const now = () => Date.now() / 1000;

function count(number) {
  return Number(number || 0).toLocaleString("en");
}

function size(bytes) {
  if (bytes === undefined) return "";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return `${unit && bytes < 10 ? bytes.toFixed(1) : count(Math.round(bytes))} ${units[unit]}`;
}

function span(seconds) {
  if (seconds === undefined || !isFinite(seconds)) return "";
  seconds = Math.max(0, seconds);
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  seconds = Math.round(seconds);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${count(Math.floor(seconds / 86400))} days`;
}

function ago(moment) {
  return moment === undefined || !isFinite(moment) ? "" : `${span(Math.round(Math.max(0, now() - moment)) || 0)} ago`.replace("0 ms ago", "just now");
}

const since = (row) => (row.since === undefined ? "" : span(Math.max(1, now() - row.since)));
const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function draw_svg(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function cell(label, content, small, kind) {
  return { label, content: String(content === undefined ? "" : content), small: small || "", kind: kind || "" };
}

// Write a table row anew only where a text has changed, so that focus and selection stay.
function write(row, cells) {
  while (row.children.length < cells.length) row.append(document.createElement("td"));
  cells.forEach((given, at) => {
    const td = row.children[at];
    td.dataset.label = given.label;
    if (given.number) td.className = "num";
    if (given.element) {
      if (td.firstElementChild !== given.element) td.replaceChildren(given.element);
      return;
    }
    const key = `${given.kind}\u0000${given.content}\u0000${given.small}`;
    if (td.dataset.key === key) return;
    td.dataset.key = key;
    td.replaceChildren();
    if (!given.content && !given.small) return;
    const box = make("div", given.kind, given.content);
    if (given.small) box.append(make("small", "", given.small));
    td.append(box);
  });
}

const number_cell = (label, content, kind) => ({ ...cell(label, content, "", kind), number: true });

// Keep one element for each key: `held` is a Map, `update(element, item)` fills it.
function keep(parent, held, items, key_of, create, update) {
  const wanted = new Map(items.map((item) => [key_of(item), item]));
  for (const [key, element] of held) {
    if (!wanted.has(key)) { element.remove(); held.delete(key); }
  }
  let at = 0;
  for (const [key, item] of wanted) {
    let element = held.get(key);
    if (!element) { element = create(item); held.set(key, element); }
    if (parent.children[at] !== element) parent.insertBefore(element, parent.children[at] || null);
    update(element, item);
    at += 1;
  }
}

function tell(text) {
  $("news").textContent = text;
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => { $("news").textContent = ""; }, 8000);
}
