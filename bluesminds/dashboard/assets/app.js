// What every page has: forms and buttons that call the JSON API, copying, dialogs, appearance, shortcuts, and charts
// whose values are shown at the pointer, or with the arrow keys.

export function toast(sentence) {
  const line = document.createElement("p");
  line.className = "toast";
  line.textContent = sentence;
  document.querySelector(".toasts").append(line);
  setTimeout(() => line.remove(), 6000);
}

// Calls the JSON API. Throws the error of the response, with its message, code and param.
export async function ask(method, path, body) {
  const headers = { "x-csrf-token": document.querySelector("meta[name=csrf]").content };
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Error("The gateway did not respond. Try again later.");
  }
  if (response.status === 204) return null;
  const answer = await response.json();
  if (response.status === 401 && answer.error?.code === "invalid_session") location.reload();
  if (!response.ok) throw Object.assign(new Error(answer.error.message), answer.error);
  return answer;
}

const KINDS = {
  text: (text) => text,
  int: (text) => (/^\d+$/.test(text) ? Number(text) : text),
  seconds: (text) => (/^\d+(\.\d+)?$/.test(text) ? Number(text) : text),
  usd: (text) => text.replace(/^\$/, ""),
  names: (text) => KINDS.list(text),
  list: (text) => text.split(/[,\n]/).map((one) => one.trim()).filter(Boolean),
  lines: (text) => text.split("\n").map((one) => one.trim()).filter(Boolean),
  time: (text) => `${text}T00:00:00Z`,
  json: (text) => JSON.parse(text),
};

// The fields of a form as the body of a request: limits.rpm becomes {limits: {rpm}}. An empty field is null if it
// has a kind, and is left out with data-optional.
export function values(form) {
  const body = {};
  for (const field of form.elements) {
    if (!field.name || (field.type === "radio" && !field.checked)) continue;
    const text = field.type === "password" ? field.value : field.value.trim();
    if (text === "" && "optional" in field.dataset) continue;
    const kind = field.dataset.kind;
    const parts = field.name.split(".");
    const last = parts.pop();
    const place = parts.reduce((object, name) => (object[name] ??= {}), body);
    if (field.type === "checkbox") place[last] = field.checked;
    else place[last] = kind ? (text === "" && kind !== "names" && kind !== "lines" ? null : KINDS[kind](text)) : text;
  }
  return body;
}

// Shows an error at its field, or above the buttons.
export function showError(form, error) {
  const field = error.param && (form.elements[error.param] ?? form.elements[`limits.${error.param}`]);
  const wrong = document.createElement("p");
  wrong.className = "wrong";
  wrong.textContent = error.message;
  if (field?.closest) {
    // The API names the field, which is beside the sentence here.
    if (error.message.startsWith(`${error.param} `)) wrong.textContent = `This${error.message.slice(error.param.length)}`;
    wrong.id = `${field.id}-wrong`;
    field.closest("details")?.setAttribute("open", "");
    field.after(wrong);
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", wrong.id);
    return field.focus();
  }
  wrong.setAttribute("role", "alert");
  (form.querySelector(".ends") ?? form.lastElementChild).before(wrong);
}

export function clearErrors(form) {
  form.querySelectorAll(".wrong").forEach((one) => one.remove());
  form.querySelectorAll("[aria-invalid]").forEach((one) => one.removeAttribute("aria-invalid"));
}

// A toast for the page that is loaded next.
export function leave(address, sentence) {
  if (sentence) sessionStorage.setItem("toast", sentence);
  if (address) location.assign(address);
  else location.reload();
}

export async function send(element, body) {
  const [method, path] = element.dataset.send.split(" ");
  element.setAttribute("aria-busy", "true");
  try {
    const answer = await ask(method, path, body);
    element.dispatchEvent(new CustomEvent("sent", { bubbles: true, detail: answer }));
    if ("then" in element.dataset) leave(element.dataset.then, element.dataset.says);
    return true;
  } catch (error) {
    if (element.matches("form")) showError(element, error);
    else toast(error.message);
    return false;
  } finally {
    element.removeAttribute("aria-busy");
  }
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.dataset.send) return;
  event.preventDefault();
  if (form.getAttribute("aria-busy")) return;
  clearErrors(form);
  let body;
  try {
    body = values(form);
  } catch {
    return showError(form, new Error("A field is not valid JSON."));
  }
  send(form, "bare" in form.dataset ? undefined : body);
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy], [data-opens], [data-closes], [data-find], button[data-send]");
  if (!button) return;
  if (button.dataset.copy !== undefined) copy(button.dataset.copy);
  if (button.dataset.opens) document.getElementById(button.dataset.opens).showModal();
  if ("find" in button.dataset) find();
  if ("closes" in button.dataset) button.closest("dialog").close();
  if (button.dataset.sure) import("./sure.js").then(({ ask }) => ask(button));
  else if (button.dataset.send) send(button, button.dataset.body && JSON.parse(button.dataset.body));
});

