// The maths of gentangle/display/landscape.js against golden numbers of gentangle.matching (see test_landscape_js.py).
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

const landscape = await import(process.env.GENTANGLE_MODULE);
const { widgets } = JSON.parse(readFileSync(process.env.GENTANGLE_GOLDEN, "utf8"));

function assertClose(actual, expected, scale, what) {
  assert.ok(Math.abs(actual - expected) <= 1e-9 * Math.max(1, scale, Math.abs(expected)), `${what}: ${actual} and ${expected}`);
}

test("there are golden cases of every kind", () => {
  assert.ok(widgets.length >= 30);
  assert.deepEqual([...new Set(widgets.map(({ state }) => state.domains))].sort(), [2, 3, 4]);
  assert.deepEqual([...new Set(widgets.map(({ state }) => state.order))].sort(), ["fixed", "there-and-back"]);
  for (const name of landscape.ALGORITHMS) {
    assert.ok(widgets.some(({ reading }) => reading[`${name}_left`] > 0), `${name} runs away`);
    assert.ok(widgets.some(({ reading }) => reading[`${name}_left`] === 0), `${name} stays`);
  }
});

test("every point of every path is that of the package's algorithm", () => {
  for (const { state, paths } of widgets) {
    for (const [name, expected] of Object.entries(paths)) {
      const { points } = landscape.path(name, state);
      assert.equal(points.length, expected.length, `${name} of ${JSON.stringify(state)}`);
      points.forEach((point, k) => point.forEach((value, i) => assertClose(value, expected[k][i], Math.hypot(...expected[k]), `${name} step ${k} of ${JSON.stringify(state)}`)));
    }
  }
});

test("the reading is the Python widget's", () => {
  for (const { state, reading, paths } of widgets) {
    const found = landscape.read(state);
    assert.deepEqual(Object.keys(found).sort(), Object.keys(reading).sort());
    for (const [name, expected] of Object.entries(reading)) {
      const [who, what] = name.split("_");
      // Loss and GIP are sums of terms as large as the square of the distance.
      const scale = ["loss", "gip"].includes(what) && paths[who] ? 10 + 10 * Math.hypot(...paths[who].at(-1)) ** 2 : 1;
      assertClose(found[name], expected, scale, `${name} of ${JSON.stringify(state)}`);
    }
  }
});

test("the verdict names who runs away and why", () => {
  for (const { state, reading } of widgets) {
    const words = landscape.verdict(state, reading);
    assert.equal(words.includes("Fish runs away"), reading.fish_left > 0);
    assert.equal(words.includes("No path ran away"), !(reading.erm_left || reading.idgm_left || reading.fish_left));
    assert.equal(words.includes("unbounded below"), state.gamma > reading.gamma_max);
    assert.equal(words.includes("too long for ERM"), reading.erm_left > 0);
  }
});

test("the default export is what anywidget renders", () => {
  assert.equal(landscape.default.render, landscape.render);
});
