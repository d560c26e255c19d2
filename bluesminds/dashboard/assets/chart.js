// Shows the values of a chart at the pointer, or with the arrow keys. They are read from its table.

for (const chart of document.querySelectorAll("[data-chart]")) follow(chart);

function follow(chart) {
  const plot = chart.querySelector(".plot");
  const marks = chart.querySelector(".marks");
  const band = chart.querySelector(".band");
  const tip = chart.querySelector(".tip");
  const rows = [...chart.querySelectorAll("tbody tr")];
  const names = [...chart.querySelectorAll("thead th")].slice(1).map((cell) => cell.textContent);
  const swatches = [...chart.querySelectorAll(".legend .swatch")];

  function show(slot) {
    const cells = [...rows[slot].cells].map((cell) => cell.textContent);
    const title = document.createElement("b");
    title.textContent = cells[0];
    const lines = names.map((name, at) => {
      const line = document.createElement("div");
      const value = document.createElement("span");
      value.textContent = cells[at + 1];
      line.append(...(swatches[at] ? [swatches[at].cloneNode()] : []), name, value);
      return line;
    });
    tip.replaceChildren(title, ...lines.reverse());
    tip.hidden = false;
    band.setAttribute("x", slot * 100);
    band.setAttribute("visibility", "visible");
    plot.setAttribute("aria-valuenow", slot + 1);
    plot.setAttribute("aria-valuetext", [cells[0], cells.at(-1), ...names.slice(0, -1).map((name, at) => `${name} ${cells[at + 1]}`)].join(", "));
    const box = marks.getBoundingClientRect();
    const left = box.left - chart.getBoundingClientRect().left + ((slot + 0.5) * box.width) / rows.length;
    const beside = left + tip.offsetWidth + 24 > chart.clientWidth ? left - tip.offsetWidth - 14 : left + 14;
    tip.style.transform = `translate(${Math.round(beside)}px, 8px)`;
  }

  function hide() {
    tip.hidden = true;
    band.setAttribute("visibility", "hidden");
  }

  plot.addEventListener("pointermove", (event) => {
    const box = marks.getBoundingClientRect();
    const slot = Math.floor(((event.clientX - box.left) / box.width) * rows.length);
    if (slot >= 0 && slot < rows.length) show(slot);
    else hide();
  });
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const now = Number(plot.getAttribute("aria-valuenow")) - 1;
    const steps = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: rows.length - 1, PageUp: now - 7, PageDown: now + 7 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    show(Math.min(Math.max(steps[event.key], 0), rows.length - 1));
  });
}
