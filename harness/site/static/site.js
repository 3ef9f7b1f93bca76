"use strict";
// Makes tables sortable and filterable, draws charts when they come into view, and follows a figure to its cells.

const dark = matchMedia("(prefers-color-scheme: dark)");

const PAPER = 640; // width of a chart on paper, in pixels
let folded = null; // while printing, the parts that were closed before

function draw(figure) {
  const { data, layout } = JSON.parse(figure.querySelector("script").textContent);
  const template = THEMES[dark.matches && !folded ? "dark" : "light"];
  const width = folded ? PAPER : undefined;
  const options = { responsive: true, displayModeBar: false };
  Plotly.react(figure.querySelector(".plot"), data, { ...layout, template, width }, options);
  figure.dataset.drawn = "";
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((entry) => entry.isIntersecting)) {
    seen.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "400px" });

document.querySelectorAll("figure.chart").forEach((figure) => seen.observe(figure));
dark.addEventListener("change", () => document.querySelectorAll("figure[data-drawn]").forEach(draw));
addEventListener("beforeprint", () => {
  folded = document.querySelectorAll("details:not([open])");
  folded.forEach((part) => { part.open = true; });
  document.querySelectorAll("figure.chart").forEach(draw);
});
addEventListener("afterprint", () => {
  folded.forEach((part) => { part.open = false; });
  folded = null;
  for (const figure of document.querySelectorAll("figure.chart")) { // as wide as the page when they come into view
    delete figure.dataset.drawn;
    seen.observe(figure);
  }
});

const MANY = 15; // rows from which a table can be searched

function tabulate(DataTable, table) {
  const many = table.id === "cells" || table.tBodies[0].rows.length >= MANY;
  const options = {
    autoWidth: false,
    columnControl: [
      { extend: "order", text: "Sort" },
      { extend: "dropdown", text: "Filter", content: ["title", { extend: "search", titleAttr: "[title]" }] },
    ],
    language: { search: `Search ${table.caption.innerHTML}:` },
    layout: { topStart: many ? "search" : null, topEnd: null, bottomStart: many ? "info" : null, bottomEnd: "paging" },
    order: [],
    ordering: { indicators: false, handler: true },
    pageLength: 50,
  };
  if (table.id === "cells") {
    const data = JSON.parse(document.getElementById("cells-data").textContent);
    const columns = Array.from(table.tHead.rows[0].cells, () => ({ render: DataTable.render.text() }));
    const cells = new DataTable(table, { ...options, data, columns, deferRender: true });
    follow(cells);
    addEventListener("hashchange", () => follow(cells));
  } else {
    new DataTable(table, { ...options, paging: table.tBodies[0].rows.length > options.pageLength });
  }
  for (const head of table.tHead.rows[0].cells) {
    const title = head.querySelector(".dt-column-title").textContent;
    for (const button of head.querySelectorAll("button")) button.ariaLabel += ` ${title}`;
  }
  const region = table.closest(".wide"); // it scrolls no more, what lies in it does
  region.removeAttribute("tabindex");
  region.querySelector(".dt-layout-table").tabIndex = 0;
}

// The address says which cells, as in #grid=digits&defense=whitening.
function follow(cells) {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const chosen = document.getElementById("chosen");
  cells.columns().every(function () {
    const value = wanted.get(this.title());
    this.search(value ?? "", { exact: value !== null });
  });
  cells.draw();
  chosen.hidden = wanted.size === 0;
  chosen.textContent = `Only ${[...wanted].map((pair) => pair.join(" ")).join(", ")}: `
    + `${cells.rows({ search: "applied" }).count()} of ${cells.rows().count()}. `;
  const all = Object.assign(document.createElement("a"), { href: "#", textContent: "Show all" });
  chosen.append(all);
}

if (typeof TABLES !== "undefined") {
  TABLES.then(({ default: DataTable, set_or_remove_dark_class }) => {
    set_or_remove_dark_class();
    document.querySelectorAll("table.data").forEach((table) => tabulate(DataTable, table));
    document.documentElement.dataset.ready = "";
  });
}
