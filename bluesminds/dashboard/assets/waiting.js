// An account without requests: load the page again when the first one has arrived.

import { ask } from "./app.js";

setInterval(async () => {
  if (document.hidden || document.querySelector("dialog[open]")) return;
  const found = await ask("GET", "/api/auth/limits").catch(() => null);
  if (found && (found.rpm.used || found.tokens_per_month.used)) location.reload();
}, 3000);
