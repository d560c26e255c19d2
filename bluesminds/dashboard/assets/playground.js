// The playground: the composer, the choice of model and key, and the messages of a stored chat. What only some visits
// need is loaded then: sending, images and programs.

import { ask, copy } from "./app.js";

export const find = (selector, from = document) => from.querySelector(selector);
export const [messages, prompt, model, key, settings] = [".messages", "#prompt", "#model", "#key", "#parameters"].map(
  (one) => find(one),
);
export const temporary = "temporary" in find(".talk").dataset;
export const draft = () => `draft ${location.pathname}`;
// A turn is { node, text, images, answers, position }; the position in the stored chat, null if it is not stored.
export const chat = { id: find(".talk").dataset.chat, turns: [], running: null, facts: "" };
let images = [];
let follows = true;

export function follow() {
  if (follows) messages.scrollTop = messages.scrollHeight;
}
messages.addEventListener("scroll", () => {
  follows = messages.scrollHeight - messages.scrollTop - messages.clientHeight < 60;
});

// The parameters of requests; null is the default of the model.
export function parameters() {
  const found = {};
  for (const { name, type, value } of settings)
    if (name) found[name] = value.trim() === "" ? null : type === "number" ? Number(value) : value;
  return found;
}

export async function show(turn) {
  if (!turn.images.length) return;
  const { thumbnail } = await pictures();
  find(".thumbs", turn.node).replaceChildren(...(await Promise.all(turn.images.map(thumbnail))));
}

// What is typed stays until it is answered and stored, also over a reload.
export function save() {
  if (!temporary) sessionStorage.setItem(draft(), prompt.value);
}

export function renamed(name) {
  find(".talk h1").textContent = name;
  document.title = `${name} · BluesMinds`;
  const link = find(".history a[aria-current]");
  if (link) link.textContent = name;
  find("#f-title").value = name;
}

find("#rename form").addEventListener("sent", ({ detail }) => {
  renamed(detail.title || "Untitled chat");
  find("#rename").close();
});

export function sends(event, form) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
}

// What only some visits need. The modules import this one.
const sending = () => import("./sending.js");
const pictures = () => import("./pictures.js");

messages.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-do], [data-starter]");
  if (!button) return;
  if (button.dataset.starter) {
    prompt.value = button.dataset.starter;
    save();
    return prompt.focus();
  }
  const turn = chat.turns.find((one) => one.node.contains(button));
  const at = [...turn.node.lastElementChild.children].indexOf(button.closest(".assistant"));
  if (button.dataset.do === "copy") return copy(at < 0 ? turn.text : turn.answers[at].text);
  const { edit, run } = await sending();
  if (button.dataset.do === "edit") edit(turn);
  else run(turn.text, turn.images, chat.turns.indexOf(turn));
});

async function attach(files) {
  const { attached } = await pictures();
  await attached(files, images, find("#attached"));
}

// Only the models that the chosen key may use.
function allow() {
  const allowed = JSON.parse(key.selectedOptions[0].dataset.models || '["*"]');
  const matches = (one, name) => (one.endsWith("*") ? name.startsWith(one.slice(0, -1)) : one === name);
  const may = (name) => !name || allowed.some((one) => matches(one, name));
  for (const select of [model, find("#second"), find("#third")]) {
    for (const option of select.options) option.hidden = option.disabled = !may(option.value);
    const first = [...select.options].find((one) => !one.disabled);
    if (select.selectedOptions[0]?.disabled ?? true) select.value = first?.value ?? "";
  }
}

if (prompt) {
  const form = find(".ask");
  chat.facts = JSON.stringify({ model: model.value, parameters: parameters() });
  key.value = localStorage.getItem("playground-key") ?? key.value;
  if (key.selectedIndex < 0) key.selectedIndex = 0;
  allow();
  key.addEventListener("change", () => {
    localStorage.setItem("playground-key", key.value);
    allow();
  });
  prompt.value ||= (!temporary && sessionStorage.getItem(draft())) || "";
  prompt.addEventListener("input", save);
  prompt.addEventListener("keydown", (event) => sends(event, form));
  prompt.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) event.preventDefault();
    attach(files);
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = prompt.value.trim();
    if (chat.running || (!text && !images.length)) return;
    const { run } = await sending();
    if (run(text, images)) {
      prompt.value = "";
      images = [];
      find("#attached").replaceChildren();
    }
  });
  find("#images").addEventListener("change", ({ target }) => {
    attach([...target.files]).then(() => (target.value = ""));
  });
  find("#stop").addEventListener("click", () => chat.running?.abort());
  settings.addEventListener("submit", (event) => event.preventDefault());
  for (const button of document.querySelectorAll("[data-code]"))
    button.addEventListener("click", async () => {
      const [{ program }, { request }] = await Promise.all([import("./code.js"), sending()]);
      const body = request({ text: prompt.value.trim() || "Hello!", images }, model.value);
      copy(program(button.dataset.code, find(".talk").dataset.base, body));
    });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (chat.running) return chat.running.abort();
    const panel = settings.parentElement;
    if (panel.open) find("summary", panel).focus();
    panel.open = false;
  });
  if (!find(".starters")) prompt.focus();
}

const stored = document.querySelectorAll(".messages .turn");
const answers = stored.length ? await import("./answers.js") : null;
for (const node of stored) {
  const text = find(".user .body", node).textContent;
  const turn = { node, text, images: [], answers: [], position: Number(node.dataset.position) };
  for (const one of node.lastElementChild.children) {
    const text = find(".body", one).textContent;
    turn.answers.push({ model: one.dataset.model, text });
    answers.render(find(".body", one), text);
  }
  chat.turns.push(turn);
}
follow();
if (find(".thumbs:not([data-images='0'])", messages)) {
  const whole = await ask("GET", `/api/chats/${chat.id}`);
  for (const turn of chat.turns) {
    turn.images = whole.messages[turn.position].images;
    show(turn);
  }
}
