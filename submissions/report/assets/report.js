"use strict";
// Sorts tables by a click on a column's head, and shows a recipe in words.

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.querySelectorAll("thead th")];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const numbers = head.classList.contains("number");
    const now = head.getAttribute("aria-sort");
    const descending = now ? now === "ascending" : numbers;
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const value = (row) => {
      const cell = row.cells[column];
      return numbers ? Number(cell.dataset.value) : cell.textContent.trim();
    };
    const compare = (a, b) => (numbers ? value(a) - value(b) : value(a).localeCompare(value(b)));
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) => (descending ? compare(b, a) : compare(a, b)));
    body.append(...rows);
  }));
}

for (const button of document.querySelectorAll("button[data-recipe]")) {
  button.addEventListener("click", () => {
    for (const dialog of document.querySelectorAll("dialog.words")) {
      if (dialog.dataset.name === button.dataset.recipe) dialog.showModal();
    }
  });
}
