// Two to four domains with quadratic losses in the plane, and the paths that ERM, IDGM and Fish take over them.
// The maths is gentangle/matching's; tests/js compares the two.
// element, svg, attributes, svgText, printed and the controls are dom.js's.

// ---- maths: pure functions; a point is [x, y], a domain its minimum m and its curvature h, 2 x 2 ----

export const ANGLES = [0, 45, 75, 120]; // of each domain's steep direction, in degrees
export const STEEP = 2; // curvature along it
export const FAR = 1e3; // a path that leaves this square has run away
export const ALGORITHMS = ["erm", "idgm", "fish"];

export function gameOf({ minima, domains, flat }) {
  return minima.slice(0, domains).map((m, i) => {
    const [c, s] = [Math.cos((ANGLES[i] * Math.PI) / 180), Math.sin((ANGLES[i] * Math.PI) / 180)];
    const across = (STEEP - flat) * c * s;
    return { m, h: [[STEEP * c * c + flat * s * s, across], [across, STEEP * s * s + flat * c * c]] };
  });
}

const times = ([[a, b], [c, d]], [x, y]) => [a * x + b * y, c * x + d * y];
const dot = (one, other) => one[0] * other[0] + one[1] * other[1];
const plus = (one, other, share = 1) => [one[0] + share * other[0], one[1] + share * other[1]];
const sum = (points) => points.reduce((total, point) => plus(total, point), [0, 0]);

const gradient = ({ m, h }, theta) => times(h, plus(theta, m, -1));

export function meanLoss(game, theta) {
  return game.reduce((total, domain) => total + dot(gradient(domain, theta), plus(theta, domain.m, -1)) / 2, 0) / game.length;
}

// Mean inner product over the pairs of domains, from norms alone.
export function gip(game, theta) {
  const each = game.map((domain) => gradient(domain, theta));
  const total = sum(each);
  return (dot(total, total) - each.reduce((squares, g) => squares + dot(g, g), 0)) / (game.length * (game.length - 1));
}

function idgmGradient(game, theta, gamma) {
  const each = game.map((domain) => gradient(domain, theta));
  const total = sum(each);
  // Domain i pulls by its curvature times the other domains' gradients: half of the gradient of the sum over i != j.
  const pull = sum(game.map(({ h }, i) => times(h, plus(total, each[i], -1))));
  const count = game.length;
  return plus([total[0] / count, total[1] / count], pull, (-2 * gamma) / (count * (count - 1)));
}

function fishStep(game, theta, alpha, eps) {
  const end = game.reduce((at, domain) => plus(at, gradient(domain, at), -alpha), theta);
  return plus(theta, plus(end, theta, -1), eps);
}

// ERM's and IDGM's step: to first order in alpha it is as long as Fish's.
export const rateOf = ({ alpha, eps, domains }) => eps * alpha * domains;

// With quadratic losses every step is affine, so its values at three points give it whole: a path is then cheap.
function affine(step) {
  const [p, q] = step([0, 0]);
  const [[a, c], [b, d]] = [step([1, 0]), step([0, 1])];
  return ([x, y]) => [(a - p) * x + (b - p) * y + p, (c - q) * x + (d - q) * y + q];
}

// Points from the start on, one a step; `left` is the step at which the path ran away, 0 where it did not.
export function path(name, state) {
  const game = gameOf(state);
  const back = state.order === "there-and-back" ? [...game].reverse() : game;
  const descend = (gamma) => affine((at) => plus(at, idgmGradient(game, at, gamma), -rateOf(state)));
  const loop = (order) => affine((at) => fishStep(order, at, state.alpha, state.eps));
  const turns = { erm: () => [descend(0)], idgm: () => [descend(state.gamma)], fish: () => [loop(game), loop(back)] }[name]();
  const points = [state.start];
  for (let k = 0; k < state.steps; k += 1) {
    const [x, y] = turns[k % turns.length](points[k]);
    points.push([x, y]);
    if (Math.max(Math.abs(x), Math.abs(y)) > FAR) return { points, left: k + 1 };
  }
  return { points, left: 0 };
}

// Upper triangles of the mean curvature M and of the GIP's Hessian N: IDGM's objective has the Hessian M - gamma N.
function hessians(game) {
  const count = game.length;
  const add = (matrices) => [0, 1].map((i) => [0, 1].map((j) => matrices.reduce((total, matrix) => total + matrix[i][j], 0)));
  const squared = ([row, [, d]]) => [[dot(row, row), row[1] * (row[0] + d)], [row[1] * (row[0] + d), row[1] * row[1] + d * d]];
  const total = add(game.map(({ h }) => h));
  const [whole, own] = [squared(total), add(game.map(({ h }) => squared(h)))];
  const upper = ([[a, b], [, d]]) => [a, b, d];
  return [upper(total).map((entry) => entry / count),
    upper(whole).map((entry, i) => (2 * (entry - upper(own)[i])) / (count * (count - 1)))];
}

