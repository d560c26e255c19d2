// The playground: sends a chat, shows the answer while it arrives, and stores both.

import { ask, toast } from "./app.js";
import { writer } from "./markdown.js";

const by = (id) => document.getElementById(id);
const talk = document.querySelector(".talk");
const form = document.querySelector(".ask");
const list = document.querySelector(".messages");
const prompt = by("prompt");
let chat = talk.dataset.chat;
let images = [];
let running = null;

// The messages so far. Stored ones are shown as text by the server; answers become elements here.
const history = [...list.querySelectorAll("[data-text]")].map((body) => {
  const text = body.textContent;
  const role = body.parentElement.classList.contains("user") ? "user" : "assistant";
  if (role === "assistant") {
    body.replaceChildren();
    body.classList.remove("plain");
    const out = writer(body, () => {}, () => {});
    out.write(text);
    out.end();
  }
  return { role, text, images: [], article: body.parentElement };
});
history.forEach(addActions);
list.scrollTop = list.scrollHeight;

function add(role, name) {
  const article = by("message").content.cloneNode(true).firstElementChild;
  article.classList.add(role);
  article.querySelector("h2").textContent = name;
  document.querySelector(".start")?.remove();
  list.append(article);
  return article;
}

function addActions(message) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet small";
  button.textContent = message.role === "user" ? "Edit" : "Try again";
  button.addEventListener("click", () => again(message));
  message.article.append(button);
}

// Removes a message and all after it. A question goes back to the composer, an answer is asked for again.
async function again(message) {
  if (running) return;
  const at = history.indexOf(message);
  const from = message.role === "user" ? at : at - 1;
  try {
    if (chat) await ask("DELETE", `/api/chats/${chat}/messages/${from}`);
  } catch (error) {
    return toast(error.message);
  }
  const removed = history.splice(from);
  removed.forEach((one) => one.article.remove());
  images = removed[0].images;
  if (message.role === "assistant") return send(removed[0].text);
  prompt.value = removed[0].text;
  prompt.focus();
}

function parameters() {
  const number = (id) => (by(id).value.trim() === "" ? null : Number(by(id).value));
  return { system: by("p-system").value.trim() || null, temperature: number("p-temperature"), max_tokens: number("p-max") };
}

function content(message) {
  if (!message.images.length) return message.text;
  const parts = message.images.map((url) => ({ type: "image_url", image_url: { url } }));
  return [{ type: "text", text: message.text }, ...parts];
}

function request(model) {
  const { system, ...rest } = parameters();
  const body = { model, stream: true, stream_options: { include_usage: true } };
  for (const [name, value] of Object.entries(rest)) if (value !== null) body[name] = value;
  const messages = history.map((one) => ({ role: one.role, content: content(one) }));
  return { ...body, messages: system ? [{ role: "system", content: system }, ...messages] : messages };
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const parts = buffer.split("\n\n");
    buffer = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
  }
}

function written(ms) {
  return ms < 1000 ? `${ms} ms` : `${(ms / 1000).toFixed(2)} s`;
}

function showFacts(article, answer) {
  const parts = [];
  if (answer.output_tokens !== null) parts.push(`${answer.input_tokens} in, ${answer.output_tokens} out`);
  if (answer.first_byte_ms !== null) parts.push(`first byte ${written(answer.first_byte_ms)}`);
  parts.push(written(answer.duration_ms));
  const facts = article.querySelector(".facts");
  facts.textContent = (answer.stopped ? "Stopped. What came was counted. " : "") + parts.join(" · ");
  if (!answer.request_id) return;
  const link = document.createElement("a");
  link.href = `/dashboard/requests/${encodeURIComponent(answer.request_id)}`;
  link.textContent = "receipt";
  facts.append(" · ", link);
}

