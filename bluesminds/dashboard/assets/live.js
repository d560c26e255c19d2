// The list of requests, live: new rows appear at the top while the switch is on and the page is visible.

import { ask, toast } from "./app.js";

const MAX_ROWS = 200;
const box = document.querySelector("[data-live]");
const body = document.querySelector(".rows tbody");
let mark = box?.dataset.live;
let running = false;

function fill(row) {
  const made = document.getElementById("row").content.cloneNode(true).firstElementChild;
  made.dataset.row = row.id;
  for (const cell of made.querySelectorAll("[data-cell]")) if (cell.dataset.cell !== "when") cell.textContent = row[cell.dataset.cell];
  const link = made.querySelector("[data-cell=when]");
  link.href = `/dashboard/requests/${row.id}`;
  link.firstElementChild.dateTime = row.iso;
  link.firstElementChild.textContent = row.when;
  made.querySelector("[data-cell=status]").classList.add(row.tone);
  const key = made.querySelector("[data-cell=key]");
  if (row.key) {
    const to = document.createElement("a");
    to.href = `/dashboard/keys/${row.key_id}`;
    to.textContent = row.key;
    key.replaceChildren(to);
  } else key.textContent = "–";
  const button = made.querySelector("[data-copy]");
  button.dataset.copy = row.request_id;
  button.setAttribute("aria-label", `Copy the request id ${row.request_id}`);
  return made;
}

// The rows come newest first. A row that took long belongs below newer ones.
function add(rows) {
  let before = body.firstElementChild;
  for (const row of rows) {
    if (before?.dataset.row === row.id) before = before.nextElementSibling;
    else if (!body.querySelector(`[data-row="${CSS.escape(row.id)}"]`)) body.insertBefore(fill(row), before);
  }
  while (body.rows.length > MAX_ROWS) body.lastElementChild.remove();
}

const later = (ms) => new Promise((done) => setTimeout(done, ms));

async function follow() {
  if (running) return;
  running = true;
  while (box.checked) {
    // The list does not move under the pointer or the focus.
    if (document.hidden || body?.matches(":hover, :focus-within")) {
      await later(500);
      continue;
    }
    const query = new URLSearchParams(location.search);
    query.set("mark", mark);
    try {
      const found = await ask("GET", `/dashboard/live/requests?${query}`);
      if (!box.checked) break;
      if (found.mark !== mark && !body) location.reload();
      if (found.rows.length && body) add(found.rows);
      mark = found.mark;
    } catch (error) {
      box.checked = false;
      toast(error.message);
    }
  }
  running = false;
}

box?.addEventListener("change", follow);
