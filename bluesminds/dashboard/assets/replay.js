// The figures and the answer of a replay, beside those of the original.

const results = document.querySelector("[data-results]");
const answer = document.querySelector("[data-answer]");
const AS = {
  count: (value) => value.toLocaleString("en"),
  span: (ms) => (ms < 1000 ? `${ms} ms` : `${(ms / 1000).toFixed(2)} s`),
  usd: (text) => `$${text}`,
};

function note(kind, sentence) {
  const line = document.createElement("p");
  line.className = `notice ${kind}`;
  line.textContent = sentence;
  results.append(line);
}

document.addEventListener("sent", ({ target, detail }) => {
  if (!("replay" in target.dataset)) return;
  const { replay, error } = detail;
  results.replaceChildren();
  if (error) note("bad", `The replay failed: ${error.message}`);
  else note("good", "The request was sent again.");
  if (replay.cut) note("warn", "The answer is not complete, because it is too long.");
  for (const cell of document.querySelectorAll("[data-field]")) {
    const value = replay[cell.dataset.field];
    cell.textContent = value === null ? "–" : (AS[cell.dataset.as] ?? String)(value);
  }
  answer.textContent = replay.answer || replay.response || "The answer has no text.";
  answer.parentElement.hidden = false;
  document.querySelector("[data-before]").hidden = true;
  const receipt = document.querySelector("[data-receipt]");
  receipt.href = `/dashboard/requests/${replay.id}`;
  receipt.hidden = false;
});