// What does not fit in its cell is shown at the pointer.
document.addEventListener("pointerover", ({ target }) => {
  const cell = target.closest?.(".clip");
  if (cell && cell.scrollWidth > cell.clientWidth) cell.title ||= cell.textContent.trim();
});

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied.");
  } catch {
    toast("The browser does not allow copying. Select the text and copy it.");
  }
}

export function keep(name, value) {
  document.cookie = `${name}=${value}; path=/; max-age=31536000; samesite=lax`;
}

for (const choice of document.querySelectorAll(".theme input")) {
  choice.addEventListener("change", () => {
    keep("theme", choice.value);
    if (choice.value) document.documentElement.dataset.theme = choice.value;
    else delete document.documentElement.dataset.theme;
    for (const other of document.querySelectorAll(".theme input")) other.checked = other.value === choice.value;
  });
}

const said = sessionStorage.getItem("toast");
if (said) {
  sessionStorage.removeItem("toast");
  toast(said);
}

// Keys are handled by scripts that are loaded with the first one. The search has the focus at once, because the next
// keys are for it.
const pressed = [];
document.addEventListener("keydown", (event) => {
  const finds = event.key === "k" && (event.ctrlKey || event.metaKey) && document.getElementById("find");
  const search = event.key === "/" && !typing(event) && document.querySelector("[data-search]");
  if (finds || search) event.preventDefault();
  if (finds) find();
  else if (search) search.focus();
  else if (!typing(event)) {
    pressed.push(event.key);
    import("./shortcuts.js").then(({ press }) => pressed.splice(0).forEach(press)); // in their order
  }
});

function typing(event) {
  return event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog");
}

function find() {
  import("./find.js").then(({ open }) => open());
}

// The values are read from the table of the chart.
function readable(chart) {
  const plot = chart.querySelector(".plot");
  const marks = chart.querySelector(".marks");
  const band = chart.querySelector(".band");
  const tip = chart.querySelector(".tip");
  const rows = [...chart.querySelectorAll("tbody tr")];
  const names = [...chart.querySelectorAll("thead th")].slice(1).map((cell) => cell.textContent);
  const swatches = [...chart.querySelectorAll(".legend .swatch")];

  function show(slot) {
    const cells = [...rows[slot].cells].map((cell) => cell.textContent);
    const title = document.createElement("b");
    title.textContent = cells[0];
    const lines = names.map((name, at) => {
      const line = document.createElement("div");
      const value = document.createElement("span");
      value.textContent = cells[at + 1];
      line.append(...(swatches[at] ? [swatches[at].cloneNode()] : []), name, value);
      return line;
    });
    tip.replaceChildren(title, ...lines.reverse());
    tip.hidden = false;
    band.setAttribute("x", slot * 100);
    band.setAttribute("visibility", "visible");
    plot.setAttribute("aria-valuenow", slot + 1);
    plot.setAttribute("aria-valuetext", [cells[0], cells.at(-1), ...names.slice(0, -1).map((name, at) => `${name} ${cells[at + 1]}`)].join(", "));
    const box = marks.getBoundingClientRect();
    const left = box.left - chart.getBoundingClientRect().left + ((slot + 0.5) * box.width) / rows.length;
    const beside = left + tip.offsetWidth + 24 > chart.clientWidth ? left - tip.offsetWidth - 14 : left + 14;
    tip.style.transform = `translate(${Math.round(beside)}px, 8px)`;
  }

  function hide() {
    tip.hidden = true;
    band.setAttribute("visibility", "hidden");
  }

  plot.addEventListener("pointermove", (event) => {
    const box = marks.getBoundingClientRect();
    const slot = Math.floor(((event.clientX - box.left) / box.width) * rows.length);
    if (slot >= 0 && slot < rows.length) show(slot);
    else hide();
  });
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const now = Number(plot.getAttribute("aria-valuenow")) - 1;
    const steps = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: rows.length - 1, PageUp: now - 7, PageDown: now + 7 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    show(Math.min(Math.max(steps[event.key], 0), rows.length - 1));
  });
}

for (const chart of document.querySelectorAll("[data-chart]")) readable(chart);
