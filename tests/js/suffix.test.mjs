// The maths of gentangle/display/suffix.js against golden numbers that Python wrote (see test_suffix_js.py).
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

// Its text as a data: URL: node reads a .js file as a module only where a package.json says so.
const source = ["dom", "suffix"].map((name) => readFileSync(new URL(`../../gentangle/display/${name}.js`, import.meta.url)));
const suffix = await import(`data:text/javascript;base64,${Buffer.concat(source).toString("base64")}`);
const { widgets } = JSON.parse(readFileSync(process.env.GENTANGLE_GOLDEN, "utf8"));

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

test("the probability that is moved stays and the other gives way", () => {
  assert.deepEqual(suffix.withinOne({ p_w: 0.25, p_l: 0.5 }, "p_w", 0.7), { p_w: 0.7, p_l: 0.3 });
  assert.deepEqual(suffix.withinOne({ p_w: 0.25, p_l: 0.5 }, "p_l", 0.7), { p_w: 0.25, p_l: 0.7 });
  assert.deepEqual(suffix.withinOne({ p_w: 0.25, p_l: 0.5 }, "p_l", 1), { p_w: 0, p_l: 1 });
});

test("the default export is what anywidget renders", () => {
  assert.equal(suffix.default.render, suffix.render);
});
