// The settings page. The time zone is kept in a cookie of this browser.

import { keep, leave } from "./app.js";

// Recovery codes are in the response only.
for (const form of document.querySelectorAll("form[data-codes]")) {
  form.addEventListener("sent", ({ detail }) => {
    const shown = document.querySelector("[data-recovery]");
    shown.querySelector("pre").textContent = detail.recovery_codes.join("\n");
    for (const one of shown.parentElement.querySelectorAll("form, .two, .hint")) one.hidden = true;
    shown.hidden = false;
    shown.focus();
  });
}

// The service asks the user, and sends the browser back to this page.
for (const form of document.querySelectorAll("form[data-link-start]")) {
  form.addEventListener("sent", ({ detail }) => location.assign(detail.url));
}

const zones = document.querySelector("[data-zone]");
zones.addEventListener("change", () => {
  keep("zone", zones.value);
  leave("", "The time zone is changed.");
});

const here = Intl.DateTimeFormat().resolvedOptions().timeZone;
const offer = document.querySelector("[data-browser-zone]");
if (here !== zones.value && [...zones.options].some((one) => one.value === here)) {
  offer.textContent = `Use the time zone of this browser: ${here}`;
  offer.hidden = false;
  offer.addEventListener("click", () => {
    zones.value = here;
    zones.dispatchEvent(new Event("change"));
  });
}
