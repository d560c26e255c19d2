// "Go to": finds pages and keys by a part of their name, and searches for models, requests and users.

import { ask } from "./app.js";

const dialog = document.getElementById("find");
const field = dialog.querySelector("input");
const list = dialog.querySelector("ul");
const isAdmin = document.querySelector("[href='/dashboard/admin/users']") !== null;
const pages = [...document.querySelectorAll("#side li a")].map((link) => ({
  text: link.textContent.replace(/\d+ down/, "").trim(),
  kind: "page",
  href: link.pathname,
}));
let known = null; // the API keys
let found = [];

async function keys() {
  const answer = await ask("GET", "/api/keys?limit=100").catch(() => null);
  return (answer?.data ?? []).map((key) => ({ text: key.name, kind: "API key", href: `/dashboard/keys/${key.id}` }));
}

// What is typed can be an address of a user or the id of a request.
function typed(text) {
  const q = encodeURIComponent(text);
  const where = isAdmin ? "/dashboard/admin" : "/dashboard";
  const requests = { text: `Requests with the id ${text}`, kind: "search", href: `${where}/requests?q=${q}` };
  const users = { text: `Users with ${text}`, kind: "search", href: `/dashboard/admin/users?q=${q}` };
  const models = { text: `Models with ${text}`, kind: "search", href: `/dashboard/models?q=${q}` };
  const isId = /^[\w-]{8,}$/.test(text) && /\d/.test(text);
  if (text.length < 2) return [];
  return [...(isId ? [requests] : []), models, ...(isAdmin ? [users] : [])];
}

function option(one, index) {
  const node = document.createElement("li");
  const kind = document.createElement("small");
  kind.textContent = one.kind;
  Object.assign(node, { id: `found-${index}`, role: "option" });
  node.append(one.text, kind);
  node.addEventListener("click", () => location.assign(one.href));
  return node;
}

function choose(index) {
  const at = Math.min(Math.max(index, 0), found.length - 1);
  for (const [place, node] of [...list.children].entries()) node.setAttribute("aria-selected", place === at);
  list.children[at]?.scrollIntoView({ block: "nearest" });
  if (found.length) field.setAttribute("aria-activedescendant", `found-${at}`);
  else field.removeAttribute("aria-activedescendant");
}

function show() {
  const text = field.value.trim();
  const parts = text.toLowerCase().split(/\s+/);
  const matching = [...pages, ...(known ?? [])].filter((one) => parts.every((part) => one.text.toLowerCase().includes(part)));
  found = [...matching.slice(0, 30), ...typed(text)];
  list.replaceChildren(...found.map(option));
  dialog.querySelector("p").hidden = found.length > 0;
  choose(0);
}

field.addEventListener("input", show);
field.addEventListener("keydown", (event) => {
  const now = [...list.children].findIndex((node) => node.getAttribute("aria-selected") === "true");
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step) choose(now + step);
  else if (event.key === "Enter" && found[now]) location.assign(found[now].href);
  else return;
  event.preventDefault();
});

export async function open() {
  if (dialog.open) return;
  field.value = "";
  dialog.showModal();
  show();
  if (known) return;
  known = await keys();
  show();
}
