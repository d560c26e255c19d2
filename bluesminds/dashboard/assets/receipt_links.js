// On a receipt: links to the requests beside it in the list that it was opened from, and back to that list.

const ids = JSON.parse(sessionStorage.getItem("listedRequests") ?? "[]");
const at = ids.indexOf(location.pathname.split("/").at(-1));

if (at >= 0) {
  const back = document.querySelector(".crumbs > a");
  back.href = sessionStorage.getItem("listAddress") ?? back.href;
  for (const [name, id] of [["newer", ids[at - 1]], ["older", ids[at + 1]]]) {
    const link = document.querySelector(`[data-${name}]`);
    if (id) link.href = `/dashboard/requests/${id}`;
    else link.remove();
  }
  document.querySelector("[data-neighbors]").hidden = ids.length < 2;
}
