// Computes the costs of requests again: the first press shows what would change, the second one changes it.

import { ask, clearErrors, leave, showError, values } from "./app.js";

const form = document.querySelector("form[data-reprice]");
const results = form.querySelector("[data-results]");
const button = form.querySelector("[data-yes]");
const first = button.textContent;
let shown = false;

// A call looks at a limited number of requests and returns where the next one continues.
async function run(body) {
  const sums = { requests: 0, changed: 0, skipped: 0, accounts: new Map() };
  for (let after = ""; after !== null; ) {
    const found = await ask("POST", "/api/admin/reprice", { ...body, after });
    for (const name of ["requests", "changed", "skipped"]) sums[name] += found[name];
    for (const one of found.accounts) sums.accounts.set(one.user, (sums.accounts.get(one.user) ?? 0) + Number(one.difference_usd));
    after = found.next_cursor;
  }
  return sums;
}

function show({ requests, changed, skipped, accounts }) {
  const total = [...accounts.values()].reduce((sum, one) => sum + one, 0);
  const line = document.createElement("p");
  line.className = `notice ${changed ? "warn" : "good"}`;
  line.textContent = changed
    ? `The costs of ${changed} of ${requests} requests would change by ${total.toFixed(6)} USD in total, for ${accounts.size} ${accounts.size === 1 ? "account" : "accounts"}.`
    : `No cost of ${requests} requests would change.`;
  if (skipped) line.textContent += ` ${skipped} have an unknown price.`;
  results.replaceChildren(line);
  return changed > 0;
}

function again() {
  shown = false;
  button.textContent = first;
  results.replaceChildren();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (form.getAttribute("aria-busy")) return;
  clearErrors(form);
  form.setAttribute("aria-busy", "true");
  try {
    const found = await run({ ...values(form), model: form.dataset.model, dry_run: !shown });
    if (shown) return leave("", `The costs of ${found.changed} requests were changed.`);
    shown = show(found);
    if (shown) button.textContent = button.dataset.yes;
  } catch (error) {
    showError(form, error);
  } finally {
    form.removeAttribute("aria-busy");
  }
});
form.addEventListener("input", again);
form.closest("dialog").addEventListener("close", again);