async function store(question, answer) {
  if (!chat && by("temporary")?.checked) return;
  const isNew = !chat;
  if (isNew) {
    const title = question.text.replace(/\s+/g, " ").slice(0, 60);
    chat = (await ask("POST", "/api/chats", { title, model: answer.model, parameters: parameters() })).id;
  } else await ask("PATCH", `/api/chats/${chat}`, { model: answer.model, parameters: parameters() });
  const { text, images } = question;
  await ask("POST", `/api/chats/${chat}/messages`, { messages: [{ role: "user", text, images }, answer] });
  if (isNew) {
    window.history.replaceState(null, "", `/dashboard/playground/${chat}`);
    const link = document.createElement("a");
    link.href = `/dashboard/playground/${chat}`;
    link.textContent = text.slice(0, 60);
    link.setAttribute("aria-current", "page");
    const entry = document.createElement("li");
    entry.append(link);
    document.querySelector(".history ul")?.prepend(entry);
  }
}

async function send(text) {
  const model = by("model").value.trim();
  const key = by("key").value;
  if (!model || !key) return toast(model ? "Create an API key first." : "Choose a model first.");
  const question = { role: "user", text, images, article: add("user", "You") };
  question.article.querySelector(".body").textContent = text;
  question.article.querySelector(".body").classList.add("plain");
  images = [];
  by("attached").textContent = "";
  history.push(question);
  const article = add("assistant", model);
  article.setAttribute("aria-busy", "true");
  by("said").textContent = `${model} is answering`;
  list.scrollTop = list.scrollHeight;
  const out = writer(
    article.querySelector(".body"),
    (sentence) => (by("said").textContent = sentence),
    () => list.scrollHeight - list.scrollTop - list.clientHeight < 120 && (list.scrollTop = list.scrollHeight),
  );
  const answer = { role: "assistant", text: "", model, request_id: null, input_tokens: null, output_tokens: null, first_byte_ms: null, stopped: false };
  const begun = performance.now();
  running = new AbortController();
  by("stop").hidden = false;
  by("send").hidden = true;
  let failed = null;
  try {
    const headers = { "content-type": "application/json", "x-bluesminds-key": key, "x-csrf-token": document.querySelector("meta[name=csrf]").content };
    const response = await fetch(form.getAttribute("action"), { method: "POST", headers, body: JSON.stringify(request(model)), signal: running.signal });
    answer.request_id = response.headers.get("x-request-id");
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const data of events(response.body)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      const piece = chunk.choices?.[0]?.delta?.content;
      if (piece) {
        answer.first_byte_ms ??= Math.round(performance.now() - begun);
        answer.text += piece;
        out.write(piece);
      }
      if (chunk.usage) [answer.input_tokens, answer.output_tokens] = [chunk.usage.prompt_tokens, chunk.usage.completion_tokens];
    }
  } catch (error) {
    if (error.name === "AbortError") answer.stopped = true;
    else failed = error;
  }
  out.end();
  running = null;
  by("stop").hidden = true;
  by("send").hidden = false;
  article.removeAttribute("aria-busy");
  answer.duration_ms = Math.round(performance.now() - begun);
  if (failed && !answer.text) return showFailure(article, question, failed);
  showFacts(article, answer);
  if (failed) toast(failed.message);
  history.push({ role: "assistant", text: answer.text, images: [], article });
  history.slice(-2).forEach(addActions);
  await store(question, answer).catch((error) => toast(`The chat was not stored: ${error.message}`));
}

// The message of the error in place of the answer; what was typed is not lost.
function showFailure(article, question, error) {
  history.pop();
  const line = document.createElement("p");
  line.className = "notice";
  line.setAttribute("role", "alert");
  line.textContent = error.message;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Try again";
  button.addEventListener("click", () => {
    question.article.remove();
    article.remove();
    images = question.images;
    send(question.text);
  });
  article.querySelector(".body").replaceChildren(line, button);
  by("said").textContent = "";
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = prompt.value.trim();
  if (running || !text) return;
  prompt.value = "";
  send(text);
});
prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
document.addEventListener("keydown", (event) => event.key === "Escape" && running?.abort());
by("stop").addEventListener("click", () => running?.abort());
list.addEventListener("click", (event) => {
  if (event.target.matches(".starter")) send(event.target.textContent);
});
by("images").addEventListener("change", async ({ target }) => {
  const read = (file) => new Promise((resolve) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.readAsDataURL(file);
  });
  images = await Promise.all([...target.files].slice(0, 8).map(read));
  by("attached").textContent = images.length ? `Attached: ${images.length}.` : "";
  target.value = "";
});
prompt.focus();
