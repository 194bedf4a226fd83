// The maths of gentangle/display/suffix.js against golden numbers that Python wrote (see test_suffix_js.py).
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

const suffix = await import(process.env.GENTANGLE_MODULE);
const { widgets, phases } = JSON.parse(readFileSync(process.env.GENTANGLE_GOLDEN, "utf8"));

// Relative to the squared norms: a difference of equal terms has no digits of its own.
function assertClose(actual, expected, scale, what) {
  assert.ok(Math.abs(actual - expected) <= 1e-12 * Math.max(scale, 1), `${what}: ${actual} and ${expected}`);
}

test("there are golden cases of every kind that can occur", () => {
  assert.ok(widgets.length >= 200);
  const seen = new Set(widgets.map(({ reading }) => reading.case));
  assert.deepEqual([...seen].sort(), ["both-down", "both-up", "chosen-up-rejected-down"]);
});

test("the reading is the Python widget's", () => {
  for (const { state, reading } of widgets) {
    const found = suffix.read(state);
    const scale = reading.chosen_norm_sq + reading.rejected_norm_sq;
    for (const [name, expected] of Object.entries(reading)) {
      if (name === "case") assert.equal(found.case, expected, JSON.stringify(state));
      else assertClose(found[name], expected, scale, `${name} of ${JSON.stringify(state)}`);
    }
    assert.equal(found.chosen_does_not_fall, reading.change_chosen >= 0);
    assert.equal(found.rejected_does_not_rise, reading.change_rejected <= 0);
  }
});

test("beyond a turning length the response goes the wrong way, and not before it", () => {
  for (const { state } of widgets) {
    suffix.turningLengths(state).forEach((turn, i) => {
      const wrong = (length) => suffix.firstOrderChanges(suffix.orthogonalGram({ ...state, length }))[i] * (i ? 1 : -1) > 0;
      if (Number.isFinite(turn)) assert.ok(!wrong(turn - 1e-6) && wrong(turn + 1e-6), JSON.stringify(state));
      else assert.ok(!wrong(1e6), JSON.stringify(state));
    });
  }
});

test("the pair is its contrast tokens and T times what one shared token adds", () => {
  for (const { state, reading, shared } of widgets) {
    const grams = suffix.tokenGrams(state);
    const scale = reading.chosen_norm_sq + reading.rejected_norm_sq;
    const entries = { chosen_norm_sq: [0, 0], inner_product: [0, 1], rejected_norm_sq: [1, 1] };
    for (const [name, [i, j]] of Object.entries(entries)) {
      assertClose(grams.contrast[i][j] + state.length * grams.shared[i][j], reading[name], scale, `sum of ${name}`);
      assertClose(grams.shared[i][j], shared[i][j], 2, `a shared token's ${name}`);
    }
    assert.equal(grams.shared[0][1], grams.shared[1][0]);
  }
});

test("beyond a turning cosine the response goes the wrong way, and not before it", () => {
  for (const { state } of widgets) {
    suffix.turningCosines(state).forEach((turn, i) => {
      const wrong = (rho) => suffix.firstOrderChanges(suffix.orthogonalGram({ ...state, rho }))[i] * (i ? 1 : -1) > 0;
      if (Number.isFinite(turn)) assert.ok(!wrong(turn - 1e-6) && wrong(turn + 1e-6), JSON.stringify(state));
      else assert.ok(!wrong(1) && !wrong(-1), JSON.stringify(state));
    });
  }
});

test("the regions of the phase diagram are Python's cases, cell by cell", () => {
  const found = new Set();
  for (const { state, across, cells } of phases) {
    const edge = suffix.borders(state, across);
    for (const [value, rho, expected] of cells) {
      const { turns } = edge.find((each) => each.value === value);
      const region = rho > turns[0] ? "both-down" : rho > turns[1] ? "both-up" : "chosen-up-rejected-down";
      assert.equal(region, expected, `${across} ${value}, rho ${rho} of ${JSON.stringify(state)}`);
      assert.equal(suffix.read({ ...suffix.movedTo(state, across, value), rho }).case, expected);
      found.add(`${across} ${region}`);
    }
  }
  assert.equal(found.size, 15); // all three cases on every axis
});

test("the axis shows the two numbers of the nearer condition", () => {
  for (const { state, reading } of widgets) {
    const gram = suffix.orthogonalGram(state);
    const { high, low } = suffix.axisOf(gram, suffix.orthogonalGram({ ...state, length: 0 })[0][1]);
    const least = Math.min(reading.chosen_norm_sq, reading.rejected_norm_sq);
    assert.ok(low <= reading.inner_product && reading.inner_product <= high && least <= high, JSON.stringify(state));
  }
});

test("the probability that is moved stays and the other gives way", () => {
  assert.deepEqual(suffix.withinOne({ p_w: 0.25, p_l: 0.5 }, "p_w", 0.7), { p_w: 0.7, p_l: 0.3 });
  assert.deepEqual(suffix.withinOne({ p_w: 0.25, p_l: 0.5 }, "p_l", 0.7), { p_w: 0.25, p_l: 0.7 });
  assert.deepEqual(suffix.withinOne({ p_w: 0.25, p_l: 0.5 }, "p_l", 1), { p_w: 0, p_l: 1 });
});

test("the default export is what anywidget renders", () => {
  assert.equal(suffix.default.render, suffix.render);
});
