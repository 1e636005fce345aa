"use strict";

// Tables: a click on a heading sorts, a second one the other way round; a link saves what is shown as CSV.
function sortBy(table, column) {
  const heading = table.tHead.rows[0].cells[column], body = table.tBodies[0];
  const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const value = (row) => row.cells[column].textContent;
  const compare = (a, b) => (a === "" || b === "")
    ? (a === "") - (b === "")
    : direction * (isNaN(parseFloat(a)) || isNaN(parseFloat(b)) ? a.localeCompare(b) : parseFloat(a) - parseFloat(b));
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b))));
}

function csvOf(table) {
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  return [...table.rows].map((row) => [...row.cells].map((cell) => quoted(cell.textContent.trim())).join(",")).join("\n") + "\n";
}

for (const table of document.querySelectorAll("table.numbers")) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = cell.textContent;
    button.addEventListener("click", () => sortBy(table, column));
    cell.replaceChildren(button);
  });
  const link = document.createElement("a");
  link.textContent = "Save this table as CSV";
  link.className = "save";
  link.download = table.dataset.name + ".csv";
  link.href = "#";
  link.addEventListener("click", () => {
    link.href = "data:text/csv;charset=utf-8," + encodeURIComponent(csvOf(table));
  });
  table.parentElement.after(link);
}
