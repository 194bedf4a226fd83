// Two gradients in the plane they span: what one step on a preference pair does to both log-probabilities.
// The maths is gentangle/alignment/conditions.py's; tests/js compares the two.
// direction, element, svg and attributes are dom.js's.

// ---- maths: pure functions; a Gram matrix is [[|w|^2, <w,l>], [<w,l>, |l|^2]], rows chosen and rejected ----

export function gramOf(chosenNorm, rejectedNorm, angle) {
  // To 15 decimals: in floating point cos 60 degrees is above 1/2, and a tie would be read as a fall.
  const cos = Math.round(Math.cos((angle * Math.PI) / 180) * 1e15) / 1e15;
  const inner = chosenNorm * rejectedNorm * cos;
  return [[chosenNorm ** 2, inner], [inner, rejectedNorm ** 2]];
}

export function firstOrderChanges(gram, dChosen = 1, dRejected = 1, eta = 1) {
  const [[chosenSq, inner], [, rejectedSq]] = gram;
  return [
    eta * (dChosen * chosenSq - dRejected * inner),
    eta * (dChosen * inner - dRejected * rejectedSq),
  ];
}

export function conditions(gram, dChosen = 1, dRejected = 1) {
  const [chosen, rejected] = firstOrderChanges(gram, dChosen, dRejected);
  return { chosenDoesNotFall: chosen >= 0, rejectedDoesNotRise: rejected <= 0 };
}

export function caseOf([chosen, rejected]) {
  if (chosen === 0 && rejected === 0) return "unmoved";
  if (chosen >= 0) return rejected <= 0 ? "chosen-up-rejected-down" : "both-up";
  return rejected <= 0 ? "both-down" : "chosen-down-rejected-up";
}

export function cosine(gram) {
  return gram[0][1] / Math.sqrt(gram[0][0] * gram[1][1]);
}

// ---- what is on the screen ----

const CASES = {
  "chosen-up-rejected-down": ["Chosen up, rejected down", "as intended: both conditions hold."],
  "both-up": ["Both up", "the rejected response rises along with the chosen one."],
  "both-down": ["Both down", "the chosen response falls along with the rejected one."],
  "chosen-down-rejected-up": ["Chosen down, rejected up", "which no first-order step on one pair can do."],
  unmoved: ["Unmoved", "the update is zero: the two gradients cancel."],
};

// Trait, symbol as HTML, what it is, range, unit; the ranges are those of the Python traits.
const CONTROLS = [
  { name: "chosen_norm", symbol: "|<i>w</i>|", text: "chosen gradient", min: 0.1, max: 3, step: 0.05, hue: "w" },
  { name: "rejected_norm", symbol: "|<i>l</i>|", text: "rejected gradient", min: 0.1, max: 3, step: 0.05, hue: "l" },
  { name: "angle", symbol: "∠(<i>w</i>, <i>l</i>)", text: "angle", min: 0, max: 180, step: 1, unit: "°" },
  { name: "ratio", symbol: "<i>d<sub>w</sub></i> / <i>d<sub>l</sub></i>", text: "slope ratio", min: 0.25, max: 4, step: 0.05, hue: "v" },
  { name: "eta", symbol: "<i>η</i>", text: "step", min: 0.05, max: 1, step: 0.05 },
];

const W = '<i class="gt-w">w</i>';
const L = '<i class="gt-l">l</i>';
const RATIO = "<i>d<sub>w</sub></i>/<i>d<sub>l</sub></i>";
const INVERSE = "<i>d<sub>l</sub></i>/<i>d<sub>w</sub></i>";

const READINGS = [
  { name: "inner_product", term: `⟨${W}, ${L}⟩` },
  { name: "cosine", term: `cos(${W}, ${L})` },
  { name: "change_chosen", term: 'Δ log <i class="gt-w">π<sub>w</sub></i>' },
  { name: "change_rejected", term: 'Δ log <i class="gt-l">π<sub>l</sub></i>' },
  { name: "chosen_does_not_fall", term: `chosen does not fall: ⟨${W}, ${L}⟩ ≤ (${RATIO}) |${W}|²`, bound: "chosen_bound" },
  { name: "rejected_does_not_rise", term: `rejected does not rise: ⟨${W}, ${L}⟩ ≤ (${INVERSE}) |${L}|²`, bound: "rejected_bound" },
];

const HALF = 160; // of the picture, in its own units
const EXTENTS = [2.5, 5, 10, 20]; // gradient units from the centre to the edge

export function render({ model, el }) {
  const state = () => Object.fromEntries(CONTROLS.map(({ name }) => [name, model.get(name)]));
  const change = (values) => {
    for (const [name, value] of Object.entries(values)) model.set(name, value);
    model.save_changes();
  };
  const controls = makeControls(change);
  const figure = makeFigure(state, change);
  const readings = makeReadings();
  el.replaceChildren(
    element("div", { class: "gt-widget" }, figure.root, element("div", { class: "gt-panel" }, controls.root, readings.root)),
  );

  const draw = () => {
    const current = state();
    const reading = read(current);
    controls.show(current);
    figure.show(current, reading);
    readings.show(reading);
  };
  for (const { name } of CONTROLS) model.on(`change:${name}`, draw);
  draw();
  return () => CONTROLS.forEach(({ name }) => model.off(`change:${name}`, draw));
}

