// Two responses that differ in one token and share the tokens after it: what one step does to both log-probabilities.
// The maths is gentangle/alignment/suffix.py's and conditions.py's; tests/js compares them.
// direction, element, svg and attributes are dom.js's.

// ---- maths: pure functions; a Gram matrix is [[|w|^2, <w,l>], [<w,l>, |l|^2]], rows chosen and rejected ----

export const VOCABULARY = 6;

// Last layer learnable, states of unit norm and orthogonal across positions, tokens that are not named equally likely.
export function orthogonalGram({ p_w, p_l, length, miss_w, miss_l, rho }) {
  const square = p_w ** 2 + p_l ** 2 + (1 - p_w - p_l) ** 2 / (VOCABULARY - 2);
  const added = (length * VOCABULARY) / (VOCABULARY - 1);
  const inner = square - p_w - p_l + added * rho * miss_w * miss_l;
  return [
    [1 - 2 * p_w + square + added * miss_w ** 2, inner],
    [inner, 1 - 2 * p_l + square + added * miss_l ** 2],
  ];
}

export function firstOrderChanges([[chosenSq, inner], [, rejectedSq]]) {
  return [chosenSq - inner, inner - rejectedSq];
}

export function caseOf([chosen, rejected]) {
  if (chosen === 0 && rejected === 0) return "unmoved";
  if (chosen >= 0) return rejected <= 0 ? "chosen-up-rejected-down" : "both-up";
  return rejected <= 0 ? "both-down" : "chosen-down-rejected-up";
}

export function cosine(gram) {
  return gram[0][1] / Math.sqrt(gram[0][0] * gram[1][1]);
}

// The lengths beyond which chosen falls and rejected rises; Infinity where they never do.
export function turningLengths(state) {
  const [start, next] = [0, 1].map((length) => firstOrderChanges(orthogonalGram({ ...state, length })));
  const turn = (slack, change) => (change < -1e-12 ? slack / -change : Infinity);
  return [turn(start[0], next[0] - start[0]), turn(-start[1], start[1] - next[1])];
}

// The moved probability stays; the other gives way, so that the two add up to at most 1.
export function withinOne(state, moved, value) {
  const other = moved === "p_w" ? "p_l" : "p_w";
  return { [other]: Math.min(state[other], Math.round((1 - value) * 100) / 100), [moved]: value };
}

// ---- what is on the screen ----

const CASES = {
  "chosen-up-rejected-down": ["Chosen up, rejected down", "as intended: both conditions hold."],
  "both-up": ["Both up", "the suffix is more predictable after rejected, and the rejected response rises too."],
  "both-down": ["Both down", "the suffix is more predictable after chosen, and the chosen response falls too."],
  "chosen-down-rejected-up": ["Chosen down, rejected up", "which no first-order step on one pair can do."],
  unmoved: ["Unmoved", "the update is zero."],
};

const W = '<i class="gt-w">w</i>';
const L = '<i class="gt-l">l</i>';

// Trait, symbol as HTML, what it is, range; the ranges are those of the Python traits.
const CONTROLS = [
  { name: "p_w", symbol: "<i>p<sub>w</sub></i>", text: "chosen token", min: 0, max: 1, step: 0.01, hue: "w" },
  { name: "p_l", symbol: "<i>p<sub>l</sub></i>", text: "rejected token", min: 0, max: 1, step: 0.01, hue: "l" },
  { name: "length", symbol: "<i>T</i>", text: "shared tokens", min: 0, max: 120, step: 1 },
  { name: "miss_w", symbol: "<i>ε<sub>w</sub></i>", text: "miss after chosen", min: 0, max: 1, step: 0.01, hue: "w" },
  { name: "miss_l", symbol: "<i>ε<sub>l</sub></i>", text: "miss after rejected", min: 0, max: 1, step: 0.01, hue: "l" },
  { name: "rho", symbol: "<i>ρ</i>", text: "hidden cosine", min: -1, max: 1, step: 0.01 },
];

const READINGS = [
  { name: "chosen_norm_sq", term: `|${W}|²` },
  { name: "inner_product", term: `⟨${W}, ${L}⟩` },
  { name: "rejected_norm_sq", term: `|${L}|²` },
  { name: "cosine", term: `cos(${W}, ${L})` },
  { name: "change_chosen", term: 'Δ log <i class="gt-w">π<sub>w</sub></i>' },
  { name: "change_rejected", term: 'Δ log <i class="gt-l">π<sub>l</sub></i>' },
  { name: "chosen_does_not_fall", term: `chosen does not fall: ⟨${W}, ${L}⟩ ≤ |${W}|²`, bound: "chosen_norm_sq" },
  { name: "rejected_does_not_rise", term: `rejected does not rise: ⟨${W}, ${L}⟩ ≤ |${L}|²`, bound: "rejected_norm_sq" },
  { name: "chosen_turns", term: "chosen falls" },
  { name: "rejected_turns", term: "rejected rises" },
];

const [WIDE, HALF, LEFT] = [320, 120, 34]; // of the picture, in its own units
const LONGEST = 120;
const EXTENTS = [3, 6, 10, 20, 50, 100, 200, 400]; // nats at the upper and lower edge

