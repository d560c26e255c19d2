// The list of requests, live: new rows appear at the top while the switch is on and the page is visible.

import { toast } from "./app.js";

const MAX_ROWS = 200;
const box = document.querySelector("[data-live]");
const body = document.querySelector(".rows tbody");
const waiting = [];
let source = null;

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
  const key = made.querySelector("[data-cell=key]");
  const known = document.querySelector(`select[name=key] option[value="${CSS.escape(row.key_id)}"]`);
  if (row.key_id && known) {
    const to = document.createElement("a");
    to.href = `/dashboard/keys/${row.key_id}`;
    to.textContent = known.textContent;
    key.replaceChildren(to);
  } else key.textContent = "–";
  const button = made.querySelector("[data-copy]");
  button.dataset.copy = row.request_id;
  button.setAttribute("aria-label", `Copy the request id ${row.request_id}`);
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
  source = new EventSource(`/dashboard/live/requests${location.search}`);
  source.addEventListener("message", ({ data }) => {
    waiting.push(JSON.parse(data));
    if (waiting.length > MAX_ROWS) waiting.shift();
    show();
  });
  source.addEventListener("dropped", ({ data }) => toast(`${JSON.parse(data).count} requests came too fast to be shown.`));
  source.addEventListener("error", () => {
    if (source?.readyState !== EventSource.CLOSED) return; // the browser connects again
    stop();
    box.checked = false;
    keep();
    toast("Live has ended. Too many pages may show requests live: close some, and turn it on again.");
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