// The largest gamma at which IDGM's objective is bounded below: 1 over the largest eigenvalue of M^-1 N.
export function gammaMax(game) {
  const [[a, b, d], [p, q, r]] = hessians(game);
  const determinant = a * d - b * b;
  const half = (d * p - 2 * b * q + a * r) / determinant / 2;
  return 1 / (half + Math.sqrt(Math.max(0, half * half - (p * r - q * q) / determinant)));
}

// The names are those of DomainLandscape.reading() in Python.
export function read(state, paths = Object.fromEntries(ALGORITHMS.map((name) => [name, path(name, state)]))) {
  const game = gameOf(state);
  const reading = { rate: rateOf(state), gamma_eff: (state.alpha * (state.domains - 1)) / 4, gamma_max: gammaMax(game) };
  for (const name of ALGORITHMS) {
    const { points, left } = paths[name];
    const end = points.at(-1);
    Object.assign(reading, {
      [`${name}_x`]: end[0],
      [`${name}_y`]: end[1],
      [`${name}_loss`]: meanLoss(game, end),
      [`${name}_gip`]: gip(game, end),
      [`${name}_gradients`]: state.domains * (points.length - 1),
      [`${name}_double`]: name === "idgm" ? points.length - 1 : 0,
      [`${name}_left`]: left,
    });
  }
  return reading;
}

// ---- what is on the screen ----

const TITLES = { erm: "ERM", idgm: "IDGM", fish: "Fish" };

// Trait, symbol as HTML, what it is, range; the ranges are those of the Python traits.
const CONTROLS = [
  { name: "alpha", symbol: "<i>α</i>", text: "Fish’s inner rate", min: 0.02, max: 1.2, step: 0.02, hue: "fish" },
  { name: "eps", symbol: "<i>ε</i>", text: "Fish’s outer step", min: 0.02, max: 1, step: 0.02, hue: "fish" },
  { name: "gamma", symbol: "<i>γ</i>", text: "IDGM’s weight of the GIP", min: 0, max: 1, step: 0.005, digits: 3, hue: "idgm" },
  { name: "domains", symbol: "<i>S</i>", text: "domains", min: 2, max: 4, step: 1, digits: 0 },
  { name: "flat", symbol: "<i>h</i>", text: `flat curvature (the steep one is ${STEEP})`, min: 0.05, max: STEEP, step: 0.05 },
  { name: "steps", symbol: "<i>k</i>", text: "steps", min: 10, max: 400, step: 10, digits: 0 },
];
const ORDER = { name: "order", text: "Fish’s order", choices: [["there-and-back", "there and back, by turns"], ["fixed", "always the same"]] };
const TRAITS = [...CONTROLS.map(({ name }) => name), "order", "minima", "start"];

const ROWS = [["x", "ends at <i>x</i>"], ["y", "ends at <i>y</i>"], ["loss", "mean loss"], ["gip", "GIP"],
  ["gradients", "gradients"], ["double", "double backwards"]];
const COLUMNS = ALGORITHMS.map((name) => [name, TITLES[name], name]);

const HALF = 160; // of the picture, in its own units
const REACH = 3; // how far a minimum may go; the picture shows a little more
const UNIT = HALF / (REACH + 0.2);
const [LEFT, WIDE, TALL] = [40, 320, 120]; // of the small plot
const LINEAR = 0.1; // below it the small plot's axis is linear, beyond it logarithmic
const TICKS = [-1e4, -1e3, -100, -10, -1, -0.1, 0, 0.1, 1, 10, 100, 1e3, 1e4, 1e6, 1e8];

export function render({ model, el }) {
  const state = () => Object.fromEntries(TRAITS.map((name) => [name, model.get(name)]));
  const change = (values) => {
    for (const [name, value] of Object.entries(values)) model.set(name, value);
    model.save_changes();
  };
  const first = state();
  const controls = makeControls(state, change, first);
  const plane = makePlane(state, change);
  const plot = makePlot();
  const results = makeResults();
  el.replaceChildren(element("div", { class: "gt-widget" },
    element("div", { class: "gt-plane" }, plane.root, plot.root, makeCaption()),
    element("div", { class: "gt-panel" }, controls.root, results.root)));

  const draw = () => {
    const current = state();
    const paths = Object.fromEntries(ALGORITHMS.map((name) => [name, path(name, current)]));
    const reading = read(current, paths);
    controls.show(current, reading);
    plane.show(current, paths, reading);
    plot.show(current, paths);
    results.show(current, reading);
  };
  for (const name of TRAITS) model.on(`change:${name}`, draw);
  draw();
  return () => {
    results.stop();
    TRAITS.forEach((name) => model.off(`change:${name}`, draw));
  };
}

