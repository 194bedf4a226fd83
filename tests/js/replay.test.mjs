// The reading of gentangle/display/replay.js against golden numbers of the Python widget (see test_replay_js.py).
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

const replay = await import(process.env.GENTANGLE_MODULE);
const { data, widgets } = JSON.parse(readFileSync(process.env.GENTANGLE_GOLDEN, "utf8"));

test("there is a golden case for every form and look", () => {
  assert.equal(widgets.length, Object.keys(data.forms).length * (data.steps.length + 1));
});

test("the reading is the Python widget's", () => {
  for (const { state, reading, when } of widgets) {
    const found = replay.read({ data, ...state });
    assert.deepEqual(Object.keys(found).sort(), Object.keys(reading).sort());
    for (const [name, expected] of Object.entries(reading)) {
      const what = `${name} of ${JSON.stringify(state)}: ${found[name]} and ${expected}`;
      if (expected === null) assert.ok(Number.isNaN(found[name]), what);
      else assert.ok(Math.abs(found[name] - expected) <= 1e-12 * Math.max(1, Math.abs(expected)), what);
    }
    assert.equal(replay.when({ data, ...state }), when);
  }
});

test("the ends of an axis hold the values and have at most six ticks", () => {
  for (const [low, high] of [[-9.3, -2.1], [-2.41, -2.38], [-130, -2], [0, 0], [-3, -2]]) {
    const [first, last, tick] = replay.ticksFor(low, high);
    assert.ok(first <= low && high <= last && first < last, `${first} ${last}`);
    assert.ok(Math.round((last - first) / tick) <= 5);
  }
});

test("the default export is what anywidget renders", () => {
  assert.equal(replay.default.render, replay.render);
});
