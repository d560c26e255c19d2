// Asks for a confirmation when a button with data-sure is pressed. Loaded at the first press.

import { send } from "./app.js";

function made(name, given, ...children) {
  const node = Object.assign(document.createElement(name), given);
  node.append(...children);
  return node;
}

// data-sure is the question; its sentences after the first one are the text below it.
export function ask(button) {
  const [question, ...more] = button.dataset.sure.split(/(?<=[?]) /);
  const cancel = made("button", { type: "button", textContent: "Cancel", autofocus: true });
  const act = made("button", { type: "button", className: "danger", textContent: button.dataset.act ?? button.textContent.trim() });
  const title = made("h2", { id: "sure-title", textContent: question });
  const text = made("p", { className: "hint", textContent: more.join(" ") });
  const dialog = made("dialog", {}, title, text, made("div", { className: "ends" }, cancel, act));
  dialog.setAttribute("aria-labelledby", "sure-title");
  cancel.addEventListener("click", () => dialog.close());
  act.addEventListener("click", () => {
    dialog.close();
    send(button, button.dataset.body && JSON.parse(button.dataset.body));
  });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