function makeControls(state, change, first) {
  const rows = CONTROLS.map((control) => ({ ...control, row: rangeControl(control, (value) => change({ [control.name]: value })) }));
  const order = choiceControl(ORDER, (value) => change({ order: value }));
  const follow = element("button", { type: "button", class: "gt-button", name: "follow" });
  const reset = element("button", { type: "button", class: "gt-button", name: "reset" }, "Start again");
  follow.addEventListener("click", () => change({ gamma: Math.min(1, Math.round(read(state()).gamma_eff * 200) / 200) }));
  reset.addEventListener("click", () => change(first));
  return {
    root: element("div", { class: "gt-controls" }, ...rows.map(({ row }) => row.root), order.root,
      element("div", { class: "gt-buttons" }, follow, reset)),
    show(current, { gamma_eff }) {
      for (const { name, row } of rows) row.show(current[name]);
      order.show(current.order);
      follow.textContent = `γ = ${printed(gamma_eff, 3)}, Fish’s own`;
    },
  };
}

// What the paths came to, in words: for the eye at once, for a screen reader when the hand rests.
function makeResults() {
  const table = readingsTable("Where each path ends, and what it cost", ROWS, COLUMNS);
  const words = element("p", { class: "gt-case", "data-reading": "verdict" });
  const spoken = element("output", { class: "gt-spoken", "aria-live": "polite" });
  let timer;
  return {
    root: element("div", { class: "gt-results" }, words, table.root, spoken),
    stop: () => clearTimeout(timer),
    show(current, reading) {
      table.show(reading, (name, value) => (/gradients|double/.test(name) ? String(value) : figure(value)));
      words.textContent = verdict(current, reading);
      clearTimeout(timer);
      const values = (what) => ALGORITHMS.map((name) => `${TITLES[name]} ${figure(reading[`${name}_${what}`])}`).join(", ");
      timer = setTimeout(() => (spoken.textContent = `Mean loss: ${values("loss")}. GIP: ${values("gip")}. ${verdict(current, reading)}`), 400);
    },
  };
}

const raised = (power) => String(power).replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]);
const figure = (value) => (Math.abs(value) < 1e4 ? printed(value) : value.toExponential(1).replace("-", "−").replace(/e\+(\d+)/, (_, power) => ` · 10${raised(power)}`));
const tickText = (tick) => (Math.abs(tick) < 1e3 ? String(tick) : `${tick < 0 ? "-" : ""}10${raised(Math.round(Math.log10(Math.abs(tick))))}`).replace("-", "−");

export function verdict({ gamma, alpha, steps }, reading) {
  const ranAway = ALGORITHMS.filter((name) => reading[`${name}_left`]).map((name) => `${TITLES[name]} runs away (step ${reading[`${name}_left`]})`);
  const bound = `IDGM’s objective has a minimum for γ < ${printed(reading.gamma_max, 3)}`;
  const words = [
    gamma > reading.gamma_max ? `${bound}: at this γ it is unbounded below.` : `${bound}.`,
    reading.erm_left ? `Their step εαS = ${printed(reading.rate)} is too long for ERM, and so for IDGM.` : "",
    reading.fish_left ? `Fish’s inner rate α = ${printed(alpha)} is too long for the steep curvature: αλ = ${printed(alpha * STEEP)}.` : "",
  ];
  const what = ranAway.length ? `${ranAway.join(", ")}.` : `No path ran away within ${steps} steps.`;
  return [what, ...words].filter(Boolean).join(" ");
}

function makeCaption() {
  const caption = element("p", { class: "gt-caption" });
  caption.innerHTML = "Each numbered domain has its minimum at its disc; the ellipse is its level ½, the thin lines are levels of the mean loss. " +
    "Drag the discs or the start, <i>θ</i>, or move them with the arrow keys (with Shift in larger steps). ERM and IDGM step at rate <i>εαS</i>, as long as Fish’s step to first order. " +
    "The small plot has the exact GIP of the domains along each path.";
  return caption;
}

// ---- the plane ----

