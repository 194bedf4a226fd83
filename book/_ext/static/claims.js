// Two menus above the claims ledger: only the rows of a paper, or of a status. Without scripts all rows are shown.
(function () {
  "use strict";
  const PAPERS = { "gradient entanglement": "arXiv 2410.13828", "gradient matching": "arXiv 2104.09937" };

  function menu(name, choices, change) {
    const select = document.createElement("select");
    select.name = name;
    select.replaceChildren(...["all", ...choices].map((choice) => new Option(choice, choice)));
    select.addEventListener("change", change);
    const label = document.createElement("label");
    label.append(`${name} `, select);
    return { label, select };
  }

  function dress(table) {
    const rows = [...table.querySelectorAll("tbody tr")].map((row) => ({
      row,
      status: row.querySelector(".gt-status").textContent.trim(),
      source: row.querySelector(".gt-source").textContent,
    }));
    const count = document.createElement("output");
    count.setAttribute("aria-live", "polite");
    const show = () => {
      for (const { row, status, source } of rows) {
        const kept = (of.select.value === "all" || source.includes(PAPERS[of.select.value])) &&
          (is.select.value === "all" || status === is.select.value);
        row.hidden = !kept;
      }
      count.textContent = `${rows.filter(({ row }) => !row.hidden).length} of ${rows.length} claims`;
    };
    const of = menu("paper", Object.keys(PAPERS), show);
    const is = menu("status", [...new Set(rows.map(({ status }) => status))], show);
    const bar = document.createElement("p");
    bar.className = "gt-filters";
    bar.append(of.label, is.label, count);
    (table.closest(".pst-scrollable-table-container") ?? table).before(bar);
    show();
  }

  addEventListener("DOMContentLoaded", () => document.querySelectorAll("table.gt-claims").forEach(dress));
})();
