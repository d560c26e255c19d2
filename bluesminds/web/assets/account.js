// The pages that mailed links lead to. The token comes behind "#", which browsers send to nobody; it leaves the
// address bar at once, and the gateway only in the body of the form's request.

const form = document.querySelector("form");
const ask = document.getElementById("ask");
const done = document.getElementById("done");
const missing = document.getElementById("missing");
const problem = document.getElementById("problem");
const show = document.getElementById("show");
const { to, tokenName } = form.dataset;
const titleOfForm = document.title;
let token = "";

function begin() {
  const given = new URLSearchParams(location.hash.slice(1)).get(tokenName);
  history.replaceState(null, "", location.pathname + location.search);
  if (given) {
    token = given;
    form.reset();
    conceal();
    document.title = titleOfForm;
    problem.hidden = done.hidden = true;
    ask.hidden = form.hidden = false;
  }
  missing.hidden = Boolean(token);
}

function conceal() {
  show.checked = false;
  form.elements.password.type = "password";
}

async function send() {
  // A page without a referrer has some browsers hide its origin from its own site, which then refuses changes.
  const answer = await fetch(to, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ [tokenName]: token, ...Object.fromEntries(new FormData(form)) }),
    referrerPolicy: "same-origin",
  });
  return answer.ok ? "" : (await answer.json()).error.message;
}

function finish() {
  token = "";
  form.reset();
  ask.hidden = true;
  done.hidden = false;
  document.title = done.querySelector("h1").textContent;
  done.focus();
}

function complain(sentence) {
  problem.textContent = sentence;
  problem.hidden = false;
  problem.focus();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (form.ariaBusy === "true") return;
  conceal(); // password managers keep what a password field holds
  problem.hidden = true;
  form.ariaBusy = "true";
  const sentence = await send().catch(() => "The gateway could not be reached. Try again in a moment.");
  form.ariaBusy = "false";
  if (sentence) complain(sentence);
  else finish();
});
show.addEventListener("change", () => {
  form.elements.password.type = show.checked ? "text" : "password";
});
addEventListener("hashchange", begin); // another link, opened where this page is
begin();
