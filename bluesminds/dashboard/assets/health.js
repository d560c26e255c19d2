// The health of servers and their running requests, changed in place while the page is visible.

import { ask } from "./app.js";

const WORDS = { up: ["good", "Up"], down: ["bad", "Down"], unusable: ["bad", "Unusable"], unknown: ["warn", "Not checked yet"] };
const MODES = ["Draining", "Off"]; // these change on this page only

setInterval(async () => {
  if (document.hidden) return;
  const found = await ask("GET", "/api/admin/health").catch(() => null);
  if (!found) return;
  const down = found.servers.filter((server) => server.state === "down").length;
  for (const note of document.querySelectorAll("[data-down]")) {
    note.textContent = `${down} down`;
    note.hidden = !down;
  }
  for (const server of found.servers) {
    const name = CSS.escape(server.name);
    const [tone, word] = WORDS[server.state];
    for (const mark of document.querySelectorAll(`[data-state="${name}"]`)) {
      if (MODES.includes(mark.textContent) || mark.textContent === word) continue;
      mark.className = `state ${tone}`;
      mark.textContent = word;
    }
    for (const cell of document.querySelectorAll(`[data-running="${name}"]`)) {
      cell.textContent = `${server.running} of ${server.capacity}`;
    }
  }
}, 5000);
