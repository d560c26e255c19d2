// Orders: the browser goes to the page of the payment provider, or the instructions are shown.

document.addEventListener("sent", (event) => {
  if (!event.target.matches("[data-pays]")) return;
  const { url, instructions, order_id: order } = event.detail;
  if (url?.startsWith("https://")) return location.assign(url);
  const dialog = document.getElementById("instructions");
  if (instructions) dialog.querySelector("[data-how]").textContent = instructions;
  dialog.querySelector(".secret code").textContent = order;
  dialog.querySelector("[data-copy]").dataset.copy = order;
  dialog.addEventListener("close", () => location.reload()); // the order is in the list then
  dialog.showModal();
});

// The customer returns from the provider before its event may arrive, so the gateway reads the payment.
if (document.querySelector("[data-returned]")) document.getElementById("check").click();
