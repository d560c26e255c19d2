// Results of actions of administrators, shown on the page: a test of a server, a link, a verification.

const results = document.querySelector("[data-results]");

function show(kind, sentence) {
  const line = document.createElement("p");
  line.className = `notice ${kind}`;
  line.textContent = sentence;
  results?.replaceChildren(line);
}

document.addEventListener("sent", ({ target, detail }) => {
  if ("test" in target.dataset) {
    const models = detail.models ? `, ${detail.models.length} models` : "";
    if (detail.ok) show("good", `${detail.server} answered in ${detail.latency_ms} ms${models}.`);
    else show("bad", `${detail.server} does not work: ${detail.problem}.`);
  }
  if ("link" in target.dataset) show("good", `Mailed to ${detail.email}. It works once: ${detail.url}`);
  if ("verify" in target.dataset) {
    if (detail.ok) show("good", `The log is complete: ${detail.rows} entries. The last one is ${detail.end}`);
    else show("bad", `The log is damaged: ${detail.problem ?? detail.damage}.`);
  }
});
