// Results of actions of administrators, shown on the page: a test of a server, a link, a verification.

const results = document.querySelector("[data-results]");

function part(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

function show(kind, sentence) {
  const line = part("p", sentence);
  line.className = `notice ${kind}`;
  results?.replaceChildren(line);
}

document.addEventListener("sent", ({ target, detail }) => {
  if ("test" in target.dataset) {
    const models = detail.models ? `, ${detail.models.length} models` : "";
    if (detail.ok) show("good", `${detail.server} answered in ${detail.latency_ms} ms${models}.`);
    else show("bad", `${detail.server} does not work: ${detail.problem}.`);
  }
  if ("link" in target.dataset) show("good", `Mailed to ${detail.email}. It works once: ${detail.url}`);
  if ("verifyLedger" in target.dataset) {
    if (!detail.ok) return show("bad", `The ledger is wrong: ${detail.message}. Compare it with your backups.`);
    show("good", `The ledger is proven. Entries: ${detail.entries}. Balances: ${detail.wallets}. The last entry is ${detail.end}`);
    const list = part("dl", "");
    list.className = "card facts-list";
    for (const [name, amount] of Object.entries(detail.sums)) list.append(part("dt", name), part("dd", `${amount} USD`));
    results.append(list);
  }
  if ("doctor" in target.dataset) {
    target.closest("dialog").close();
    const failed = detail.checks.filter((one) => one.verdict === "failed").length;
    show(detail.ok ? "good" : "bad", detail.ok ? "No check failed." : `${failed} ${failed === 1 ? "check" : "checks"} failed.`);
    const list = part("ul", "");
    list.className = "card verdicts";
    const tones = { ok: "good", warning: "warn", failed: "bad", skipped: "" };
    for (const one of detail.checks) {
      const verdict = part("span", one.verdict);
      verdict.className = `state ${tones[one.verdict]}`;
      const item = part("li", "");
      item.append(verdict, part("b", one.name), part("span", one.message));
      if (one.fix) item.append(part("small", `To fix it: ${one.fix}`));
      list.append(item);
    }
    results.append(list);
  }
  if ("verify" in target.dataset) {
    if (detail.ok) show("good", `The log is complete: ${detail.rows} entries. The last one is ${detail.end}`);
    else show("bad", `The log is damaged: ${detail.problem ?? detail.damage}.`);
  }
});
