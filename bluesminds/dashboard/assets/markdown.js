// Answers as elements: paragraphs, lists, headings, code and links, made by createElement and textContent alone.
// Images are not shown, so that an answer cannot cause a request.

function element(tag, ...children) {
  const made = document.createElement(tag);
  made.append(...children);
  return made;
}

function link(text, address) {
  const made = element("a", text);
  made.href = address;
  made.rel = "noopener noreferrer";
  made.target = "_blank";
  return made;
}

function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*|(?<!!)\[[^\]]+\]\(https?:\/\/[^\s)]+\))/).map((part) => {
    if (/^`[^`]+`$/.test(part)) return element("code", part.slice(1, -1));
    if (/^\*\*[^*]+\*\*$/.test(part)) return element("strong", part.slice(2, -2));
    const found = part.match(/^\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)$/);
    return found ? link(found[1], found[2]) : part;
  });
}

function block(text) {
  const fence = text.match(/^```[^\n]*\n?([\s\S]*?)(```\s*)?$/);
  if (fence) {
    const code = element("pre", element("code", fence[1]));
    code.tabIndex = 0;
    return code;
  }
  const heading = text.match(/^#{1,4} (.*)$/);
  if (heading) return element("h3", ...inline(heading[1]));
  const lines = text.split("\n");
  for (const [list, mark] of [["ol", /^\d+[.)] /], ["ul", /^[-*] /]])
    if (lines.every((line) => mark.test(line)))
      return element(list, ...lines.map((line) => element("li", ...inline(line.replace(mark, "")))));
  return element("p", ...inline(text));
}

function end(text) {
  if (!text.startsWith("```")) return text.indexOf("\n\n");
  const close = text.indexOf("\n```", 3);
  return close < 0 ? -1 : text.indexOf("\n", close + 1);
}

// Finished blocks are made once; only the last one is made again, at most once per frame. `said` gets each
// finished block as text.
export function writer(body, said, drawn) {
  let rest = "";
  let open = null;
  let frame = 0;
  function replace(made) {
    if (open) open.replaceWith(made);
    else body.append(made);
  }
  function draw() {
    frame = 0;
    for (let at; (at = end(rest)) >= 0; rest = rest.slice(at).replace(/^\n+/, "")) {
      const made = block(rest.slice(0, at).trimEnd());
      replace(made);
      open = null;
      said(made.textContent);
    }
    if (rest.trim()) {
      const made = block(rest.trimEnd());
      replace(made);
      open = made;
    }
    drawn();
  }
  return {
    write(text) {
      rest += text;
      frame ||= requestAnimationFrame(draw);
    },
    end() {
      cancelAnimationFrame(frame);
      draw();
      if (open) said(open.textContent);
    },
  };
}
