// The text of an answer as elements, and the events of a stream. Nothing here makes markup of text: elements are
// made by createElement, links lead to http and https only, and there are no images.

export function element(tag, ...children) {
  const made = document.createElement(tag);
  made.append(...children);
  return made;
}

const INLINE = /(`+)(.+?)\1(?!`)|\*\*(.+?)\*\*|(?<![\w*])\*([^*\s](?:[^*]*[^*\s])?)\*(?!\w)|\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)|(https?:\/\/[^\s<>)\]]*[^\s<>)\].,;:!?'"])/s;

function inline(text) {
  const found = [];
  for (let match; (match = INLINE.exec(text)); text = text.slice(match.index + match[0].length)) {
    const [, , code, strong, weak, label, target, address] = match;
    found.push(text.slice(0, match.index));
    if (code) found.push(element("code", code));
    else if (strong) found.push(element("strong", ...inline(strong)));
    else if (weak) found.push(element("em", ...inline(weak)));
    else found.push(anchor(target ?? address, label ?? address));
  }
  return [...found, text];
}

function anchor(address, label) {
  const made = element("a", label);
  made.href = address;
  made.rel = "noopener noreferrer";
  made.target = "_blank";
  return made;
}

const FENCE = /^\s*(`{3,}|~{3,})[ \t]*([^\s`]*)[^\n`]*(?:\n|$)/;
const ITEM = /^(\s*)(?:[-*+]|(\d{1,9})[.)])\s+/;

function fenced(text, [head, , language]) {
  const code = text.slice(head.length).replace(/\n?\s*(?:`{3,}|~{3,})\s*$/, "");
  const button = element("button", "Copy");
  button.type = "button";
  button.className = "quiet small";
  button.dataset.copy = code;
  const pre = element("pre", element("code", code));
  pre.tabIndex = 0;
  const made = element("div", element("div", element("span", language), button), pre);
  made.className = "fenced";
  return made;
}

// Lines that are indented more than the first item belong to the item before them.
function list(lines) {
  const [, indent, number] = ITEM.exec(lines[0]);
  const made = element(number ? "ol" : "ul");
  if (number) made.start = Number(number);
  let inner = [];
  const close = () => inner.length && made.lastElementChild.append(...blocks(inner.join("\n")));
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && item[1].length <= indent.length) {
      close();
      inner = [];
      made.append(element("li", ...inline(line.slice(item[0].length))));
    } else inner.push(item ? line : line.trim());
  }
  close();
  return made;
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|");

function table(lines) {
  const row = (tag, line) => element("tr", ...cells(line).map((cell) => element(tag, ...inline(cell.trim()))));
  const made = element("div", element("table", element("thead", row("th", lines[0])), element("tbody", ...lines.slice(2).map((line) => row("td", line)))));
  made.className = "wide";
  made.tabIndex = 0;
  return made;
}

// One part of the text, up to an empty line or a fence, as elements.
function blocks(text) {
  const fence = FENCE.exec(text);
  if (fence) return [fenced(text, fence)];
  const lines = text.split("\n");
  const heading = /^#{1,6}\s+(.*)/.exec(lines[0]);
  if (heading) return [element("h3", ...inline(heading[1])), ...(lines.length > 1 ? blocks(lines.slice(1).join("\n")) : [])];
  if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(text)) return [element("hr")];
  if (lines[1] && /^[\s|:-]*-[\s|:-]*$/.test(lines[1]) && lines[0].includes("|")) return [table(lines)];
  if (ITEM.test(lines[0])) return [list(lines)];
  if (lines.every((line) => line.startsWith(">"))) return [element("blockquote", ...blocks(lines.map((line) => line.replace(/^> ?/, "")).join("\n")))];
  const at = lines.findIndex((line) => ITEM.test(line));
  if (at > 0) return [element("p", ...inline(lines.slice(0, at).join("\n"))), list(lines.slice(at))];
  return text.trim() ? [element("p", ...inline(text))] : [];
}

// Where the first part of the text ends; -1 if it can still grow.
function end(text) {
  const fence = FENCE.exec(text);
  if (!fence) return text.search(/\n\s*\n|\n\s*(?:```|~~~)[^\n`]*(?:\n|$)/);
  const close = new RegExp(`\\n\\s*${fence[1]}[ \\t]*(?:\\n|$)`).exec(text.slice(fence[0].length - 1));
  return close ? fence[0].length - 1 + close.index + close[0].length : -1;
}

// Writes text into `body` as it arrives. Finished parts are made once; the last one again, at most once in a frame.
// `finished` gets the text of each finished part.
export function writer(body, finished = () => {}) {
  let rest = "";
  let open = [];
  let frame = 0;
  function place(text) {
    const made = blocks(text.trimEnd());
    open.forEach((one) => one.remove());
    body.append(...made);
    open = made;
  }
  function close() {
    if (open.length) finished(open.map((one) => one.textContent).join(" "));
    open = [];
  }
  function draw() {
    frame = 0;
    rest = rest.replace(/^(?:[ \t]*\n)+/, "");
    for (let at; (at = end(rest)) > 0; rest = rest.slice(at).replace(/^\n(?:[ \t]*\n)*/, "")) {
      place(rest.slice(0, at));
      close();
    }
    if (rest.trim()) place(rest);
  }
  return {
    write(text, drawn = () => {}) {
      rest += text;
      frame ||= requestAnimationFrame(() => drawn(draw()));
    },
    end() {
      cancelAnimationFrame(frame);
      draw();
      close();
    },
  };
}

export function render(body, text) {
  body.replaceChildren();
  const out = writer(body);
  out.write(text);
  out.end();
}

// The data of the server-sent events of a response.
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    buffer += value ?? "\n\n";
    const parts = buffer.split(/\r?\n\r?\n/);
    buffer = parts.pop();
    for (const part of parts) {
      const data = part.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim());
      if (data.length) yield data.join("\n");
    }
    if (done) return;
  }
}
