// Two gradients in the plane they span: what one step on a preference pair does to both log-probabilities; or, of two
// domains, what a step of ERM and a loop of Fish do to both losses.
// The maths is gentangle/alignment/conditions.py's and gentangle/display/geometry.py's; tests/js compares them.
// direction, element, svg, attributes, printed, followPointer, the controls and the announcement are dom.js's; firstOrderChanges,
// caseOf and cosine are pair.js's.

// ---- maths: pure functions; a Gram matrix is [[|w|^2, <w,l>], [<w,l>, |l|^2]], rows chosen and rejected, or of two domains ----

export function gramOf(chosenNorm, rejectedNorm, angle) {
  // To 15 decimals: in floating point cos 60 degrees is above 1/2, and a tie would be read as a fall.
  const cos = Math.round(Math.cos((angle * Math.PI) / 180) * 1e15) / 1e15;
  const inner = chosenNorm * rejectedNorm * cos;
  return [[chosenNorm ** 2, inner], [inner, rejectedNorm ** 2]];
}

export function conditions(gram, dChosen = 1, dRejected = 1) {
  const [chosen, rejected] = firstOrderChanges(gram, dChosen, dRejected);
  return { chosenDoesNotFall: chosen >= 0, rejectedDoesNotRise: rejected <= 0 };
}

// d_w and d_l of an objective of the menu; without one d_l is 1.
export function slopesOf({ menu, objective, ratio }) {
  const [, , dChosen, dRejected] = menu.rows.find(([name]) => name === objective) ?? [, , ratio, 1];
  return [dChosen, dRejected];
}

export const CURVATURE = 0.5; // of each domain's loss along its own gradient; none across

// How much of -g_1 and of -g_2 Fish's loop steps along: domain 1 first, domain 2 first.
export function fishLoops([[one, inner], [, two]], alpha) {
  const second = (square) => alpha * (1 - (CURVATURE * alpha * inner) / square);
  return [[alpha, second(two)], [second(one), alpha]];
}

export const meanLoop = (loops) => [0, 1].map((i) => (loops[0][i] + loops[1][i]) / 2);

// Exact GIP after the step -a g_1 - b g_2.
export function gipAfter([[one, inner], [, two]], [a, b]) {
  return inner * (1 - (CURVATURE * (a * one + b * inner)) / one) * (1 - (CURVATURE * (a * inner + b * two)) / two);
}

export function domainCase(gip, [one, two]) {
  if (one === 0 && two === 0) return "cancel";
  if (gip >= 0) return gip > 0 ? "agree" : "orthogonal";
  return Math.max(one, two) > 0 ? "one-rises" : "conflict";
}

// The names are those of GradientGeometry.reading() in Python.
export function read(state) {
  const gram = gramOf(state.chosen_norm, state.rejected_norm, state.angle);
  return state.read_as === "pair" ? readPair(state, gram) : readDomains(state, gram);
}

