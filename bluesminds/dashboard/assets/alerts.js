// The alerts page. A test says for each channel whether it took the message.

import { toast } from "./app.js";

for (const button of document.querySelectorAll("button[data-test]")) {
  button.addEventListener("sent", ({ detail }) => {
    for (const [channel, problem] of Object.entries(detail.channels)) {
      toast(`${channel}: ${problem || "the message was sent"}.`);
    }
  });
}
