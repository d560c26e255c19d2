// A dialog that creates a secret: the response replaces the form, with examples for several languages.

const EXAMPLES = {
  curl: (base, key, model) => `curl ${base}/chat/completions \\
  -H "Authorization: Bearer ${key}" \\
  -H "Content-Type: application/json" \\
  -d '{"model": ${JSON.stringify(model)}, "messages": [{"role": "user", "content": "Hello!"}]}'`,
  Python: (base, key, model) => `from openai import OpenAI

client = OpenAI(base_url="${base}", api_key="${key}")
response = client.chat.completions.create(
    model=${JSON.stringify(model)},
    messages=[{"role": "user", "content": "Hello!"}],
)
print(response.choices[0].message.content)`,
  Node: (base, key, model) => `import OpenAI from "openai";

const client = new OpenAI({ baseURL: "${base}", apiKey: "${key}" });
const response = await client.chat.completions.create({
  model: ${JSON.stringify(model)},
  messages: [{ role: "user", content: "Hello!" }],
});
console.log(response.choices[0].message.content);`,
};

for (const form of document.querySelectorAll("form[data-secret]")) {
  const dialog = form.closest("dialog");
  const made = dialog.querySelector("[data-made]");
  let copied = false;

  function show(language, key) {
    made.querySelector("pre").textContent = EXAMPLES[language](made.dataset.base, key, made.dataset.model);
    for (const tab of made.querySelectorAll("[data-example]")) tab.setAttribute("aria-pressed", tab.dataset.example === language);
  }

  form.addEventListener("sent", ({ detail }) => {
    const secret = detail.key ?? detail.secret;
    made.querySelector(".secret code").textContent = secret;
    made.querySelector("[data-copy]").dataset.copy = secret;
    for (const tab of made.querySelectorAll("[data-example]")) tab.addEventListener("click", () => show(tab.dataset.example, detail.key));
    if (detail.key) show("curl", detail.key);
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

  // A secret that was not copied is asked about once.
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
