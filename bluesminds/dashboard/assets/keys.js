// A dialog that creates a secret: the response replaces the form, and the key is put into the examples.

const PLACE = "YOUR_API_KEY"; // of the key in an example

for (const form of document.querySelectorAll("form[data-secret]")) {
  const dialog = form.closest("dialog");
  const made = dialog.querySelector("[data-made]");
  let copied = false;

  function fill(key) {
    for (const one of made.querySelectorAll("[data-example]")) {
      const button = one.querySelector("[data-copy]");
      button.dataset.copy = button.dataset.copy.replaceAll(PLACE, key);
      one.querySelector("pre").textContent = button.dataset.copy;
    }
  }

  form.addEventListener("sent", ({ detail }) => {
    const secret = detail.key ?? detail.secret;
    made.querySelector(".secret code").textContent = secret;
    made.querySelector("[data-copy]").dataset.copy = secret;
    if (detail.key) fill(detail.key);
    form.reset();
    form.hidden = true;
    made.hidden = false;
    made.querySelector("h2").focus();
  });
  made.addEventListener("click", (event) => {
    copied ||= Boolean(event.target.closest("[data-copy]"));
    if (event.target.closest("[data-done]")) finish();
  });
  made.addEventListener("copy", () => (copied = true));

  // Warn once about a secret that was not copied.
  function finish() {
    const hint = made.querySelector("p");
    if (!copied) {
      copied = true;
      hint.textContent = "You have not copied it. It cannot be shown again. Choose Done to close anyway.";
      hint.classList.add("wrong");
      hint.setAttribute("role", "alert");
    } else dialog.close();
  }
  dialog.addEventListener("cancel", (event) => {
    if (made.hidden || copied) return;
    event.preventDefault();
    finish();
  });
  dialog.addEventListener("close", () => {
    if (!made.hidden) location.reload();
  });
  if ("open" in dialog.dataset) dialog.showModal();
}
