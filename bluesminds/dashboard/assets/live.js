// The list of requests. Live: new rows appear at the top while the switch is on and the page is visible.

import { toast } from "./app.js";

const MAX_ROWS = 200;
const box = document.querySelector("[data-live]");
const body = document.querySelector(".rows tbody");
const home = location.pathname;
const waiting = [];
let source = null;

// Names come from the rows and the filter of the page; a new key is shown by the end of its id.
function name(cell, id, filter) {
  if (!cell) return;
  const known = [...document.querySelectorAll(".rows td a")].find((link) => link.href.endsWith(id));
  const chosen = document.querySelector(`option[value="${CSS.escape(id)}"]`);
  const link = Object.assign(document.createElement("a"), { href: known?.href ?? filter + id });
  link.textContent = known?.textContent ?? chosen?.textContent ?? `…${id.slice(-8)}`;
  cell.replaceChildren(id ? link : "–");
}

function fill(row) {
  const made = document.getElementById("row").content.cloneNode(true).firstElementChild;
  made.dataset.row = row.id;
  for (const cell of made.querySelectorAll("[data-cell]")) if (cell.dataset.cell in row) cell.textContent = row[cell.dataset.cell];
  const link = made.querySelector("[data-cell=when]");
  const time = document.createElement("time");
  time.dateTime = row.iso;
  time.textContent = row.when;
  link.href = `/dashboard/requests/${row.id}`;
  link.replaceChildren(time);
  made.querySelector("[data-cell=status]").classList.add(row.tone);
  name(made.querySelector("[data-cell=key]"), row.key_id, `${home}?key=`);
  name(made.querySelector("[data-cell=user]"), row.user_id, `${home}?user=`);
  const button = made.querySelector("[data-copy]");
  if (button) button.dataset.copy = row.request_id;
  button?.setAttribute("aria-label", `Copy the request id ${row.request_id}`);
  return made;
}

// A row that took long belongs below newer ones.
function add(row) {
  if (body.querySelector(`[data-row="${CSS.escape(row.id)}"]`)) return;
  const before = [...body.rows].find((one) => one.querySelector("time").dateTime <= row.iso);
  if (!before && body.rows.length >= 50) return;
  body.insertBefore(fill(row), before ?? null);
  while (body.rows.length > MAX_ROWS) body.lastElementChild.remove();
}

// The list does not move under the pointer or the focus.
function show() {
  if (!waiting.length || body?.matches(":hover, :focus-within")) return;
  if (!body) return location.reload();
  waiting.splice(0).forEach(add);
}

function stop() {
  source?.close();
  source = null;
}

function start() {
  if (source || document.hidden) return;
  source = new EventSource(box.dataset.live + location.search);
  source.addEventListener("message", ({ data }) => {
    waiting.push(JSON.parse(data));
    if (waiting.length > MAX_ROWS) waiting.shift();
    show();
  });
  source.addEventListener("dropped", ({ data }) => toast(`${JSON.parse(data).count} requests arrived too fast to be shown.`));
  source.addEventListener("error", () => {
    if (source?.readyState !== EventSource.CLOSED) return; // the browser connects again
    stop();
    box.checked = false;
    keep();
    toast("Live was turned off. Too many pages may be showing requests live: close some, then turn it on again.");
  });
}

// Kept for the next page with the same list, such as after a filter.
function keep() {
  if (box.checked) sessionStorage.setItem("live", "on");
  else sessionStorage.removeItem("live");
}

function follow() {
  if (box.checked) start();
  else stop();
}

box?.addEventListener("change", () => {
  keep();
  follow();
});
if (box) {
  box.checked = sessionStorage.getItem("live") === "on";
  follow();
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : follow()));
  body?.addEventListener("pointerleave", show);
  body?.addEventListener("focusout", () => setTimeout(show));
}

// A receipt leads to the requests beside it in this list.
addEventListener("pagehide", () => {
  const rows = [...(body?.querySelectorAll("[data-row]") ?? [])];
  sessionStorage.setItem("walk", JSON.stringify(rows.map((row) => row.dataset.row)));
  sessionStorage.setItem("walked", location.pathname + location.search);
});
