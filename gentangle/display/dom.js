// What the widgets' modules share: it stands before each module's text, so that a widget stays one module without imports.

function direction(value) {
  return value === 0 ? "  ＝" : value > 0 ? "  ▲ rises" : "  ▼ falls";
}

function element(tag, values = {}, ...children) {
  const node = document.createElement(tag);
  attributes(node, values);
  node.append(...children);
  return node;
}

function svg(tag, values = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  attributes(node, values);
  node.append(...children);
  return node;
}

function attributes(node, values) {
  for (const [name, value] of Object.entries(values)) node.setAttribute(name, String(value));
}

function svgText(text, values) {
  const node = svg("text", values);
  node.textContent = text;
  return node;
}

// Rounded, without a negative zero, and with the minus sign of print.
function printed(value, digits = 2) {
  const rounded = Number(value.toFixed(digits));
  return (rounded === 0 ? 0 : rounded).toFixed(digits).replace("-", "−");
}

// A slider with its symbol (HTML, a constant of the module), what it is, and its value, all of one label.
function rangeControl({ name, symbol, text, min, max, step, digits = 2, hue = "plain" }, change) {
  // JupyterLab takes the arrow keys unless the focused element itself says so.
  const input = element("input", { type: "range", name, min, max, step, "data-lm-suppress-shortcuts": "true" });
  const value = element("span", { class: "gt-value" });
  const label = element("span", { class: "gt-name" });
  label.innerHTML = `<b>${symbol}</b> <small>${text}</small>`;
  input.addEventListener("input", () => change(Number(input.value)));
  return {
    root: element("label", { class: `gt-control gt-${hue}` }, label, input, value),
    show(number, written = printed(number, digits)) {
      input.value = String(number);
      value.textContent = written;
      input.setAttribute("aria-valuetext", written);
    },
  };
}

// A menu; choices are [value, title].
function choiceControl({ name, text, choices }, change) {
  const options = choices.map(([value, title]) => element("option", { value }, title));
  const input = element("select", { name, "data-lm-suppress-shortcuts": "true" }, ...options);
  input.addEventListener("change", () => change(input.value));
  return { root: element("label", { class: "gt-choice" }, element("span", {}, text), input), show: (value) => (input.value = value) };
}

// A table whose cells carry the name of what they show: rows are [name, HTML of the head], columns [name, HTML, hue].
function readingsTable(caption, rows, columns) {
  const head = (html, values) => {
    const cell = element("th", values);
    cell.innerHTML = html; // constants of the module
    return cell;
  };
  const cells = {};
  const body = rows.map(([row, html]) =>
    element("tr", {}, head(html, { scope: "row" }), ...columns.map(([column]) => {
      const name = `${column}_${row}`;
      return (cells[name] = element("td", { "data-reading": name }));
    })));
  const top = columns.map(([, html, hue]) => head(html, { scope: "col", class: `gt-${hue}` }));
  const root = element("table", { class: "gt-table" }, element("caption", {}, caption),
    element("thead", {}, element("tr", {}, element("td"), ...top)), element("tbody", {}, ...body));
  return {
    root,
    show(reading, written) {
      for (const [name, cell] of Object.entries(cells)) {
        cell.dataset.value = String(reading[name]);
        cell.textContent = written(name, reading[name]);
      }
    },
  };
}

// Where a pointer is, [x, y] in a picture's own units.
function pointIn(picture, event) {
  const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse());
  return [x, y];
}

// A handle that is dragged by mouse, pen or finger; `move` gets the place in the picture's own units.
function followPointer(handle, picture, move) {
  let held = false;
  handle.addEventListener("pointerdown", (event) => {
    held = true;
    handle.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  // A finger would scroll the page: Chromium heeds no touch-action of shapes in an inner svg.
  handle.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
  handle.addEventListener("pointermove", (event) => held && move(pointIn(picture, event)));
  for (const end of ["pointerup", "pointercancel"]) handle.addEventListener(end, () => (held = false));
}

// The case in words, from cases[name] = [title, meaning].
function makeAnnouncement(cases) {
  const title = element("strong");
  const meaning = element("span");
  const root = element("output", { class: "gt-case", "aria-live": "polite", "data-reading": "case" }, title, " ", meaning);
  return {
    root,
    show(reading) {
      // Written only when it changes, so that a screen reader hears cases and not slider steps.
      if (root.dataset.value === reading.case) return;
      root.dataset.value = reading.case;
      [title.textContent, meaning.textContent] = cases[reading.case];
    },
  };
}

// A value on a slider's notches, within its range.
function toStep({ min, max, step }, value) {
  return Math.min(max, Math.max(min, Number((Math.round(value / step) * step).toFixed(2))));
}
