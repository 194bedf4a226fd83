// Two responses that differ in one token and share the tokens after it: what one step does to both log-probabilities.
// The maths is gentangle/alignment/suffix.py's and conditions.py's; tests/js compares them.
// direction, element, svg, attributes, svgText, printed, pointIn, followPointer, the controls and the announcement are dom.js's;
// firstOrderChanges, caseOf and cosine are pair.js's.

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

// Gram matrices of the contrast tokens alone and of one shared token: the pair's is their sum, the second T times.
export function tokenGrams(state) {
  const [contrast, { miss_w, miss_l, rho }] = [orthogonalGram({ ...state, length: 0 }), state];
  const unit = VOCABULARY / (VOCABULARY - 1);
  const inner = unit * rho * miss_w * miss_l;
  return { contrast, shared: [[unit * miss_w ** 2, inner], [inner, unit * miss_l ** 2]] };
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

// The hidden cosines beyond which chosen falls and rejected rises (both slacks are linear in it, with one slope).
export function turningCosines(state) {
  const [[chosenSq, start], [, rejectedSq]] = orthogonalGram({ ...state, rho: 0 });
  const slope = orthogonalGram({ ...state, rho: 1 })[0][1] - start;
  return [chosenSq, rejectedSq].map((square) => (slope > 1e-12 ? (square - start) / slope : Infinity));
}

// The state with one slider moved, and a probability that has to give way lowered.
export function movedTo(state, name, value) {
  return { ...state, ...(name === "p_w" || name === "p_l" ? withinOne(state, name, value) : { [name]: value }) };
}

// The borders of the phase diagram: at every step of the slider `across`, its value and the two turning cosines.
export function borders(state, across) {
  const { min, max, step } = CONTROL[across];
  return Array.from({ length: Math.round((max - min) / step) + 1 }, (_, k) => {
    const value = Number((min + k * step).toFixed(2));
    return { value, turns: turningCosines(movedTo(state, across, value)) };
  });
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
const LONGEST = 120;

// Trait, symbol as HTML and as text, what it is, range; the ranges are those of the Python traits.
const CONTROLS = [
  { name: "length", symbol: "<i>T</i>", letter: "T", text: "shared tokens", min: 0, max: LONGEST, step: 1, digits: 0 },
  { name: "p_w", symbol: "<i>p<sub>w</sub></i>", letter: "p_w", text: "chosen token", min: 0, max: 1, step: 0.01, hue: "w" },
  { name: "p_l", symbol: "<i>p<sub>l</sub></i>", letter: "p_l", text: "rejected token", min: 0, max: 1, step: 0.01, hue: "l" },
  { name: "miss_w", symbol: "<i>ε<sub>w</sub></i>", letter: "ε_w", text: "miss after chosen", min: 0, max: 1, step: 0.01, hue: "w" },
  { name: "miss_l", symbol: "<i>ε<sub>l</sub></i>", letter: "ε_l", text: "miss after rejected", min: 0, max: 1, step: 0.01, hue: "l" },
  { name: "rho", symbol: "<i>ρ</i>", letter: "ρ", text: "hidden cosine", min: -1, max: 1, step: 0.01 },
];
const CONTROL = Object.fromEntries(CONTROLS.map((control) => [control.name, control]));
const ACROSS = ["miss_l", "miss_w", "p_w", "p_l", "length"].map((name) => [name, CONTROL[name].text]);
const TRAITS = [...CONTROLS.map(({ name }) => name), "across", "continuation"];

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

// The pair in words, one word for one token: the suffixes and the continuation of gentangle/alignment/preference.py.
const PROMPT = "“I would see it again tomorrow.” The sentiment of the text is";
const CONTRAST = ["positive", "negative"];
const SUFFIX = "sentiment based on the content and tone of the text".split(" ");
const CONTINUATION = ". The museum by the lake opens at nine and closes at five".split(" ");
const FORMS = [
  ["one token", { length: 0, continuation: false }],
  ["short suffix", { length: 1, continuation: false }],
  ["long suffix", { length: SUFFIX.length, continuation: false }],
  ["natural continuation", { length: CONTINUATION.length, continuation: true }],
];

export function render({ model, el }) {
  const state = () => Object.fromEntries(TRAITS.map((name) => [name, model.get(name)]));
  // `said` is read out after a button, whose press has no value of its own.
  const change = (values, said = "") => {
    const before = state();
    const after = Object.entries(values).reduce((current, [name, value]) => movedTo(current, name, value), before);
    const moved = TRAITS.filter((name) => after[name] !== before[name]);
    const lowered = moved.find((name) => !(name in values));
    sliders.note.textContent = lowered
      ? `${CONTROL[lowered].letter} lowered to ${printed(after[lowered])}: the two probabilities add up to at most 1.`
      : "";
    pair.note.textContent = said;
    // What gives way goes first: at no moment do the probabilities add up to more than 1.
    for (const name of moved.sort((one, other) => (one in values) - (other in values))) model.set(name, after[name]);
    model.save_changes();
  };
  const pair = makePair(state, change);
  const announcement = makeAnnouncement(CASES);
  const growth = makeGrowth();
  const map = makeMap(state, change);
  const sliders = makeSliders(change);
  const readings = makeReadings();
  el.replaceChildren(element("div", { class: "gt-widget gt-two" },
    element("div", { class: "gt-across" }, pair.root, announcement.root),
    element("div", { class: "gt-plane" }, growth.root, map.root),
    element("div", { class: "gt-panel" }, sliders.root, readings.root)));

  const draw = () => {
    const current = state();
    const reading = read(current);
    pair.show(current, reading);
    announcement.show(reading);
    growth.show(current, reading);
    map.show(current, reading);
    sliders.show(current);
    readings.show(reading);
  };
  for (const name of TRAITS) model.on(`change:${name}`, draw);
  draw();
  return () => TRAITS.forEach((name) => model.off(`change:${name}`, draw));
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

function makeSliders(change) {
  const rows = CONTROLS.slice(1).map((control) => ({ name: control.name, row: rangeControl(control, (value) => change({ [control.name]: value })) }));
  const note = element("output", { class: "gt-note", "aria-live": "polite" });
  return {
    root: element("div", { class: "gt-controls" }, ...rows.map(({ row }) => row.root), note),
    note,
    show: (current) => rows.forEach(({ name, row }) => row.show(current[name])),
  };
}

function makeReadings() {
  const rows = READINGS.map((reading) => {
    const term = element("dt");
    term.innerHTML = reading.term; // constants of this file
    const value = element("dd", { "data-reading": reading.name });
    return { ...reading, value, root: element("div", { class: "gt-reading" }, term, value) };
  });
  return {
    root: element("div", { class: "gt-results" }, element("dl", { class: "gt-readings" }, ...rows.map((row) => row.root))),
    show(reading) {
      for (const { name, bound, value } of rows) {
        value.dataset.value = String(reading[name]);
        write(value, written(reading, name, bound));
        if (bound) value.dataset.holds = String(reading[name]);
      }
    },
  };
}

function written(reading, name, bound) {
  const value = reading[name];
  if (bound) return `${printed(reading.inner_product)} ${value ? "≤" : ">"} ${printed(reading[bound])}  ${value ? "✓ holds" : "✗ fails"}`;
  if (name.endsWith("turns")) return Number.isFinite(value) ? `once T > ${printed(value, 1)}` : "at no T";
  return printed(value) + (name.startsWith("change") ? direction(value) : "");
}

// Letters are dear to lay out: a move writes and places those alone that change.
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function place(label, values) {
  for (const [name, value] of Object.entries(values)) if (label.getAttribute(name) !== String(value)) label.setAttribute(name, value);
}

// ---- the pair in words ----

// The three numbers of a Gram matrix: symbol as HTML and as text, row and column.
const ENTRIES = [[`|${W}|²`, "|w|²", 0, 0], [`|${L}|²`, "|l|²", 1, 1], [`⟨${W}, ${L}⟩`, "⟨w, l⟩", 0, 1]];
const numbers = (gram) => ENTRIES.map(([, name, i, j]) => `${name} ${printed(gram[i][j])}`);
const shownWords = ({ length, continuation }) => (continuation ? CONTINUATION : SUFFIX).slice(0, length);

function makePair(state, change) {
  const length = rangeControl(CONTROL.length, (value) => change({ length: value }));
  const step = (by) => {
    const current = state();
    const after = { ...current, length: current.length + by };
    if (after.length < 0) return change({}, "No shared token is left to remove.");
    if (after.length > LONGEST) return change({}, `${LONGEST} shared tokens are the most here.`);
    const word = shownWords(by > 0 ? after : current)[Math.max(after.length, current.length) - 1];
    const what = `${word ? `“${word}”` : "One more"} ${by > 0 ? "added" : "removed"}`;
    return change({ length: after.length }, `${what}: T = ${after.length}, ${numbers(orthogonalGram(after)).join(", ")}.`);
  };
  const button = (name, text, press) => {
    const node = element("button", { type: "button", class: "gt-button", name, "data-lm-suppress-shortcuts": "true" }, text);
    node.addEventListener("click", press);
    return node;
  };
  const [add, remove] = [button("add", "+ Add a shared token", () => step(1)), button("remove", "− Remove one", () => step(-1))];
  const forms = FORMS.map(([title, values]) => button(title.replaceAll(" ", "-"), title, () =>
    change(values, `${title[0].toUpperCase()}${title.slice(1)}: T = ${values.length}, ${numbers(orthogonalGram({ ...state(), ...values })).join(", ")}.`)));
  const note = element("output", { class: "gt-note", "aria-live": "polite", "data-reading": "added" });
  const labels = makePosition("gt-names");
  ENTRIES.forEach(([html], i) => (labels.cells[i].innerHTML = html)); // constants of this file
  labels.name(["chosen", "rejected"]);
  const contrast = makePosition("gt-contrast");
  contrast.name(CONTRAST);
  const shared = CONTINUATION.map(() => makePosition("gt-shared"));
  const [rest, sum] = [makePosition("gt-rest"), makePosition("gt-sum")];
  sum.name(["sum", "\u00a0"]);
  const line = element("div", { class: "gt-tokens", role: "img" }, ...[labels, contrast, ...shared, rest, sum].map(({ root }) => root));
  const caption = element("p", { class: "gt-caption" }, "One word stands for one token. Below it: what its place in both responses adds to the numbers, green where it adds and purple where it takes away.");
  return {
    root: element("div", { class: "gt-pair" }, element("p", { class: "gt-prompt" }, `${PROMPT} …`), line, caption,
      element("div", { class: "gt-buttons" }, add, remove), note, length.root,
      element("div", { class: "gt-buttons", role: "group", "aria-label": "form of the pair" }, ...forms)),
    note,
    show(current, reading) {
      const grams = tokenGrams(current);
      const words = shownWords(current);
      const more = current.length - words.length;
      contrast.show(grams.contrast);
      shared.forEach((position, k) => {
        position.root.hidden = k >= words.length;
        if (k >= words.length) return;
        position.name([words[k], words[k]]);
        position.show(grams.shared);
      });
      rest.root.hidden = more === 0;
      rest.name([`… and ${more} more`, `… and ${more} more`]);
      rest.show(grams.shared, more);
      sum.show([[reading.chosen_norm_sq, reading.inner_product], [reading.inner_product, reading.rejected_norm_sq]], 0);
      length.show(current.length);
      add.setAttribute("aria-disabled", String(current.length === LONGEST));
      remove.setAttribute("aria-disabled", String(current.length === 0));
      FORMS.forEach(([, values], i) => forms[i].setAttribute("aria-pressed",
        String(values.length === current.length && (values.length === 0 || values.continuation === current.continuation))));
      const suffix = current.length ? ` ${words.join(" ")}${more ? ` and ${more} more tokens` : ""}` : "";
      line.setAttribute("aria-label", `Prompt: ${PROMPT}. Chosen: ${CONTRAST[0]}${suffix}. Rejected: ${CONTRAST[1]}${suffix}. ` +
        `The contrast tokens give ${numbers(grams.contrast).join(", ")}; each shared token adds ${numbers(grams.shared).join(", ")}.`);
    },
  };
}

// One position of both responses: their words, and what it adds to the three numbers.
function makePosition(kind) {
  let shown = "";
  const words = ["w", "l"].map((hue) => element("span", { class: kind === "gt-contrast" || kind === "gt-names" ? `gt-${hue}` : "" }));
  const cells = ENTRIES.map(() => element("span", { class: "gt-share" }));
  return {
    root: element("div", { class: `gt-position ${kind}` }, ...words, ...cells),
    cells,
    name: (texts) => words.forEach((word, i) => write(word, texts[i])),
    // The gram of one token, `times` over: a sum (0 times) is a total and has no sign of its own.
    show(gram, times = 1) {
      if (shown === `${gram} ${times}`) return;
      shown = `${gram} ${times}`;
      ENTRIES.forEach(([, name, i, j], k) => {
        const value = gram[i][j];
        const text = printed(times ? value * times : value);
        cells[k].textContent = times && value * times >= 0.005 ? `+${text}` : text;
        cells[k].title = times ? `${text} of ${name}` : `${name} = ${text}`;
        cells[k].dataset.value = String(times ? value * times : value);
        // The root, so that small shares are seen; 40 % of the hue at most leaves the letters readable.
        cells[k].style.setProperty("--gt-share", `${times ? Math.round(40 * Math.sqrt(Math.min(1, Math.abs(value)))) : 0}%`);
        cells[k].classList.toggle("gt-minus", times > 0 && value < 0);
      });
    },
  };
}

// ---- the three numbers against T ----

const [LEFT, WIDE, TALL] = [34, 320, 170]; // of both pictures, in their own units
const HIGHS = [2, 4, 8, 20, 40, 100, 200]; // of the vertical axis
const SPANS = [20, 60, LONGEST]; // of the horizontal axis
const HUES = ["w", "l", "inner"]; // of ENTRIES
const xOf = (share) => LEFT + (WIDE - LEFT) * share;

// The vertical axis: the two numbers of the condition that is nearer to breaking have room; the third may leave.
export function axisOf([[chosenSq, inner], [, rejectedSq]], start) {
  const needed = 1.15 * Math.max(Math.abs(inner), Math.min(chosenSq, rejectedSq));
  const high = HIGHS.find((each) => each >= needed) ?? HIGHS.at(-1);
  return { high, low: Math.min(inner, start) < -high / 4 ? -high : -high / 4 };
}

function makeGrowth() {
  const frame = svg("path", { class: "gt-grid" });
  const { defs, fills } = makePatterns();
  const gaps = ["both-down", "both-up"].map((name) => svg("path", { fill: fills[name] }));
  const lines = HUES.map((hue) => svg("path", { class: `gt-path gt-${hue}${hue === "l" ? " gt-dashed" : ""}` }));
  const dots = HUES.map((hue) => svg("circle", { class: `gt-end gt-full gt-${hue}`, r: 4.5 }));
  const now = svg("path", { class: "gt-now" });
  const turns = ["w", "l"].map((hue) => ({ drop: svg("path", { class: "gt-level" }), ring: svg("circle", { class: `gt-end gt-${hue}`, r: 6 }),
    label: svgText("", { class: `gt-word gt-${hue}`, y: TALL - 6 }) }));
  const ticks = [0, 1, 2, 3].map(() => svgText("", { class: "gt-scale", x: LEFT - 5, "text-anchor": "end" }));
  const ends = [0, 0.5, 1].map((share, i) => svgText("T = 0", { class: "gt-scale", x: xOf(share), y: TALL + 15, "text-anchor": ["start", "middle", "end"][i] }));
  const keyed = (i) => 12 + 104 * i;
  const strokes = lines.map((line, i) => svg("path", { class: line.getAttribute("class"), d: `M${keyed(i)} -14h18` }));
  const values = HUES.map((hue, i) => svgText("", { class: `gt-word gt-${hue}`, x: keyed(i) + 22, y: -10 }));
  // An inner svg cuts off what leaves the frame.
  const inside = svg("svg", { x: LEFT, y: 0, width: WIDE - LEFT, height: TALL, viewBox: `${LEFT} 0 ${WIDE - LEFT} ${TALL}` },
    ...gaps, ...turns.map(({ drop }) => drop), now, ...lines, ...turns.flatMap(({ ring, label }) => [ring, label]), ...dots);
  const root = svg("svg", { viewBox: `0 -28 ${WIDE + 8} ${TALL + 48}`, role: "img", class: "gt-growth" }, defs, frame, inside, ...ticks, ...ends, ...strokes, ...values);
  const caption = element("p", { class: "gt-caption" });
  caption.innerHTML = `The pair’s three numbers against the number <i>T</i> of shared tokens. Where ⟨${W}, ${L}⟩ is above |${W}|², chosen falls; ` +
    `where it is above |${L}|², rejected rises (hatched and dotted gaps). Those gaps are the changes of both log-probabilities for a step of 1.`;

  function show(current, reading) {
    const span = SPANS.find((each) => each >= 1.5 * current.length) ?? LONGEST;
    const [start, end, here] = [0, span, current.length].map((length) => orthogonalGram({ ...current, length }));
    const { high, low } = axisOf(here, start[0][1]);
    const y = (value) => (TALL * (high - value)) / (high - low);
    const at = (gram, k) => y(gram[ENTRIES[k][2]][ENTRIES[k][3]]);
    lines.forEach((line, k) => line.setAttribute("d", `M${LEFT} ${at(start, k)}L${WIDE} ${at(end, k)}`));
    dots.forEach((dot, k) => attributes(dot, { cx: xOf(current.length / span), cy: at(here, k) }));
    now.setAttribute("d", `M${xOf(current.length / span)} 0V${TALL}`);
    [reading.chosen_turns, reading.rejected_turns].forEach((turn, k) => {
      const seen = turn < span;
      const { drop, ring, label } = turns[k];
      for (const node of [gaps[k], drop, ring, label]) node.style.display = seen ? "" : "none";
      if (!seen) return;
      const [x, height] = [xOf(turn / span), at(orthogonalGram({ ...current, length: turn }), k)];
      gaps[k].setAttribute("d", `M${x} ${height}L${WIDE} ${at(end, k)}V${at(end, 2)}Z`);
      attributes(ring, { cx: x, cy: height });
      drop.setAttribute("d", `M${x} ${height}V${TALL}`);
      const right = turn < 0.6 * span;
      place(label, { x: x + (right ? 5 : -5), "text-anchor": right ? "start" : "end" });
      write(label, `${k ? "rejected rises" : "chosen falls"}: T > ${printed(turn, 1)}`);
    });
    numbers(here).forEach((text, k) => {
      const value = here[ENTRIES[k][2]][ENTRIES[k][3]];
      write(values[k], `${text}${value > high ? " ↑" : value < low ? " ↓" : ""}`); // an arrow: out of the frame
    });
    const marks = [low, 0, high / 2, high];
    frame.setAttribute("d", marks.map((value) => `M${LEFT} ${y(value)}H${WIDE}`).join(""));
    marks.forEach((value, i) => {
      write(ticks[i], String(value).replace("-", "−"));
      place(ticks[i], { y: y(value) + 4 });
    });
    [span / 2, span].forEach((value, i) => write(ends[i + 1], String(value)));
    const crossing = [["chosen falls", reading.chosen_turns], ["rejected rises", reading.rejected_turns]]
      .map(([what, turn]) => (Number.isFinite(turn) ? `${what} beyond T = ${printed(turn, 1)}` : `${what} at no T`));
    root.setAttribute("aria-label", `Lines of |w|², |l|² and ⟨w, l⟩ against the number of shared tokens. At T = ${current.length}: ` +
      `${numbers(here).join(", ")}. ${crossing.join(", ")}. ${CASES[reading.case][0]}.`);
  }
  return { root: element("div", {}, root, caption), show };
}

// ---- the phase diagram ----

const REGIONS = [["chosen-up-rejected-down", "chosen up, rejected down", 0], ["both-up", "both up", 168], ["both-down", "both down", 240]];
const KEY = 8 * Math.ceil((TALL + 24) / 8); // its top, where the patterns begin anew
let pictures = 0; // drawn so far: a pattern needs a name that the page has once

// A case has a colour and a pattern: plain, dotted, hatched.
function makePatterns() {
  pictures += 1;
  const marks = { "both-down": "M-2 2L2 -2M0 8L8 0M6 10L10 6", "both-up": "M1.5 4a2 2 0 1 0 4 0a2 2 0 1 0 -4 0Z", "chosen-up-rejected-down": "" };
  const patterns = Object.entries(marks).map(([name, d]) => svg("pattern", { id: `gt-${name}-${pictures}`, class: `gt-${name}`, width: 8, height: 8, patternUnits: "userSpaceOnUse" },
    svg("rect", { class: "gt-under", width: 8, height: 8 }), svg("rect", { width: 8, height: 8 }), svg("path", { d })));
  return { defs: svg("defs", {}, ...patterns), fills: Object.fromEntries(Object.keys(marks).map((name) => [name, `url(#gt-${name}-${pictures})`])) };
}

function makeMap(state, change) {
  const { defs, fills } = makePatterns();
  const box = { x: LEFT, y: 0, width: WIDE - LEFT, height: TALL };
  const ground = svg("rect", { ...box, fill: fills["chosen-up-rejected-down"] });
  // In the order of the turning cosines: beyond the first both fall, beyond the second both rise.
  const regions = ["both-down", "both-up"].map((name) => svg("path", { class: "gt-border", fill: fills[name], "data-case": name }));
  const area = svg("rect", { ...box, class: "gt-ground" });
  const labels = ["both down", "both up"].map((text) => svgText(text, { class: "gt-label", y: 22, "text-anchor": "middle" }));
  const intended = svgText("chosen up, rejected down", { class: "gt-label", x: xOf(0.5), y: 0.82 * TALL, "text-anchor": "middle" });
  const point = svg("g", { class: "gt-point" }, svg("circle", { class: "gt-disc", r: 7 }), svg("circle", { class: "gt-dot", r: 3 }), svg("circle", { class: "gt-handle", r: 16 }));
  const inside = svg("svg", { ...box, viewBox: `${LEFT} 0 ${box.width} ${TALL}` }, ground, ...regions, intended, ...labels, area, point);
  const scale = [-1, 0, 1].map((rho) => svgText(printed(rho, 0), { class: "gt-scale", x: LEFT - 5, y: ((1 - rho) * TALL) / 2 + 4, "text-anchor": "end" }));
  const ends = ["start", "end"].map((anchor, i) => svgText("", { class: "gt-scale", x: xOf(i), y: TALL + 15, "text-anchor": anchor }));
  const names = [svgText("ρ", { class: "gt-label", x: LEFT - 12, y: TALL * 0.27, "text-anchor": "end" }), svgText("", { class: "gt-label gt-flat", x: xOf(0.5), y: TALL + 16, "text-anchor": "middle" })];
  const key = REGIONS.flatMap(([name, title, x]) => [svg("rect", { class: "gt-border", x, y: KEY, width: 16, height: 16, fill: fills[name] }),
    svgText(title, { class: "gt-scale", x: x + 20, y: KEY + 12 })]);
  const title = svgText("", { class: "gt-scale gt-flat", x: LEFT, y: -8 });
  const root = svg("svg", { viewBox: `-1 -22 ${WIDE + 9} ${KEY + 40}`, role: "img", class: "gt-phases" }, defs, svg("rect", { ...box, class: "gt-frame" }), inside, title, ...scale, ...ends, ...names, ...key);
  const choice = choiceControl({ name: "across", text: "phase diagram against ρ and", choices: ACROSS }, (value) => change({ across: value }));
  const caption = element("p", { class: "gt-caption" });
  caption.innerHTML = "Which case the pair falls into, by the hidden cosine <i>ρ</i> and a number of your choice; the others are as the sliders say. " +
    "Drag the point or press a place; from the keyboard the sliders move it.";
  const moveTo = ([x, y]) => {
    const { across } = state();
    const control = CONTROL[across];
    const share = (x - LEFT) / (WIDE - LEFT);
    change({ [across]: toStep(control, control.min + share * (control.max - control.min)), rho: toStep(CONTROL.rho, 1 - (2 * y) / TALL) });
  };
  followPointer(point, inside, moveTo);
  area.addEventListener("click", (event) => moveTo(pointIn(inside, event)));

  function show(current, reading) {
    const { min, max, letter, text, digits } = CONTROL[current.across];
    const x = (value) => xOf((value - min) / (max - min));
    const y = (rho) => ((1 - rho) * TALL) / 2;
    const edge = borders(current, current.across);
    regions.forEach((region, k) => {
      // Borders are cut far above the frame: the line from one inside it to one far out still leaves at the right place.
      const line = edge.map(({ value, turns }) => `${x(value).toFixed(2)} ${y(Math.min(turns[k], 4)).toFixed(2)}`).join("L");
      region.setAttribute("d", `M${LEFT} 0L${line}L${WIDE} 0Z`);
      placeLabel(labels[k], edge.filter(({ turns }) => turns[k] < 0.7).map(({ value }) => x(value)));
    });
    point.setAttribute("transform", `translate(${x(current[current.across])} ${y(current.rho)})`);
    const others = CONTROLS.filter(({ name }) => name !== current.across && name !== "rho");
    const elsewhere = `at ${others.map((control) => `${control.letter} ${printed(current[control.name], control.digits)}`).join(", ")}`;
    subscripted(title, elsewhere);
    ends.forEach((end, i) => write(end, String([min, max][i])));
    subscripted(names[1], letter);
    choice.show(current.across);
    const turns = turningCosines(current).map((turn, k) => `${["chosen falls", "rejected rises"][k]} ${turn <= 1 ? `above ρ ${printed(turn)}` : "at no ρ"}`);
    root.setAttribute("aria-label", `Map of the three cases by hidden cosine ρ and ${text} ${letter}, ${elsewhere}. ` +
      `The point, at ρ ${printed(current.rho)} and ${letter} ${printed(current[current.across], digits)}, lies in: ${CASES[reading.case][0]}. There ${turns.join(" and ")}.`);
  }
  return { root: element("div", {}, choice.root, root, caption), show };
}

// In the middle of where its region reaches below the label; without room there is the key alone.
function placeLabel(label, places) {
  const roomy = places.length > 1 && places.at(-1) - places[0] > 50;
  label.style.display = roomy ? "" : "none";
  if (roomy) place(label, { x: Math.min(WIDE - 36, Math.max(LEFT + 36, (places[0] + places.at(-1)) / 2)) });
}

// p_w with its letter below the line.
function subscripted(node, text) {
  if (node.textContent === text.replaceAll("_", "")) return;
  node.replaceChildren(...text.split(/_(\w)/).map((part, i) => {
    const span = svg("tspan", { dy: i % 2 ? 3 : i ? -3 : 0, class: i % 2 ? "gt-sub" : "" });
    span.textContent = part;
    return span;
  }));
}

export default { render };