export function render({ model, el }) {
  const state = () => Object.fromEntries(CONTROLS.map(({ name }) => [name, model.get(name)]));
  const note = element("output", { class: "gt-note", "aria-live": "polite" });
  const change = (name, value) => {
    const before = state();
    const values = name === "p_w" || name === "p_l" ? withinOne(before, name, value) : { [name]: value };
    const lowered = Object.keys(values).find((key) => key !== name && values[key] !== before[key]);
    note.textContent = lowered
      ? `${lowered} lowered to ${values[lowered].toFixed(2)}: the two probabilities add up to at most 1.`
      : "";
    for (const [key, each] of Object.entries(values)) model.set(key, each);
    model.save_changes();
  };
  const controls = makeControls(change);
  const figure = makeFigure();
  const readings = makeReadings();
  el.replaceChildren(
    element("div", { class: "gt-widget" }, figure.root, element("div", { class: "gt-panel" }, controls.root, note, readings.root)),
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

// The names are those of SuffixCases.reading() in Python; the conditions and turning lengths are read off beside.
export function read(state) {
  const gram = orthogonalGram(state);
  const changes = firstOrderChanges(gram);
  const [chosenTurns, rejectedTurns] = turningLengths(state);
  return {
    chosen_norm_sq: gram[0][0],
    inner_product: gram[0][1],
    rejected_norm_sq: gram[1][1],
    cosine: cosine(gram),
    change_chosen: changes[0],
    change_rejected: changes[1],
    chosen_does_not_fall: changes[0] >= 0,
    rejected_does_not_rise: changes[1] <= 0,
    chosen_turns: chosenTurns,
    rejected_turns: rejectedTurns,
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
    input.addEventListener("input", () => change(control.name, Number(input.value)));
    return { control, input, value, root: element("label", { class: `gt-control gt-${control.hue ?? "plain"}` }, name, input, value) };
  });
  return {
    root: element("div", { class: "gt-controls" }, ...rows.map((row) => row.root)),
    show(current) {
      for (const { control, input, value } of rows) {
        input.value = String(current[control.name]);
        value.textContent = current[control.name].toFixed(control.step < 1 ? 2 : 0).replace("-", "−");
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
        value.textContent = written(reading, name, bound);
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

function written(reading, name, bound) {
  const value = reading[name];
  if (bound) return `${decimal(reading.inner_product)} ${value ? "≤" : ">"} ${decimal(reading[bound])}  ${value ? "✓ holds" : "✗ fails"}`;
  if (name.endsWith("turns")) return Number.isFinite(value) ? `once T > ${decimal(value, 1)}` : "at no T";
  return decimal(value) + (name.startsWith("change") ? direction(value) : "");
}

function makeFigure() {
  const frame = svg("path", { class: "gt-grid", d: [-HALF, -HALF / 2, 0, HALF / 2, HALF].map((at) => `M${LEFT} ${at}H${WIDE}`).join("") });
  const marker = svg("line", { class: "gt-side", y1: -HALF, y2: HALF });
  const lines = ["w", "l"].map((hue) => svg("line", { class: `gt-${hue}`, x1: LEFT }));
  const key = [["chosen", "gt-w", LEFT], ["rejected", "gt-l", LEFT + 110]].flatMap(([text, hue, x]) => [
    svg("line", { class: hue, x1: x, x2: x + 18, y1: -HALF - 16, y2: -HALF - 16 }), words(text, { class: hue, x: x + 24, y: -HALF - 11 })]);
  const ticks = [-HALF, 0, HALF].map((at) => words("", { class: "gt-scale", x: LEFT - 5, y: at + 4, "text-anchor": "end" }));
  const ends = [["T = 0", LEFT, "start"], [`T = ${LONGEST}`, WIDE, "end"]].map(([text, x, anchor]) =>
    words(text, { class: "gt-scale", x, y: HALF + 16, "text-anchor": anchor }));
  const picture = svg("svg", { viewBox: `0 ${-HALF - 28} ${WIDE + 4} ${2 * HALF + 50}`, role: "img" }, frame, marker, ...lines, ...key, ...ticks, ...ends);
  const caption = element("p", { class: "gt-caption" });
  caption.innerHTML = 'First-order changes of log <i class="gt-w">π<sub>w</sub></i> and log <i class="gt-l">π<sub>l</sub></i> against the ' +
    "number <i>T</i> of shared tokens, for a step of 1. The dashed line is the <i>T</i> of the slider.";

  function show(current, reading) {
    const [start, end] = [0, LONGEST].map((length) => firstOrderChanges(orthogonalGram({ ...current, length })));
    const extent = EXTENTS.find((candidate) => candidate >= 1.3 * Math.max(...start.concat(reading.change_chosen, reading.change_rejected).map(Math.abs)));
    const x = (length) => LEFT + ((WIDE - LEFT) * length) / LONGEST;
    const y = (value) => (-HALF * value) / extent;
    attributes(marker, { x1: x(current.length), x2: x(current.length) });
    start.forEach((from, i) => {
      const to = end[i];
      const share = Math.abs(to) > extent ? (Math.sign(to) * extent - from) / (to - from) : 1; // where it leaves the picture
      attributes(lines[i], { y1: y(from), x2: x(share * LONGEST), y2: y(from + share * (to - from)) });
    });
    [extent, 0, -extent].forEach((value, i) => (ticks[i].textContent = String(value).replace("-", "−")));
    picture.setAttribute("aria-label",
      `Changes of both log-probabilities against the number of shared tokens. At T = ${current.length} chosen changes by ` +
      `${decimal(reading.change_chosen)} and rejected by ${decimal(reading.change_rejected)}. ${CASES[reading.case][0]}.`);
  }
  return { root: element("div", { class: "gt-plane" }, picture, caption), show };
}

function words(text, values) {
  const node = svg("text", values);
  node.textContent = text;
  return node;
}

function decimal(value, digits = 2) {
  const rounded = Number(value.toFixed(digits));
  return (rounded === 0 ? 0 : rounded).toFixed(digits).replace("-", "−");
}

export default { render };
