// Sends the messages of the playground, shows the answers as they arrive, and stores the chat.

import { ask, toast } from "./app.js";
import { element, events, writer } from "./answers.js";
import { chat, find, follow, key, messages, model, parameters, prompt } from "./playground.js";
import { draft, renamed, save, sends, settings, show, temporary } from "./playground.js";

const said = find("#said");
const KEPT = "model text stopped request_id input_tokens output_tokens cost_usd first_byte_ms duration_ms".split(" ");
let cut = null; // from which position on the stored chat is replaced
let stored = chat.facts;

function span(ms) {
  if (ms < 1000) return `${ms} ms`;
  return ms < 60000 ? `${(ms / 1000).toFixed(2)} s` : `${Math.floor(ms / 60000)} min ${Math.floor((ms % 60000) / 1000)} s`;
}

// Tokens, cost and times, as playground.py writes them.
function facts(one) {
  const found = one.stopped ? ["stopped"] : [];
  const count = (value) => (value ?? 0).toLocaleString("en");
  if (one.duration_ms == null) return found.join(" · ");
  if (one.input_tokens != null) found.push(`${count(one.input_tokens)} in, ${count(one.output_tokens)} out`);
  found.push(one.cost_usd == null ? "no price" : `$${one.cost_usd}`);
  if (one.first_byte_ms != null) found.push(`first byte ${span(one.first_byte_ms)}`);
  return [...found, span(one.duration_ms)].join(" · ");
}

export function request(turn, name) {
  const { system, ...others } = parameters();
  const content = ({ text, images }) =>
    images.length ? [{ type: "text", text }, ...images.map((url) => ({ type: "image_url", image_url: { url } }))] : text;
  const answered = (one) => one.answers.find((other) => other.model === name && other.text) ?? one.answers.find((other) => other.text);
  const talked = system ? [{ role: "system", content: system }] : [];
  for (const one of chat.turns) {
    if (one === turn) break;
    const text = answered(one)?.text;
    if (text) talked.push({ role: "user", content: content(one) }, { role: "assistant", content: text });
  }
  const given = Object.fromEntries(Object.entries(others).filter(([, value]) => value !== null));
  talked.push({ role: "user", content: content(turn) });
  return { model: name, messages: talked, ...given, stream: true, stream_options: { include_usage: true } };
}

// The usage record of a request; it can be missing for a moment after a request was stopped.
async function record(id) {
  for (let tries = 0; id && tries < 8; tries++) {
    if (tries) await new Promise((done) => setTimeout(done, 100 * 2 ** tries));
    const found = await ask("GET", `/api/requests/${id}`).catch((error) => error);
    if (!(found instanceof Error)) return found;
    if (found.code !== "request_not_found") return null;
  }
  return null;
}

async function answer(turn, name, signal) {
  const node = find("#answer").content.cloneNode(true).firstElementChild;
  const body = find(".body", node);
  const one = { model: name, text: "", stopped: false };
  const out = writer(body, (text) => (said.textContent = text));
  turn.answers.push(one);
  node.setAttribute("aria-busy", "true");
  find("h2", node).textContent = name;
  turn.node.lastElementChild.append(node);
  follow();
  try {
    const response = await fetch("/api/playground/chat/completions", {
      method: "POST",
      headers: {
        "content-type": "application/json",
        "x-csrf-token": find("meta[name=csrf]").content,
        "x-bluesminds-key": key.value,
      },
      body: JSON.stringify(request(turn, name)),
      signal,
    });
    one.request_id = response.headers.get("x-request-id");
    if (!response.ok) throw (await response.json()).error;
    for await (const data of events(response.body)) {
      if (data === "[DONE]") break;
      const part = JSON.parse(data);
      if (part.error) throw part.error;
      const text = part.choices?.[0]?.delta?.content;
      one.text += text ?? "";
      if (text) out.write(text, follow);
    }
  } catch (error) {
    one.stopped = signal.aborted;
    if (!signal.aborted) one.failed = error instanceof Error ? "The connection to the gateway was lost." : error.message;
  }
  out.end();
  if (one.stopped) said.textContent = "Stopped. The text so far was counted.";
  if (one.failed) {
    const again = element("button", "Try again");
    Object.assign(again, { type: "button", className: "small" }).dataset.do = "again";
    const notice = Object.assign(element("div", element("p", one.failed), again), { className: "notice" });
    notice.setAttribute("role", "alert");
    body.append(notice);
  } else Object.assign(one, await record(one.request_id), { model: name });
  node.removeAttribute("aria-busy");
  find("span.facts", node).textContent = facts(one);
  find("[data-request]", node).dataset.copy = one.request_id ?? "";
  find("[data-request]", node).hidden = !one.request_id;
  const receipt = find("[data-receipt]", node);
  if (one.request_id) Object.assign(receipt, { hidden: false, href: `/dashboard/requests/${one.request_id}` });
  follow();
}

