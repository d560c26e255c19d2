// Forms that are sent after a second look: the first press shows in one sentence what will be done.

for (const form of document.querySelectorAll("form[data-confirm]")) {
  const question = form.querySelector("[data-question]");
  const button = form.querySelector("[data-yes]");
  const first = button.textContent;

  // Any change needs a new look.
  function again() {
    question.hidden = true;
    button.textContent = first;
  }

  form.addEventListener("submit", (event) => {
    if (!question.hidden) return;
    event.preventDefault();
    event.stopPropagation();
    form.querySelectorAll(".wrong").forEach((one) => one.remove());
    const asks = form.elements.kind.selectedOptions[0].dataset.asks;
    question.textContent = asks.replace("AMOUNT", `${form.elements.amount_usd.value.trim()} USD`);
    question.hidden = false;
    button.textContent = button.dataset.yes;
    question.focus();
  });
  form.addEventListener("input", again);
  form.closest("dialog").addEventListener("close", again);
}