const screen = ([x, y]) => [x * UNIT, -y * UNIT];
const far = 40 * HALF; // where a path that runs away is cut, in the picture's units
const cut = (c) => Math.round(Math.max(-far, Math.min(far, c)) * 10) / 10;
const route = (points) => `M${points.map(([x, y]) => `${cut(x)} ${cut(y)}`).join("L")}`;
const MARKS = { erm: "M-5 -5H5V5H-5Z", idgm: "M0 -7L6.5 5H-6.5Z", fish: "M-5.5 0A5.5 5.5 0 1 1 5.5 0A5.5 5.5 0 1 1 -5.5 0Z" };

function makePlane(state, change) {
  const bowls = ANGLES.map(() => svg("ellipse", { class: "gt-bowl" }));
  const levels = [0.25, 1, 2.25, 4, 6.25, 9].map((above) => ({ above, ring: svg("ellipse", { class: "gt-level" }) }));
  const lines = ALGORITHMS.map((name) => svg("path", { class: `gt-path gt-${name}`, "data-path": name }));
  const ends = ALGORITHMS.map((name) => svg("path", { class: `gt-end gt-${name}`, d: MARKS[name] }));
  const key = ALGORITHMS.flatMap((name, i) => {
    const x = -HALF + 8 + 104 * i;
    return [svg("path", { class: `gt-path gt-${name}`, d: `M${x} ${-HALF - 15}h30` }),
      svg("path", { class: `gt-end gt-${name}`, d: MARKS[name], transform: `translate(${x + 30} ${-HALF - 15})` }),
      svgText(TITLES[name], { class: `gt-label gt-${name}`, x: x + 41, y: -HALF - 10 })];
  });
  const handles = [...ANGLES.map((_, i) => makePoint(`minimum of domain ${i + 1}`, String(i + 1))), makePoint("start of the paths", "θ")];
  const place = (i, current) => (i < ANGLES.length ? current.minima[i] : current.start);
  const move = (i, to) => {
    const at = to.map((c) => Math.max(-REACH, Math.min(REACH, Math.round(c * 20) / 20)));
    const current = state();
    change(i < ANGLES.length ? { minima: current.minima.map((m, j) => (j === i ? at : m)) } : { start: at });
  };
  const frame = svg("rect", { class: "gt-frame", x: -HALF, y: -HALF, width: 2 * HALF, height: 2 * HALF });
  const axes = svg("path", { class: "gt-grid", d: `M${-HALF} 0H${HALF}M0 ${-HALF}V${HALF}` });
  // An inner svg cuts off what leaves the plane.
  const inside = svg("svg", { x: -HALF, y: -HALF, width: 2 * HALF, height: 2 * HALF, viewBox: `${-HALF} ${-HALF} ${2 * HALF} ${2 * HALF}` },
    axes, ...levels.map(({ ring }) => ring), ...bowls, ...lines, ...ends, ...handles);
  const root = svg("svg", { viewBox: `${-HALF - 1} ${-HALF - 28} ${2 * HALF + 2} ${2 * HALF + 29}`, role: "group", class: "gt-landscape" }, frame, inside, ...key);
  handles.forEach((handle, i) => movable(handle, inside, (to) => move(i, to), () => place(i, state())));

  return {
    root,
    show(current, paths, reading) {
      const game = gameOf(current);
      const [[a, b, d]] = hessians(game);
      const pull = sum(game.map(({ m, h }) => times(h, m))).map((c) => c / game.length);
      const rest = [(d * pull[0] - b * pull[1]) / (a * d - b * b), (a * pull[1] - b * pull[0]) / (a * d - b * b)];
      for (const { above, ring } of levels) placeEllipse(ring, rest, [a, b, d], above);
      bowls.forEach((bowl, i) => {
        bowl.style.display = game[i] ? "" : "none";
        if (game[i]) placeEllipse(bowl, game[i].m, [game[i].h[0][0], game[i].h[0][1], game[i].h[1][1]], 0.5);
      });
      ALGORITHMS.forEach((name, i) => {
        const points = paths[name].points.map(screen);
        lines[i].setAttribute("d", route(points));
        const [x, y] = points.at(-1);
        ends[i].style.display = paths[name].left ? "none" : "";
        ends[i].setAttribute("transform", `translate(${x} ${y})`);
      });
      handles.forEach((handle, i) => {
        const [x, y] = place(i, current);
        handle.style.display = i < current.domains || i === ANGLES.length ? "" : "none";
        attributes(handle, { transform: `translate(${x * UNIT} ${-y * UNIT})`, "aria-valuenow": x, "aria-valuetext": `x ${printed(x)}, y ${printed(y)}` });
      });
      root.setAttribute("aria-label", `Landscape of ${current.domains} domains with the paths of ERM, IDGM and Fish. ${verdict(current, reading)}`);
    },
  };
}

