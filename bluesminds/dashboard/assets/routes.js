// The form of a route: its lists are written into hidden fields before the form is sent.

const form = document.querySelector("form[data-route]");
const list = form?.querySelector("[data-targets]");
const number = (text) => (/^-?\d+$/.test(text) ? Number(text) : text);
const names = (text) => text.split(",").map((one) => one.trim()).filter(Boolean);

function targetOf(row) {
  const target = {};
  for (const field of row.querySelectorAll("[data-part]")) {
    const text = field.value.trim();
    const { part } = field.dataset;
    if (text) target[part] = part === "weight" || part === "priority" ? number(text) : text;
  }
  return target;
}

// A condition without a value is not one.
function conditions() {
  const when = {};
  for (const field of form.querySelectorAll("[data-when]")) {
    const text = field.value.trim();
    if (text) when[field.dataset.when] = "number" in field.dataset ? number(text) : names(text);
  }
  return Object.keys(when).length ? when : null;
}

function write() {
  const targets = [...list.querySelectorAll("[data-target]")].map(targetOf).filter((one) => one.server);
  const reasons = [...form.querySelectorAll("[data-reason]:checked")].map((one) => one.dataset.reason);
  form.elements.targets.value = JSON.stringify(targets.length ? targets : null);
  form.elements.when.value = JSON.stringify(conditions());
  form.elements.fallback_on.value = JSON.stringify(reasons);
}

function add() {
  const row = document.getElementById("target").content.cloneNode(true).firstElementChild;
  list.append(row);
  row.querySelector("select").focus();
}

form?.addEventListener("submit", write, { capture: true });
form?.addEventListener("click", (event) => {
  if (event.target.closest("[data-more]")) add();
  const row = event.target.closest("[data-drop]")?.closest("[data-target]");
  if (!row) return;
  (row.nextElementSibling ?? row.previousElementSibling)?.querySelector("select").focus();
  row.remove();
});
