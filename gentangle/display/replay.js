// A stored run of DPO, look by look: log-probabilities, cosines, cases, and the token heatmap of the nearest stage.
// The reading is TrainingReplay's in gentangle/display/replay.py; tests/js compares the two.
// element, svg, attributes, svgText, printed and the controls are dom.js's.

// ---- the reading: pure functions of the data that replay_data made ----

export const GROUPS = { held_out: "held-out", train: "training" };
export const STAGES = ["before fine-tuning", "after fine-tuning", "after DPO"];

// Of two stages that are as near the earlier, look 0 is the one before fine-tuning.
export function heatStage({ data: { steps }, look }) {
  return look === 0 ? 0 : 1 + Number(2 * steps[look - 1] > steps[0] + steps.at(-1));
}

const mean = (values) => values.reduce((total, value) => total + value, 0) / values.length; // NaN of none

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length / 2;
  return (sorted[Math.floor(half - 0.5)] + sorted[Math.floor(half)]) / 2;
}

// The names are those of TrainingReplay.reading() in Python.
export function read(state) {
  const { data, form, look } = state;
  const reading = { heat_stage: heatStage(state) };
  for (const group of Object.keys(GROUPS)) {
    const run = data.forms[form][group];
    const [chosen, rejected] = [run.chosen[look], run.rejected[look]];
    const heat = run.heat[reading.heat_stage];
    const values = {
      chosen,
      rejected,
      margin: chosen - rejected,
      change_chosen: chosen - run.chosen[1],
      change_rejected: rejected - run.rejected[1],
      cosine: median(run.cosines[look]),
      contrast: mean(heat.map(([contrast]) => contrast)),
      shared: mean(heat.flatMap(([, ...shared]) => shared)),
    };
    for (let k = 0; k < 3; k += 1) values[`case${k}`] = run.cases[look].split(String(k)).length - 1;
    for (const [what, value] of Object.entries(values)) reading[`${group}_${what}`] = value;
  }
  return reading;
}

export function when({ data, look }) {
  return look === 0 ? STAGES[0] : `step ${data.steps[look - 1]}`;
}

// ---- what is on the screen ----

const LOG_W = 'log <i class="gt-w">π<sub>w</sub></i>';
const LOG_L = 'log <i class="gt-l">π<sub>l</sub></i>';
const ROWS = [["chosen", LOG_W], ["change_chosen", "… less that of step 0"], ["rejected", LOG_L], ["change_rejected", "… less that of step 0"],
  ["margin", `${LOG_W} − ${LOG_L}`], ["cosine", 'median cos(<i class="gt-w">w</i>, <i class="gt-l">l</i>)'],
  ["case0", "pairs: chosen up, rejected down"], ["case1", "pairs: both up"], ["case2", "pairs: both down"],
  ["contrast", "heatmap: contrast tokens"], ["shared", "heatmap: shared tokens"]];
const COLUMNS = Object.entries(GROUPS).map(([group, title]) => [group, title, "plain"]);
const TRAITS = ["data", "form", "group", "look"];

const [LEFT, WIDE] = [40, 320]; // of the plots, in their own units
const MARKS = { w: "M-4.5 0A4.5 4.5 0 1 1 4.5 0A4.5 4.5 0 1 1 -4.5 0Z", l: "M-4 -4H4V4H-4Z", v: "M0 -5.5L5.5 0L0 5.5L-5.5 0Z" };
const PACE = 700; // milliseconds a look

