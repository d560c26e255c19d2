// The pages around signing in. The token of a link is in the URL fragment, which browsers do not send. It is removed
// from the address bar and sent to the gateway in the body of the form's request only.

const form = document.querySelector("form");
const ask = document.getElementById("ask");
const done = document.getElementById("done");
const missing = document.getElementById("missing");
const problem = document.getElementById("problem");
const deferred = document.querySelector("[data-deferred]");
const show = document.getElementById("show");
const { to, tokenName, opens } = form.dataset;
const titleOfForm = document.title;
let token = "";

function start() {
  const given = tokenName && new URLSearchParams(location.hash.slice(1)).get(tokenName);
  if (tokenName) history.replaceState(null, "", location.pathname + location.search);
  if (given || !tokenName) {
    token = given;
    form.reset();
    hidePassword();
    document.title = titleOfForm;
    problem.hidden = done.hidden = true;
    ask.hidden = form.hidden = false;
    if ("sendsItself" in form.dataset) form.requestSubmit();
  }
  missing.hidden = Boolean(token) || !tokenName;
}

function hidePassword() {
  if (!show) return;
  show.checked = false;
  form.elements.password.type = "password";
}

async function send() {
  // With the page's no-referrer policy some browsers send "Origin: null", which the gateway rejects.
  const body = Object.fromEntries(new FormData(form));
  if (tokenName) body[tokenName] = token;
  if (deferred?.hidden) delete body.code;
  const response = await fetch(to, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    referrerPolicy: "same-origin",
  });
  if (response.ok) return "";
  const { error } = await response.json();
  if (error.code === "second_factor_required" && deferred) deferred.hidden = false;
  return error.message;
}

// The page of the dashboard that led here, or its start. No other address.
function nextPage() {
  const next = new URLSearchParams(location.search).get("next") ?? "";
  return /^\/dashboard(?:[/?]|$)/.test(next) && !next.includes("\\") ? `..${next}` : opens;
}

// A sign-in at another service leads to the same page.
const next = new URLSearchParams(location.search).get("next");
for (const link of document.querySelectorAll("a[data-provider]")) {
  if (next) link.href += `?next=${encodeURIComponent(next)}`;
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
  else if (opens) location.replace(nextPage());
  else showDone();
});
show?.addEventListener("change", () => {
  form.elements.password.type = show.checked ? "text" : "password";
});
if (tokenName) addEventListener("hashchange", start); // another link was opened in this tab
start();
