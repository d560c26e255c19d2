// The time zone of the settings page, kept in a cookie of this browser.

import { keep, leave } from "./app.js";

document.querySelector("[data-zone]").addEventListener("change", (event) => {
  keep("zone", event.target.value);
  leave("", "The time zone is changed.");
});