export function render({ model, el }) {
  const state = () => Object.fromEntries(TRAITS.map((name) => [name, model.get(name)]));
  const change = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  const player = makePlayer(state, change);
  // Whoever takes the slider stops the film.
  const scrub = (look) => {
    player.stop();
    change("look", look);
  };
  const controls = makeControls(state(), change, scrub, player.root);
  const logs = makePlot("log-probability (nats)", 130, scrub, state);
  const cosines = makePlot("cosine", 100, scrub, state);
  const heat = makeHeat();
  const results = makeResults();
  const caption = element("p", { class: "gt-caption" });
  el.replaceChildren(element("div", { class: "gt-widget" },
    // The slider beside the plots, on a narrow page too.
    element("div", { class: "gt-plane" }, controls.root, logs.root, cosines.root, heat.root, heat.words, caption),
    element("div", { class: "gt-panel" }, results.root)));

  const draw = () => {
    const current = state();
    const runs = Object.keys(GROUPS).map((group) => current.data.forms[current.form][group]);
    const reading = read(current);
    controls.show(current);
    logs.show(current, runs.flatMap((run, i) => [
      { values: run.chosen, hue: "w", dashed: i === 1 },
      { values: run.rejected, hue: "l", dashed: i === 1 },
    ]));
    const own = current.data.forms[current.form][current.group].cosines;
    cosines.show(current, runs.map((run, i) => ({ values: run.cosines.map(median), hue: "v", dashed: i === 1 })), own);
    heat.show(current, reading);
    results.show(current, reading, player.running());
    caption.textContent = `A stored run, seed ${current.data.seed}. Solid lines and full marks: held-out pairs; dashed and hollow: training pairs. ` +
      `Log-probabilities are means over the tracked pairs; dots are the cosines of single pairs (${GROUPS[current.group]}), and the cases theirs: ` +
      "this pair alone, one step of plain SGD. Click a plot to go to its step.";
  };
  for (const name of TRAITS) model.on(`change:${name}`, draw);
  draw();
  return () => {
    player.stop();
    TRAITS.forEach((name) => model.off(`change:${name}`, draw));
  };
}

function makeControls({ data }, change, scrub, play) {
  const titled = (name) => name.replaceAll("-", " ");
  const form = choiceControl({ name: "form", text: "form of the pairs", choices: Object.keys(data.forms).map((name) => [name, titled(name)]) },
    (value) => change("form", value));
  const group = choiceControl({ name: "group", text: "heatmap and dots of", choices: Object.entries(GROUPS).map(([name, title]) => [name, `${title} pairs`]) },
    (value) => change("group", value));
  const look = rangeControl({ name: "look", symbol: "step", text: "of DPO", min: 0, max: data.steps.length, step: 1 }, scrub);
  return {
    root: element("div", { class: "gt-controls" }, form.root, group.root, look.root, element("div", { class: "gt-buttons" }, play)),
    show(current) {
      form.show(current.form);
      group.show(current.group);
      look.show(current.look, when(current));
    },
  };
}

// A film only where the reader has not asked for less motion; the slider shows the same looks.
function makePlayer(state, change) {
  const button = element("button", { type: "button", class: "gt-button", name: "play" });
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  let timer = null;
  const show = () => {
    button.disabled = still.matches;
    button.textContent = still.matches ? "Play is off: reduced motion" : timer === null ? "▶ Play" : "⏸ Pause";
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    show();
  };
  const last = () => state().data.steps.length;
  const advance = () => {
    const next = state().look + 1;
    if (next >= last()) stop(); // before the last look is drawn, so that it is announced
    if (next <= last()) change("look", next);
  };
  button.addEventListener("click", () => {
    if (timer !== null) {
      stop();
      change("look", state().look);
      return;
    }
    timer = setInterval(advance, PACE);
    show();
    if (state().look >= last()) change("look", 1);
  });
  still.addEventListener("change", stop);
  show();
  return { root: button, stop, running: () => timer !== null };
}

function makeResults() {
  const table = readingsTable("At this step", ROWS, COLUMNS);
  const spoken = element("output", { class: "gt-case", "aria-live": "polite", "data-reading": "sentence" });
  return {
    root: element("div", { class: "gt-results" }, spoken, table.root),
    show(current, reading, running) {
      table.show(reading, (name, value) => (/case\d$/.test(name) ? `${value} of ${pairs(current, name)}` : Number.isNaN(value) ? "none" : printed(value)));
      spoken.setAttribute("aria-live", running ? "off" : "polite"); // a film is not read out look by look
      spoken.textContent = `${when(current)}, held-out pairs: log-probability of chosen ${printed(reading.held_out_chosen)}, of rejected ${printed(reading.held_out_rejected)}; ` +
        `median cosine ${printed(reading.held_out_cosine)}; ${reading.held_out_case2} of ${pairs(current, "held_out")} pairs both down.`;
    },
  };
}