// The names are those of GradientGeometry.reading() in Python.
function read({ chosen_norm, rejected_norm, angle, ratio, eta }) {
  const gram = gramOf(chosen_norm, rejected_norm, angle);
  const changes = firstOrderChanges(gram, ratio, 1, eta);
  const { chosenDoesNotFall, rejectedDoesNotRise } = conditions(gram, ratio, 1);
  return {
    inner_product: gram[0][1],
    cosine: cosine(gram),
    change_chosen: changes[0],
    change_rejected: changes[1],
    chosen_bound: ratio * gram[0][0],
    rejected_bound: gram[1][1] / ratio,
    chosen_does_not_fall: chosenDoesNotFall,
    rejected_does_not_rise: rejectedDoesNotRise,
    case: caseOf(changes),
  };
}

function makeControls(change) {
  const rows = CONTROLS.map((control) => {
    const input = element("input", {
      type: "range",
      name: control.name,
      min: control.min,
      max: control.max,
      step: control.step,
      // JupyterLab takes the arrow keys unless the focused element itself says so.
      "data-lm-suppress-shortcuts": "true",
    });
    const value = element("span", { class: "gt-value" });
    const name = element("span", { class: "gt-name" });
    name.innerHTML = `<b>${control.symbol}</b> <small>${control.text}</small>`; // constants of this file
    input.addEventListener("input", () => change({ [control.name]: Number(input.value) }));
    return { control, input, value, root: element("label", { class: `gt-control gt-${control.hue ?? "plain"}` }, name, input, value) };
  });
  return {
    root: element("div", { class: "gt-controls" }, ...rows.map((row) => row.root)),
    show(current) {
      for (const { control, input, value } of rows) {
        const { name, step, unit = "" } = control;
        input.value = String(current[name]);
        value.textContent = current[name].toFixed(step < 1 ? 2 : 0) + unit;
        input.setAttribute("aria-valuetext", value.textContent);
      }
    },
  };
}

function makeReadings() {
  const rows = READINGS.map((reading) => {
    const term = element("dt");
    term.innerHTML = reading.term; // constants of this file
    const value = element("dd", { "data-reading": reading.name });
    return { ...reading, value, root: element("div", { class: "gt-reading" }, term, value) };
  });
  const title = element("strong");
  const meaning = element("span");
  const announcement = element("output", { class: "gt-case", "aria-live": "polite", "data-reading": "case" }, title, " ", meaning);
  return {
    root: element("div", { class: "gt-results" }, announcement, element("dl", { class: "gt-readings" }, ...rows.map((row) => row.root))),
    show(reading) {
      for (const { name, bound, value } of rows) {
        value.dataset.value = String(reading[name]);
        value.textContent = bound
          ? `${decimal(reading.inner_product)} ${reading[name] ? "≤" : ">"} ${decimal(reading[bound])}  ${reading[name] ? "✓ holds" : "✗ fails"}`
          : decimal(reading[name]) + (name.startsWith("change") ? direction(reading[name]) : "");
        if (bound) value.dataset.holds = String(reading[name]);
      }
      // Written only when it changes, so that a screen reader hears cases and not slider steps.
      if (announcement.dataset.value !== reading.case) {
        announcement.dataset.value = reading.case;
        [title.textContent, meaning.textContent] = CASES[reading.case];
      }
    },
  };
}