function readPair(state, gram) {
  const { ratio, eta } = state;
  const changes = firstOrderChanges(gram, ratio, 1, eta);
  const { chosenDoesNotFall, rejectedDoesNotRise } = conditions(gram, ratio, 1);
  const [dChosen, dRejected] = slopesOf(state);
  return {
    d_chosen: dChosen,
    d_rejected: dRejected,
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

function readDomains({ eta }, gram) {
  // ERM's step is a pair's update with the slopes -1/2 and 1/2: both losses fall along it.
  const changes = firstOrderChanges(gram, -0.5, 0.5, eta);
  return {
    gip: gram[0][1],
    cosine: cosine(gram),
    change_one: changes[0],
    change_two: changes[1],
    one_bound: -gram[0][0],
    two_bound: -gram[1][1],
    one_does_not_rise: changes[0] <= 0,
    two_does_not_rise: changes[1] <= 0,
    erm_gip: gipAfter(gram, [eta / 2, eta / 2]),
    fish_gip: gipAfter(gram, meanLoop(fishLoops(gram, eta / 2))),
    case: domainCase(gram[0][1], changes),
  };
}

// ---- what is on the screen ----

const CASES = {
  "chosen-up-rejected-down": ["Chosen up, rejected down", "as intended: both conditions hold."],
  "both-up": ["Both up", "the rejected response rises along with the chosen one."],
  "both-down": ["Both down", "the chosen response falls along with the rejected one."],
  "chosen-down-rejected-up": ["Chosen down, rejected up", "which no first-order step on one pair can do."],
  unmoved: ["Unmoved", "the update is zero: the two gradients cancel."],
  agree: ["The domains agree", "a step for either one alone lowers the other’s loss too."],
  orthogonal: ["Neither helps the other", "to first order a step for one domain leaves the other’s loss as it is."],
  conflict: ["The domains conflict", "a step for one alone raises the other’s loss; ERM’s step raises neither."],
  "one-rises": ["The domains conflict", "and ERM’s step raises one loss: the longer gradient outweighs the shorter."],
  cancel: ["The domains cancel", "ERM rests here, though neither domain’s loss is at its minimum."],
};

const W = '<i class="gt-w">w</i>';
const L = '<i class="gt-l">l</i>';
const ONE = '<i class="gt-w">g</i><sub>1</sub>';
const TWO = '<i class="gt-l">g</i><sub>2</sub>';
const D_W = "<i>d<sub>w</sub></i>";
const D_L = "<i>d<sub>l</sub></i>";

const NORM = { min: 0.1, max: 3, step: 0.05 };
const ANGLE = { name: "angle", text: "angle", min: 0, max: 180, step: 1, written: (degrees) => `${printed(degrees, 0)}°` };
const STEP = { name: "eta", symbol: "<i>η</i>", min: 0.05, max: 1, step: 0.05 };
// On a logarithmic slider: the objectives' ratios lie between 0.03 and 51.
const RATIO = { name: "ratio", symbol: `${D_W} / ${D_L}`, text: "slope ratio", min: -2, max: 2, step: 0.02, hue: "v",
  at: Math.log10, from: (at) => Number((10 ** at).toPrecision(3)), written: (ratio) => ratio.toPrecision(3) };

// How the two arrows read; the sliders' ranges are those of the Python traits.
const MODES = {
  pair: {
    title: "a preference pair",
    letters: { w: "w", l: "l", v: "v" },
    sliders: [{ ...NORM, name: "chosen_norm", symbol: "|<i>w</i>|", text: "chosen gradient", hue: "w" },
      { ...NORM, name: "rejected_norm", symbol: "|<i>l</i>|", text: "rejected gradient", hue: "l" },
      { ...ANGLE, symbol: "∠(<i>w</i>, <i>l</i>)" }, RATIO, { ...STEP, text: "step" }],
    readings: [
      { name: "d_chosen", term: D_W, digits: 3 },
      { name: "d_rejected", term: D_L, digits: 3 },
      { name: "inner_product", term: `⟨${W}, ${L}⟩` },
      { name: "cosine", term: `cos(${W}, ${L})` },
      { name: "change_chosen", term: 'Δ log <i class="gt-w">π<sub>w</sub></i>', moves: true },
      { name: "change_rejected", term: 'Δ log <i class="gt-l">π<sub>l</sub></i>', moves: true },
      { name: "chosen_does_not_fall", term: `chosen does not fall: ⟨${W}, ${L}⟩ ≤ (${D_W}/${D_L}) |${W}|²`, compared: ["inner_product", "≤", ">", "chosen_bound"] },
      { name: "rejected_does_not_rise", term: `rejected does not rise: ⟨${W}, ${L}⟩ ≤ (${D_L}/${D_W}) |${L}|²`, compared: ["inner_product", "≤", ">", "rejected_bound"] },
    ],
    caption: `The update is <i>v</i> = ${D_W} ${W} − ${D_L} ${L}. ` +
      "A response rises when <i>v</i> lies on its gradient’s side of the dashed line of the same colour.",
  },
  domains: {
    title: "two domains (Fish)",
    letters: { w: "g₁", l: "g₂", v: "ERM" },
    sliders: [{ ...NORM, name: "chosen_norm", symbol: "|<i>g</i><sub>1</sub>|", text: "gradient of domain 1’s loss", hue: "w" },
      { ...NORM, name: "rejected_norm", symbol: "|<i>g</i><sub>2</sub>|", text: "gradient of domain 2’s loss", hue: "l" },
      { ...ANGLE, symbol: "∠(<i>g</i><sub>1</sub>, <i>g</i><sub>2</sub>)" }, { ...STEP, text: "step of ERM" }],
    readings: [
      { name: "gip", term: `GIP ⟨${ONE}, ${TWO}⟩` },
      { name: "cosine", term: `cos(${ONE}, ${TWO})` },
      { name: "change_one", term: 'ERM: Δ<i class="gt-w">L</i><sub>1</sub>', moves: true },
      { name: "change_two", term: 'ERM: Δ<i class="gt-l">L</i><sub>2</sub>', moves: true },
      { name: "one_does_not_rise", term: `<i class="gt-w">L</i><sub>1</sub> does not rise: ⟨${ONE}, ${TWO}⟩ ≥ −|${ONE}|²`, compared: ["gip", "≥", "<", "one_bound"] },
      { name: "two_does_not_rise", term: `<i class="gt-l">L</i><sub>2</sub> does not rise: ⟨${ONE}, ${TWO}⟩ ≥ −|${TWO}|²`, compared: ["gip", "≥", "<", "two_bound"] },
      { name: "erm_gip", term: "GIP after ERM’s step" },
      { name: "fish_gip", term: "GIP after Fish’s loop" },
    ],
    caption: `ERM steps along −(${ONE} + ${TWO})/2. A loss falls, to first order, when the step ends on the far side of its dashed line, away from its gradient. ` +
      "Fish takes one step for each domain, the second where the first has ended: the thin lines are its loop in both orders, the ring their mean end. " +
      `The ring is ERM’s end plus ½<i>α</i>²∇⟨${ONE}, ${TWO}⟩, with Fish’s inner rate <i>α</i> = <i>η</i>/2: Fish leans to where the GIP is larger. ` +
      "Drawn for quadratic losses, of curvature ½ along their own gradient and none across: a linear model’s squared error on one example.",
  },
};
const TRAITS = ["chosen_norm", "rejected_norm", "angle", "ratio", "eta", "objective", "read_as", "menu"];

const HALF = 160; // of the picture, in its own units
const EXTENTS = [2.5, 5, 10, 20]; // gradient units from the centre to the edge
const LONGEST = 4; // slope ratio up to which v is drawn whole

export function render({ model, el }) {
  const state = () => Object.fromEntries(TRAITS.map((name) => [name, model.get(name)]));
  const change = (values) => {
    for (const [name, value] of Object.entries(values)) model.set(name, value);
    model.save_changes();
  };
  const mode = choiceControl({ name: "read_as", text: "read the arrows as", choices: Object.entries(MODES).map(([name, { title }]) => [name, title]) },
    (value) => change({ read_as: value }));
  const controls = Object.fromEntries(Object.keys(MODES).map((name) => [name, makeControls(MODES[name].sliders, change)]));
  const objectives = makeObjectives(state, change);
  const figure = makeFigure(state, change);
  const results = makeResults();
  const panel = element("div", { class: "gt-controls" });
  figure.root.insertBefore(results.announcement, figure.caption); // the verdict in sight of the arrows
  el.replaceChildren(element("div", { class: "gt-widget" }, figure.root,
    element("div", { class: "gt-panel" }, mode.root, panel, results.root)));

  let drawn = "";
  const draw = () => {
    const current = state();
    const reading = read(current);
    if (drawn !== current.read_as) panel.replaceChildren(...(current.read_as === "pair" ? [objectives.root] : []), controls[current.read_as].root);
    drawn = current.read_as;
    mode.show(current.read_as);
    objectives.show(current);
    controls[current.read_as].show(current);
    figure.show(current, reading);
    results.show(current, reading);
  };
  for (const name of TRAITS) model.on(`change:${name}`, draw);
  draw();
  return () => TRAITS.forEach((name) => model.off(`change:${name}`, draw));
}

function makeControls(sliders, change) {
  const same = (value) => value;
  const rows = sliders.map((slider) => {
    const { name, at = same, from = same, written } = slider;
    // A ratio set by hand is no objective's.
    const row = rangeControl(slider, (value) => change({ [name]: from(value), ...(name === "ratio" && { objective: "own" }) }));
    return { root: row.root, show: (current) => row.show(at(current[name]), (written ?? printed)(current[name])) };
  });
  return { root: element("div", {}, ...rows.map(({ root }) => root)), show: (current) => rows.forEach((row) => row.show(current)) };
}

// The menu of objectives, and where its slopes come from.
function makeObjectives(state, change) {
  const { menu } = state();
  const choice = choiceControl({ name: "objective", text: "objective", choices: [["own", "your own slopes"], ...menu.rows] }, (objective) => {
    const [dChosen, dRejected] = slopesOf({ ...state(), objective });
    change({ ratio: dChosen / dRejected, objective });
  });
  const note = element("output", { class: "gt-note", "aria-live": "polite" });
  return {
    root: element("div", {}, choice.root, note),
    show(current) {
      choice.show(current.objective);
      if (note.dataset.value === current.objective) return; // read out when it changes, not at every step of a slider
      note.dataset.value = current.objective;
      const [dChosen, dRejected] = slopesOf(current).map((slope) => slope.toPrecision(3));
      const words = current.objective === "own" ? "Slopes are counted for d_l = 1: only their ratio decides the case." :
        `d_w = ${dChosen} and d_l = ${dRejected} at ${menu.pair}. η and v are counted for d_l = 1: the ratio decides the case, the size how hard a loss pushes. ` +
        "m′: slope of the loss in its margin; r: log-ratio to the reference; [·]: 1 where it holds, else 0.";
      note.replaceChildren(...lowered(words));
    },
  };
}

// Text in which _w and _l are subscripts.
const lowered = (text) => text.split(/_(\w)/).map((part, i) => (i % 2 ? element("sub", {}, part) : part));

function makeResults() {
  const announcement = makeAnnouncement(CASES);
  const list = element("dl", { class: "gt-readings" });
  const rows = Object.fromEntries(Object.entries(MODES).map(([mode, { readings }]) => [mode, readings.map(makeReading)]));
  let drawn = "";
  return {
    announcement: announcement.root,
    root: element("div", { class: "gt-results" }, list),
    show(current, reading) {
      const mode = current.read_as;
      if (drawn !== mode) list.replaceChildren(...rows[mode].map(({ root }) => root));
      drawn = mode;
      for (const row of rows[mode]) row.show(reading);
      if (mode === "pair") showSlopes(rows.pair, current);
      announcement.show(reading);
    },
  };
}

function makeReading({ name, term, digits, moves, compared }) {
  const value = element("dd", { "data-reading": name });
  const formula = element("span");
  const head = element("dt");
  head.innerHTML = term; // constants of this file
  head.append(formula);
  const written = (reading) => {
    if (digits) return reading[name].toPrecision(digits);
    if (!compared) return printed(reading[name]) + (moves ? direction(reading[name]) : "");
    const [one, holds, fails, other] = compared;
    return `${printed(reading[one])} ${reading[name] ? holds : fails} ${printed(reading[other])}  ${reading[name] ? "✓ holds" : "✗ fails"}`;
  };
  return {
    name,
    formula,
    root: element("div", { class: "gt-reading" }, head, value),
    show(reading) {
      value.dataset.value = String(reading[name]);
      if (compared) value.dataset.holds = String(reading[name]);
      value.textContent = written(reading);
    },
  };
}

// The two slopes and their formulas, where they are an objective's.
function showSlopes(rows, { menu, objective }) {
  const [, , , , ...formulas] = menu.rows.find(([name]) => name === objective) ?? [];
  ["d_chosen", "d_rejected"].forEach((name, i) => {
    const { root, formula } = rows.find((row) => row.name === name);
    root.style.display = formulas.length ? "" : "none";
    if (formula.dataset.of === objective) return;
    formula.dataset.of = objective;
    formula.replaceChildren(...(formulas.length ? lowered(` = ${formulas[i]}`) : []));
  });
}

function makeFigure(state, change) {
  const grid = svg("path", { class: "gt-grid" });
  const sides = { w: svg("line", { class: "gt-side gt-w" }), l: svg("line", { class: "gt-side gt-l" }) };
  const arrows = { v: makeArrow("v"), l: makeArrow("l"), w: makeArrow("w") };
  const handles = { l: svg("circle", { class: "gt-handle gt-l", r: 13 }), w: svg("circle", { class: "gt-handle gt-w", r: 13 }) };
  const scale = svg("text", { class: "gt-scale", x: -HALF + 6, y: HALF - 7 });
  const fish = makeFish();
  const picture = svg("svg", { viewBox: `${-HALF} ${-HALF} ${2 * HALF} ${2 * HALF}`, role: "img" },
    grid, sides.w, sides.l, fish.root, arrows.v.root, fish.mark, arrows.l.root, arrows.w.root, scale, handles.l, handles.w);
  const caption = element("p", { class: "gt-caption" });
  let extent = EXTENTS[0];
  let dragged = false;

  // The arrow heads can be dragged too; every drag has a slider that does the same.
  const move = {
    w: ([x]) => change({ chosen_norm: toStep(NORM, x) }),
    l: ([x, y]) => change({ rejected_norm: toStep(NORM, Math.hypot(x, y)), angle: toStep(ANGLE, Math.abs((Math.atan2(y, x) * 180) / Math.PI)) }),
  };
  for (const [name, handle] of Object.entries(handles)) {
    handle.addEventListener("pointerdown", () => (dragged = true));
    followPointer(handle, picture, ([x, y]) => move[name]([(x * extent) / HALF, (-y * extent) / HALF]));
    handle.addEventListener("lostpointercapture", () => {
      dragged = false;
      show(state());
    });
  }

  function show(current, reading = read(current)) {
    const radians = (current.angle * Math.PI) / 180;
    const w = [current.chosen_norm, 0];
    const l = [current.rejected_norm * Math.cos(radians), current.rejected_norm * Math.sin(radians)];
    const along = (a, b) => [a * w[0] + b * l[0], a * w[1] + b * l[1]];
    const domains = current.read_as === "domains";
    const shrink = domains ? 1 : Math.max(1, current.ratio / LONGEST);
    const v = domains ? along(-current.eta / 2, -current.eta / 2) : along(current.ratio / shrink, -1 / shrink);
    const farthest = Math.max(...[w, l, v].flat().map(Math.abs)) * 1.12;
    const needed = EXTENTS.find((candidate) => candidate >= farthest) ?? EXTENTS.at(-1);
    // A picture that shrinks or grows under the pointer would move the head that is held.
    if (!dragged) extent = needed;
    const unit = HALF / extent;
    const spacing = extent > 5 ? 5 : 1;
    drawGrid(grid, unit * spacing);
    scale.textContent = `one square: ${spacing} × ${spacing}${shrink > 1 ? `; v at 1 : ${shrink.toPrecision(3)}` : ""}`;
    const { title, letters, caption: words } = MODES[current.read_as];
    for (const [name, tip, side] of [["w", w, -1], ["l", l, 1], ["v", v, 0]]) arrows[name].show(tip[0] * unit, -tip[1] * unit, side, letters[name]);
    for (const [name, tip] of [["w", w], ["l", l]]) {
      attributes(handles[name], { cx: tip[0] * unit, cy: -tip[1] * unit });
      const reach = (2 * HALF) / Math.hypot(...tip); // past the corner of the picture
      attributes(sides[name], { x1: -tip[1] * reach, y1: -tip[0] * reach, x2: tip[1] * reach, y2: tip[0] * reach });
    }
    for (const part of [fish.root, fish.mark]) part.style.display = domains ? "" : "none";
    if (domains) fish.show(fishLoops(gramOf(current.chosen_norm, current.rejected_norm, current.angle), current.eta / 2), (a, b) => along(-a * unit, -b * unit));
    picture.setAttribute("aria-label",
      `Gradients ${letters.w} of length ${printed(current.chosen_norm)} and ${letters.l} of length ${printed(current.rejected_norm)}, ` +
      `${printed(current.angle, 0)} degrees apart, ${domains ? "the step of ERM, and Fish’s loop in both orders" : "and the update v"}. ${CASES[reading.case][0]}.`);
    if (caption.dataset.of !== title) caption.innerHTML = words; // constants of this file
    caption.dataset.of = title;
  }
  return { root: element("div", { class: "gt-plane" }, picture, caption), caption, show };
}

// Fish's loop in both orders, each leg in the colour of the domain that it steps for, and the mean end.
function makeFish() {
  const legs = ["w", "l", "l", "w"].map((hue) => svg("path", { class: `gt-path gt-${hue}` }));
  const end = svg("circle", { class: "gt-path gt-v", r: 6.5 });
  const word = svgText("Fish", { class: "gt-word gt-v", "text-anchor": "middle" });
  return {
    root: svg("g", {}, ...legs),
    mark: svg("g", {}, end, word), // above ERM's arrow, whose head it often surrounds
    show(loops, place) {
      const point = (a, b) => place(a, b).map((c, i) => (i ? -c : c));
      loops.forEach(([a, b], order) => {
        const corner = order ? point(0, b) : point(a, 0);
        legs[2 * order].setAttribute("d", `M0 0L${corner}`);
        legs[2 * order + 1].setAttribute("d", `M${corner}L${point(a, b)}`);
      });
      const [cx, cy] = point(...meanLoop(loops));
      attributes(end, { cx, cy });
      // Beside the line from the start, as ERM's name stands beyond the end of its own.
      const far = Math.hypot(cx, cy) || 1;
      const side = cx < 0 ? -1 : 1; // below it
      attributes(word, { x: clamp(cx - (side * 24 * cy) / far, -HALF + 16, HALF - 16), y: clamp(cy + (side * 18 * cx) / far + 4, -HALF + 12, HALF - 8) });
    },
  };
}

function makeArrow(name) {
  const shaft = svg("line", { x1: 0, y1: 0 });
  const head = svg("polygon", {});
  const label = svg("text", { "text-anchor": "middle" });
  const root = svg("g", { class: `gt-arrow-${name}` }, shaft, head, label);
  return {
    root,
    // side: -1 and 1 put the name beside the head (below w, above l, so that they part at small angles), 0 beyond it.
    show(x, y, side, letter) {
      label.textContent = letter;
      const word = letter.length > 2;
      label.setAttribute("class", word ? "gt-word" : "");
      const length = Math.hypot(x, y);
      root.style.display = length < 1 ? "none" : "";
      if (length < 1) return;
      const [ax, ay] = [x / length, y / length];
      const size = Math.min(11, length);
      const [bx, by] = [x - size * ax, y - size * ay];
      attributes(shaft, { x2: bx, y2: by });
      const wing = size * 0.45;
      head.setAttribute("points", `${x},${y} ${bx - wing * ay},${by + wing * ax} ${bx + wing * ay},${by - wing * ax}`);
      const [lx, ly] = side === 0 ? [x + (word ? 24 : 15) * ax, y + 15 * ay] : [x + side * 17 * ay, y - side * 17 * ax];
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

function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

export default { render };