const pairs = ({ data, form, look }, name) => data.forms[form][name.startsWith("train") ? "train" : "held_out"].cases[look].length;

// Lines over the steps. Values begin with the look before fine-tuning, which is off the axis.
function makePlot(title, tall, scrub, state) {
  const frame = svg("path", { class: "gt-grid" });
  const marker = svg("path", { class: "gt-now" });
  const marked = svg("g");
  const labels = svg("g");
  const lines = [0, 1, 2, 3].map(() => svg("path", { class: "gt-path" }));
  const marks = lines.map(() => svg("path", { class: "gt-end" }));
  const name = svgText(title, { class: "gt-scale", x: LEFT, y: -8 });
  const key = svg("g");
  const area = svg("rect", { class: "gt-scrub", x: LEFT, y: 0, width: WIDE - LEFT, height: tall });
  const root = svg("svg", { viewBox: `0 -22 ${WIDE + 8} ${tall + 42}`, role: "img" }, frame, ...lines, marked, marker, ...[...marks].reverse(), labels, name, key, area);
  const go = (event) => {
    const { left, width } = area.getBoundingClientRect();
    const steps = state().data.steps;
    const step = steps[0] + ((event.clientX - left) / width) * (steps.at(-1) - steps[0]);
    scrub(1 + steps.reduce((best, at, i) => (Math.abs(at - step) < Math.abs(steps[best] - step) ? i : best), 0));
  };
  area.addEventListener("pointerdown", (event) => {
    area.setPointerCapture(event.pointerId);
    go(event);
  });
  area.addEventListener("pointermove", (event) => event.buttons && go(event));
  let drawn = {}; // what the lines show now: a step moves only the marker and the marks
  let y;

  function showLines({ data: { steps } }, given, dots, x) {
    const values = given.flatMap((line) => line.values.slice(1));
    const [low, high, tick] = dots.length ? [-1, 1, 0.5] : ticksFor(Math.min(...values), Math.max(...values));
    y = (value) => (tall * (high - value)) / (high - low);
    lines.forEach((line, i) => {
      line.style.display = given[i] ? "" : "none";
      if (!given[i]) return;
      line.setAttribute("class", `gt-path gt-${given[i].hue}${given[i].dashed ? " gt-dashed" : ""}`);
      attributes(marks[i], { class: `gt-end gt-${given[i].hue}${given[i].dashed ? "" : " gt-full"}`, d: MARKS[given[i].hue] });
      line.setAttribute("d", `M${given[i].values.slice(1).map((value, k) => `${x(steps[k])} ${y(value).toFixed(1)}`).join("L")}`);
    });
    marked.replaceChildren(...dots.slice(1).flatMap((each, k) => each.map((value) => svg("circle", { class: "gt-dot", cx: x(steps[k]), cy: y(value), r: 2.6 }))));
    const sides = given.some(({ hue }) => hue === "w") ? [["w", "chosen"], ["l", "rejected"]] : [["v", "median"]];
    key.replaceChildren(...sides.flatMap(([hue, word], i) => {
      const at = WIDE - 74 * (sides.length - i);
      return [svg("path", { class: `gt-end gt-full gt-${hue}`, d: MARKS[hue], transform: `translate(${at + 6} -12)` }), svgText(word, { class: `gt-word gt-${hue}`, x: at + 16, y: -8 })];
    }));
    const ticks = Array.from({ length: Math.round((high - low) / tick) + 1 }, (_, k) => low + k * tick);
    frame.setAttribute("d", ticks.map((value) => `M${LEFT} ${y(value)}H${WIDE}`).join(""));
    labels.replaceChildren(...ticks.map((value) => svgText(printed(value, tick < 1 ? 1 : 0), { class: "gt-scale", x: LEFT - 5, y: y(value) + 4, "text-anchor": "end" })),
      ...[0, 0.5, 1].map((share) => svgText(`${share ? "" : "step "}${Math.round(steps[0] + share * (steps.at(-1) - steps[0]))}`,
        { class: "gt-scale", x: LEFT + share * (WIDE - LEFT), y: tall + 15, "text-anchor": ["start", "middle", "end"][2 * share] })));
  }

  return {
    root,
    show(current, given, dots = []) {
      const { steps } = current.data;
      const x = (step) => LEFT + ((WIDE - LEFT) * (step - steps[0])) / (steps.at(-1) - steps[0]);
      if (drawn.data !== current.data || drawn.form !== current.form || drawn.group !== current.group) showLines(current, given, dots, x);
      drawn = current;
      marker.style.display = current.look === 0 ? "none" : "";
      if (current.look > 0) marker.setAttribute("d", `M${x(steps[current.look - 1])} 0V${tall}`);
      marks.forEach((mark, i) => {
        mark.style.display = given[i] && current.look > 0 ? "" : "none";
        if (given[i] && current.look > 0) mark.setAttribute("transform", `translate(${x(steps[current.look - 1])} ${y(given[i].values[current.look])})`);
      });
      const at = given.map(({ values, hue, dashed }) => `${{ w: "chosen", l: "rejected", v: "median" }[hue]}, ${dashed ? "training" : "held-out"}: ${printed(values[current.look])}`);
      root.setAttribute("aria-label", `${title} against the step. ${when(current)}: ${at.join("; ")}.`);
    },
  };
}

