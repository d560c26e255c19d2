// Pages of administrators: results of actions, the health of servers, and forms that are sent after a second look.

import { ask } from "./app.js";

const results = document.querySelector("[data-results]");

function part(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

function show(kind, sentence) {
  const line = part("p", sentence);
  line.className = `notice ${kind}`;
  results?.replaceChildren(line);
}

document.addEventListener("sent", ({ target, detail }) => {
  if ("test" in target.dataset) {
    const models = detail.models ? `, ${detail.models.length} models` : "";
    if (detail.ok) show("good", `${detail.server} answered in ${detail.latency_ms} ms${models}.`);
    else show("bad", `${detail.server} does not work: ${detail.problem}.`);
  }
  if ("link" in target.dataset) show("good", `Mailed to ${detail.email}. It works once: ${detail.url}`);
  if ("verifyLedger" in target.dataset) {
    if (!detail.ok) return show("bad", `The ledger is wrong: ${detail.message}. Compare it with your backups.`);
    show("good", `The ledger is correct. Entries: ${detail.entries}. Balances: ${detail.wallets}. The last entry is ${detail.end}`);
    const list = part("dl", "");
    list.className = "card facts-list";
    for (const [name, amount] of Object.entries(detail.sums)) list.append(part("dt", name), part("dd", `${amount} USD`));
    results.append(list);
  }
  if ("doctor" in target.dataset) {
    target.closest("dialog").close();
    const failed = detail.checks.filter((one) => one.verdict === "failed").length;
    show(detail.ok ? "good" : "bad", detail.ok ? "No check failed." : `${failed} ${failed === 1 ? "check" : "checks"} failed.`);
    const list = part("ul", "");
    list.className = "card verdicts";
    const tones = { ok: "good", warning: "warn", failed: "bad", skipped: "" };
    for (const one of detail.checks) {
      const verdict = part("span", one.verdict);
      verdict.className = `state ${tones[one.verdict]}`;
      const item = part("li", "");
      item.append(verdict, part("b", one.name), part("span", one.message));
      if (one.fix) item.append(part("small", `To fix it: ${one.fix}`));
      list.append(item);
    }
    results.append(list);
  }
  if ("verify" in target.dataset) {
    if (detail.ok) show("good", `The log is complete: ${detail.rows} entries. The last one is ${detail.end}`);
    else show("bad", `The log is damaged: ${detail.problem ?? detail.damage}.`);
  }
});

const WORDS = { up: ["good", "Up"], down: ["bad", "Down"], unusable: ["bad", "Unusable"], unknown: ["warn", "Not checked yet"] };
const MODES = ["Draining", "Off"]; // these change on this page only

// The health of servers and their running requests, changed in place while the page is visible.
async function follow() {
  if (document.hidden) return;
  const found = await ask("GET", "/api/admin/health").catch(() => null);
  if (!found) return;
  const down = found.servers.filter((server) => server.state === "down").length;
  for (const note of document.querySelectorAll("[data-down]")) {
    note.textContent = `${down} down`;
    note.hidden = !down;
  }
  for (const server of found.servers) {
    const name = CSS.escape(server.name);
    const [tone, word] = WORDS[server.state];
    for (const mark of document.querySelectorAll(`[data-state="${name}"]`)) {
      if (MODES.includes(mark.textContent) || mark.textContent === word) continue;
      mark.className = `state ${tone}`;
      mark.textContent = word;
    }
    for (const cell of document.querySelectorAll(`[data-running="${name}"]`)) {
      cell.textContent = `${server.running} of ${server.capacity}`;
    }
  }
}

if (document.querySelector("[data-state]")) setInterval(follow, 5000);

// The first press shows in one sentence what will be done.
for (const form of document.querySelectorAll("form[data-confirm]")) {
  const question = form.querySelector("[data-question]");
  const button = form.querySelector("[data-yes]");
  const first = button.textContent;

  // Any change needs a new look.
  function again() {
    question.hidden = true;
    button.textContent = first;
  }

  form.addEventListener("submit", (event) => {
    if (!question.hidden) return;
    event.preventDefault();
    event.stopPropagation();
    form.querySelectorAll(".wrong").forEach((one) => one.remove());
    const asks = form.elements.kind.selectedOptions[0].dataset.asks;
    question.textContent = asks.replace("AMOUNT", `${form.elements.amount_usd.value.trim()} USD`);
    question.hidden = false;
    button.textContent = button.dataset.yes;
    question.focus();
  });
  form.addEventListener("input", again);
  form.closest("dialog").addEventListener("close", again);
}