// The curve on which 1/2 x^T [[a, b], [b, d]] x, about its centre, is `level`.
function placeEllipse(node, centre, [a, b, d], level) {
  const [middle, apart] = [(a + d) / 2, Math.hypot((a - d) / 2, b)];
  const turn = (Math.atan2(2 * b, a - d) * 90) / Math.PI; // of the steep direction
  const [x, y] = screen(centre);
  attributes(node, { rx: UNIT * Math.sqrt((2 * level) / (middle + apart)), ry: UNIT * Math.sqrt((2 * level) / (middle - apart)), transform: `translate(${x} ${y}) rotate(${-turn})` });
}

// A place to be dragged. The role has one value, so the text says both coordinates.
function makePoint(name, letter) {
  return svg("g", { class: "gt-point", tabindex: 0, role: "slider", "aria-label": `${name}, arrow keys move it`,
    "aria-valuemin": -REACH, "aria-valuemax": REACH, "data-point": letter, "data-lm-suppress-shortcuts": "true" },
  svg("circle", { class: "gt-disc", r: 9 }), svgText(letter, { "text-anchor": "middle", y: 4 }), svg("circle", { class: "gt-handle", r: 16 }));
}

const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

function movable(handle, picture, move, where) {
  handle.addEventListener("keydown", (event) => {
    if (!KEYS[event.key]) return;
    event.preventDefault();
    move(plus(where(), KEYS[event.key], event.shiftKey ? 0.5 : 0.1));
  });
  handle.addEventListener("pointerdown", () => handle.focus({ preventScroll: true }));
  followPointer(handle, picture, ([x, y]) => move([x / UNIT, -y / UNIT]));
}

// ---- the GIP along the paths ----

function makePlot() {
  const frame = svg("path", { class: "gt-grid" });
  const lines = ALGORITHMS.map((name) => svg("path", { class: `gt-path gt-${name}` }));
  const labels = TICKS.map(() => svgText("", { class: "gt-scale", x: LEFT - 5, "text-anchor": "end" }));
  const last = svgText("", { class: "gt-scale", x: WIDE, y: TALL + 15, "text-anchor": "end" });
  const names = [svgText("GIP along the path", { class: "gt-scale", x: LEFT, y: -8 }), svgText("step 0", { class: "gt-scale", x: LEFT, y: TALL + 15 }), last];
  const root = svg("svg", { viewBox: `0 -20 ${WIDE + 4} ${TALL + 40}`, role: "img" }, frame, ...lines, ...labels, ...names);
  const bend = (value) => Math.asinh(value / LINEAR);
  return {
    root,
    show(current, paths) {
      const game = gameOf(current);
      const values = ALGORITHMS.map((name) => paths[name].points.map((point) => gip(game, point)));
      const [low, high] = [Math.min(...values.flat()), Math.max(...values.flat())];
      const bottom = TICKS.findLast((tick) => tick <= low) ?? TICKS[0];
      const top = TICKS.find((tick) => tick >= high && tick > bottom) ?? TICKS.at(-1);
      const x = (step) => LEFT + ((WIDE - LEFT) * step) / current.steps;
      const y = (value) => (TALL * (bend(top) - bend(value))) / (bend(top) - bend(bottom));
      ALGORITHMS.forEach((_, i) => lines[i].setAttribute("d", route(values[i].map((value, step) => [x(step), y(value)]))));
      const ticks = TICKS.filter((tick) => tick >= bottom && tick <= top);
      frame.setAttribute("d", ticks.map((tick) => `M${LEFT} ${y(tick)}H${WIDE}`).join(""));
      const taken = []; // small ticks come first, and one that has no room stays without a label
      const roomy = ticks.sort((one, other) => Math.abs(one) - Math.abs(other)).filter((tick) =>
        taken.every((at) => Math.abs(at - y(tick)) >= 12) && taken.push(y(tick)));
      labels.forEach((label, i) => {
        label.textContent = i < roomy.length ? tickText(roomy[i]) : "";
        if (i < roomy.length) label.setAttribute("y", y(roomy[i]) + 4);
      });
      last.textContent = `step ${current.steps}`;
      root.setAttribute("aria-label", `GIP along the paths, from ${figure(values[0][0])} at the start: ` +
        ALGORITHMS.map((name, i) => `${TITLES[name]} ends at ${figure(values[i].at(-1))}`).join(", ") + ".");
    },
  };
}

export default { render };
