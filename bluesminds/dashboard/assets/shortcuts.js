// Keys of every page. Loaded with the first one that is pressed.

const PLACES = { o: "", p: "/playground", r: "/requests", u: "/usage", k: "/keys", m: "/models" };
let at = -1;
let going = false;

// j and k move along the rows of a list; on a receipt they open the requests beside it in the list.
function move(step) {
  const beside = document.querySelector(step > 0 ? "[data-older]" : "[data-newer]");
  if (beside) return beside.click();
  const rows = [...document.querySelectorAll(".rows tbody tr")].filter((row) => row.querySelector("a"));
  rows[at]?.classList.remove("at");
  at = Math.min(Math.max(at + step, 0), rows.length - 1);
  rows[at]?.classList.add("at");
  rows[at]?.querySelector("a").focus();
}

export function press(key) {
  if (going && key in PLACES) {
    going = false;
    return location.assign(`/dashboard${PLACES[key]}`);
  }
  going = key === "g";
  if (key === "?") document.getElementById("shortcuts")?.showModal();
  if (key === "j" || key === "k") move(key === "j" ? 1 : -1);
  if (/^[1-4]$/.test(key)) document.querySelectorAll("[aria-label=Time] a")[key - 1]?.click();
}