// Sends the chat to all chosen models; from the turn `at` on, the chat is replaced. False if nothing can be sent now.
export function run(text, images, at = chat.turns.length) {
  if (chat.running || !prompt) return false;
  if (!settings.checkValidity()) {
    settings.parentElement.open = true;
    settings.reportValidity();
    return false;
  }
  const names = [...new Set([model, find("#second"), find("#third")].map((one) => one.value))].filter(Boolean);
  if (!names.length) toast("This key may not use any of the available models. Choose another key.");
  if (!names.length) return false;
  for (const old of chat.turns.splice(at)) {
    if (old.position !== null) cut = Math.min(cut ?? old.position, old.position);
    old.node.remove();
  }
  const node = find("#turn").content.cloneNode(true).firstElementChild;
  const turn = { node, text, images, answers: [], position: null };
  find(".user .body", node).textContent = text;
  show(turn);
  find(".starters")?.remove();
  messages.append(node);
  chat.turns.push(turn);
  messages.scrollTop = messages.scrollHeight;
  finish(turn, names);
  return true;
}

async function finish(turn, names) {
  chat.running = new AbortController();
  find("#send").hidden = !(find("#stop").hidden = false);
  said.textContent = `${names.join(" and ")} ${names.length > 1 ? "are" : "is"} answering`;
  await Promise.all(names.map((name) => answer(turn, name, chat.running.signal)));
  if (!temporary && turn.answers.some((one) => !one.failed)) await store(turn);
  chat.running = null;
  find("#stop").hidden = !(find("#send").hidden = false);
  prompt.focus();
}

async function store(turn) {
  const now = { model: model.value, parameters: parameters() };
  const known = (one) => Object.fromEntries(KEPT.map((name) => [name, one[name] ?? null]));
  const answers = turn.answers.filter((one) => !one.failed).map((one) => ({ role: "assistant", ...known(one) }));
  try {
    if (!chat.id) opened(await ask("POST", "/api/chats", { title: title(turn.text), ...now }));
    else if (JSON.stringify(now) !== stored) await ask("PATCH", `/api/chats/${chat.id}`, now);
    stored = JSON.stringify(now);
    if (cut !== null) await ask("DELETE", `/api/chats/${chat.id}/messages/${cut}`);
    cut = null;
    const posted = await ask("POST", `/api/chats/${chat.id}/messages`, {
      messages: [{ role: "user", text: turn.text, images: turn.images }, ...answers],
    });
    turn.position = posted.data[0].position;
    save();
  } catch (error) {
    const wrong = element("p", `This part of the chat is not stored. ${error.message}`);
    turn.node.append(Object.assign(wrong, { className: "wrong" }));
  }
}

const title = (text) => [...text.replace(/[\p{C}\p{Z}\s]+/gu, " ").trim()].slice(0, 60).join("") || "Images";

// A chat that is stored now: its address, its entry in the list, and the menu.
function opened({ id, title: name }) {
  chat.id = id;
  const typed = sessionStorage.getItem(draft());
  sessionStorage.removeItem(draft());
  history.replaceState(null, "", `/dashboard/playground/${id}`);
  sessionStorage.setItem(draft(), typed ?? "");
  for (const one of document.querySelectorAll("[data-of-chat]")) {
    one.hidden = false;
    if (one.dataset.send) one.dataset.send += id;
    if (one.href) one.href += id;
  }
  const link = Object.assign(element("a", name), { href: location.pathname });
  link.setAttribute("aria-current", "page");
  const nav = find(".history nav");
  find(".hint", nav)?.remove();
  if (find("h2", nav)?.textContent === "Today") find("ul", nav).prepend(element("li", link));
  else nav.prepend(element("h2", "Today"), element("ul", element("li", link)));
  renamed(name);
}

export function edit(turn) {
  const body = find(".user .body", turn.node);
  const field = Object.assign(element("textarea", turn.text), { rows: 3 });
  field.setAttribute("aria-label", "Edit the message");
  const cancel = Object.assign(element("button", "Cancel"), { type: "button" });
  const ends = Object.assign(element("div", cancel, Object.assign(element("button", "Send"), { className: "main" })), {
    className: "ends",
  });
  const form = Object.assign(element("form", field, ends), { className: "edit" });
  const close = () => {
    form.replaceWith(body);
    find("[data-do=edit]", turn.node).focus();
  };
  cancel.addEventListener("click", close);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (field.value.trim()) run(field.value.trim(), turn.images, chat.turns.indexOf(turn));
  });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    else sends(event, form);
  });
  body.replaceWith(form);
  field.focus();
}
