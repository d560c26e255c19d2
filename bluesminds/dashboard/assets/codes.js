// Redeem codes that were just made: shown once, to copy or to download.

const form = document.querySelector("form[data-codes]");
const dialog = form.closest("dialog");
const made = dialog.querySelector("[data-made]");
const hint = made.querySelector("p");
let kept = false;

form.addEventListener("sent", ({ detail }) => {
  const text = detail.codes.join("\n");
  const file = made.querySelector("[data-file]");
  made.querySelector("pre").textContent = text;
  made.querySelector("[data-copy]").dataset.copy = text;
  file.href = URL.createObjectURL(new Blob([`${text}\n`], { type: "text/plain" }));
  file.download = `codes-${detail.batch.id}.txt`;
  form.reset();
  form.hidden = true;
  made.hidden = false;
  made.querySelector("h2").focus();
});

// Warn once about codes that were not copied or downloaded.
function finish() {
  if (kept) return dialog.close();
  kept = true;
  hint.textContent = "You have not copied or downloaded them. They cannot be shown again. Choose Done to close anyway.";
  hint.classList.add("wrong");
  hint.setAttribute("role", "alert");
}

made.addEventListener("click", (event) => {
  kept ||= Boolean(event.target.closest("[data-copy], [data-file]"));
  if (event.target.closest("[data-done]")) finish();
});
made.addEventListener("copy", () => (kept = true));
dialog.addEventListener("cancel", (event) => {
  if (made.hidden || kept) return;
  event.preventDefault();
  finish();
});
dialog.addEventListener("close", () => {
  if (!made.hidden) location.reload();
});