// Rounded ends of an axis and the distance of its ticks, at most six of them.
export function ticksFor(low, high) {
  const tick = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200].find((each) => Math.ceil(high / each) - Math.floor(low / each) <= 5) ?? 500;
  const [first, last] = [Math.floor(low / tick), Math.ceil(high / tick)];
  return [first * tick, Math.max(last, first + 1) * tick, tick];
}

// One row a pair: its contrast tokens, then its shared tokens. A negative cell has a stroke, for colour is not enough.
function makeHeat() {
  const body = svg("g");
  const names = svg("g");
  const root = svg("svg", { viewBox: `0 -22 ${WIDE + 8} 106`, role: "img", class: "gt-heat" }, body, names);
  const words = element("p", { class: "gt-caption", "data-reading": "heat" });
  let drawn = "";
  return {
    root,
    words,
    show(current, reading) {
      const { form, group } = current;
      const heat = current.data.forms[form][group].heat[reading.heat_stage];
      const what = `${GROUPS[group]} pairs ${STAGES[reading.heat_stage]}`;
      if (drawn === form + what) return;
      drawn = form + what;
      const wide = Math.min(20, (WIDE - LEFT - 30) / Math.max(1, ...heat.map((pair) => pair.length - 1)));
      body.replaceChildren(...heat.flatMap((pair, row) => pair.flatMap((value, k) => cell(value, k ? LEFT + 30 + (k - 1) * wide : LEFT, row * 20, k ? wide : 20))));
      names.replaceChildren(svgText("contrast", { class: "gt-scale", x: 0, y: -8 }),
        svgText(heat[0].length > 1 ? "shared tokens, in order" : "no shared tokens in this form", { class: "gt-scale", x: LEFT + 30, y: -8 }),
        ...heat.map((_, row) => svgText(`pair ${row + 1}`, { class: "gt-scale", x: 0, y: row * 20 + 13 })));
      const mean = (side) => printed(reading[`${group}_${side}`]);
      const shared = Number.isNaN(reading[`${group}_shared`]) ? "" : `, of shared tokens ${mean("shared")}`;
      words.textContent = `Token heatmap of ${heat.length} ${what}, the stage nearest to this step: cosine of each chosen token’s gradient with that of the rejected token at its position. ` +
        `Green is 1, purple with a stroke −1, empty 0. Mean of contrast tokens ${mean("contrast")}${shared}.`;
      root.setAttribute("aria-label", words.textContent);
    },
  };
}

function cell(value, x, y, wide) {
  const box = svg("rect", { class: value < 0 ? "gt-minus" : "gt-plus", x: x + 0.5, y: y + 0.5, width: wide - 1, height: 19, "fill-opacity": Math.abs(value) });
  const title = svg("title");
  title.textContent = printed(value);
  box.append(title);
  const stroke = svg("path", { class: "gt-stroke", d: `M${x + wide * 0.25} ${y + 10}h${wide * 0.5}` });
  return value < 0 ? [box, stroke] : [box];
}

export default { render };
