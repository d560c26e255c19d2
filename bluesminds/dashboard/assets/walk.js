// On a receipt: the requests beside it in the list that it was opened from, with the filter of the list.

const walk = JSON.parse(sessionStorage.getItem("walk") ?? "[]");
const at = walk.indexOf(location.pathname.split("/").at(-1));

if (at >= 0) {
  const back = document.querySelector(".crumbs > a");
  back.href = sessionStorage.getItem("walked") ?? back.href;
  for (const [name, id] of [["newer", walk[at - 1]], ["older", walk[at + 1]]]) {
    const link = document.querySelector(`[data-${name}]`);
    if (id) link.href = `/dashboard/requests/${id}`;
    else link.remove();
  }
  document.querySelector("[data-walk]").hidden = walk.length < 2;
}