function makeFigure(state, change) {
  const grid = svg("path", { class: "gt-grid" });
  const sides = { w: svg("line", { class: "gt-side gt-w" }), l: svg("line", { class: "gt-side gt-l" }) };
  const arrows = { v: makeArrow("v"), l: makeArrow("l"), w: makeArrow("w") };
  const handles = { l: svg("circle", { class: "gt-handle gt-l", r: 13 }), w: svg("circle", { class: "gt-handle gt-w", r: 13 }) };
  const scale = svg("text", { class: "gt-scale", x: -HALF + 6, y: HALF - 7 });
  const picture = svg("svg", { viewBox: `${-HALF} ${-HALF} ${2 * HALF} ${2 * HALF}`, role: "img" },
    grid, sides.w, sides.l, arrows.v.root, arrows.l.root, arrows.w.root, scale, handles.l, handles.w);
  const caption = element("p", { class: "gt-caption" });
  caption.innerHTML = `The update is <i>v</i> = <i>d<sub>w</sub></i> ${W} − <i>d<sub>l</sub></i> ${L}. ` +
    "A response rises when <i>v</i> lies on its gradient’s side of the dashed line of the same colour.";
  let extent = EXTENTS[0];
  let dragged = null;

  // The arrow heads can be dragged too; every drag has a slider that does the same.
  const drag = (event) => {
    if (!dragged) return;
    const box = picture.getBoundingClientRect();
    const x = (((event.clientX - box.left) / box.width) * 2 - 1) * extent;
    const y = (1 - ((event.clientY - box.top) / box.height) * 2) * extent;
    if (dragged === "w") change({ chosen_norm: snapped("chosen_norm", x) });
    else {
      const degrees = Math.abs((Math.atan2(y, x) * 180) / Math.PI);
      change({ rejected_norm: snapped("rejected_norm", Math.hypot(x, y)), angle: snapped("angle", degrees) });
    }
  };
  for (const [name, handle] of Object.entries(handles)) {
    handle.addEventListener("pointerdown", (event) => {
      dragged = name;
      handle.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    handle.addEventListener("pointermove", drag);
    for (const end of ["pointerup", "pointercancel"]) {
      handle.addEventListener(end, () => {
        dragged = null;
        show(state());
      });
    }
  }

  function show(current, reading = read(current)) {
    const radians = (current.angle * Math.PI) / 180;
    const w = [current.chosen_norm, 0];
    const l = [current.rejected_norm * Math.cos(radians), current.rejected_norm * Math.sin(radians)];
    const v = [current.ratio * w[0] - l[0], current.ratio * w[1] - l[1]];
    const farthest = Math.max(...[w, l, v].flat().map(Math.abs)) * 1.12;
    const needed = EXTENTS.find((candidate) => candidate >= farthest) ?? EXTENTS.at(-1);
    // A picture that shrinks or grows under the pointer would move the head that is held.
    if (!dragged) extent = needed;
    const unit = HALF / extent;
    const spacing = extent > 5 ? 5 : 1;
    drawGrid(grid, unit * spacing);
    scale.textContent = `one square: ${spacing} × ${spacing}`;
    for (const [name, tip, side] of [["w", w, -1], ["l", l, 1], ["v", v, 0]]) arrows[name].show(tip[0] * unit, -tip[1] * unit, side);
    for (const [name, tip] of [["w", w], ["l", l]]) {
      attributes(handles[name], { cx: tip[0] * unit, cy: -tip[1] * unit });
      const reach = (2 * HALF) / Math.hypot(...tip); // past the corner of the picture
      attributes(sides[name], { x1: -tip[1] * reach, y1: -tip[0] * reach, x2: tip[1] * reach, y2: tip[0] * reach });
    }
    picture.setAttribute("aria-label",
      `Gradients w of length ${decimal(current.chosen_norm)} and l of length ${decimal(current.rejected_norm)}, ` +
      `${current.angle.toFixed(0)} degrees apart, and the update v. ${CASES[reading.case][0]}.`);
  }
  return { root: element("div", { class: "gt-plane" }, picture, caption), show };
}

function makeArrow(name) {
  const shaft = svg("line", { x1: 0, y1: 0 });
  const head = svg("polygon", {});
  const label = svg("text", { "text-anchor": "middle" });
  label.textContent = name;
  const root = svg("g", { class: `gt-arrow-${name}` }, shaft, head, label);
  return {
    root,
    // side: -1 and 1 put the name beside the head (below w, above l, so that they part at small angles), 0 beyond it.
    show(x, y, side) {
      const length = Math.hypot(x, y);
      root.style.display = length < 1 ? "none" : "";
      if (length < 1) return;
      const [ax, ay] = [x / length, y / length];
      const size = Math.min(11, length);
      const [bx, by] = [x - size * ax, y - size * ay];
      attributes(shaft, { x2: bx, y2: by });
      const wing = size * 0.45;
      head.setAttribute("points", `${x},${y} ${bx - wing * ay},${by + wing * ax} ${bx + wing * ay},${by - wing * ax}`);
      const [lx, ly] = side === 0 ? [x + 15 * ax, y + 15 * ay] : [x + side * 17 * ay, y - side * 17 * ax];
      attributes(label, { x: clamp(lx, -HALF + 10, HALF - 10), y: clamp(ly, -HALF + 10, HALF - 24) + 5 });
    },
  };
}

function drawGrid(path, spacing) {
  let d = "";
  for (let at = 0; at <= HALF; at += spacing) {
    for (const c of at === 0 ? [0] : [-at, at]) d += `M${c} ${-HALF}V${HALF}M${-HALF} ${c}H${HALF}`;
  }
  path.setAttribute("d", d);
}

function snapped(name, value) {
  const { min, max, step } = CONTROLS.find((control) => control.name === name);
  return clamp(Number((Math.round(value / step) * step).toFixed(2)), min, max);
}

function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

function decimal(value) {
  const rounded = Math.round(value * 100) / 100;
  return (rounded === 0 ? 0 : rounded).toFixed(2).replace("-", "−");
}

export default { render };
