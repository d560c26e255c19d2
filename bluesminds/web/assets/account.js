// The pages that mailed links open. The token is in the URL fragment, which browsers do not send. It is removed
// from the address bar and sent to the gateway in the body of the form's request only.

const form = document.querySelector("form");
const ask = document.getElementById("ask");
const done = document.getElementById("done");
const missing = document.getElementById("missing");
const problem = document.getElementById("problem");
const show = document.getElementById("show");
const { to, tokenName } = form.dataset;
const titleOfForm = document.title;
let token = "";

function start() {
  const given = new URLSearchParams(location.hash.slice(1)).get(tokenName);
  history.replaceState(null, "", location.pathname + location.search);
  if (given) {
    token = given;
    form.reset();
    hidePassword();
    document.title = titleOfForm;
    problem.hidden = done.hidden = true;
    ask.hidden = form.hidden = false;
  }
  missing.hidden = Boolean(token);
}

function hidePassword() {
  show.checked = false;
  form.elements.password.type = "password";
}

async function send() {
  // With the page's no-referrer policy some browsers send "Origin: null", which the gateway rejects.
  const response = await fetch(to, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ [tokenName]: token, ...Object.fromEntries(new FormData(form)) }),
    referrerPolicy: "same-origin",
  });
  return response.ok ? "" : (await response.json()).error.message;
}

function showDone() {
  token = "";
  form.reset();
  ask.hidden = true;
  done.hidden = false;
  document.title = done.querySelector("h1").textContent;
  done.focus();
}

function showError(message) {
  problem.textContent = message;
  problem.hidden = false;
  problem.focus();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (form.ariaBusy === "true") return;
  hidePassword(); // password managers only save the value of a password field
  problem.hidden = true;
  form.ariaBusy = "true";
  const message = await send().catch(() => "The gateway did not respond. Try again later.");
  form.ariaBusy = "false";
  if (message) showError(message);
  else showDone();
});
show.addEventListener("change", () => {
  form.elements.password.type = show.checked ? "text" : "password";
});
addEventListener("hashchange", start); // another link was opened in this tab
start();
