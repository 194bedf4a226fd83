// The maths of gentangle/display/geometry.js against golden numbers that Python wrote (see test_geometry_js.py).
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

const geometry = await import(process.env.GENTANGLE_MODULE);
const golden = JSON.parse(readFileSync(process.env.GENTANGLE_GOLDEN, "utf8"));

// Relative to the terms that a number is made of: a difference of equal terms has no digits of its own.
function assertClose(actual, expected, scale, what) {
  assert.ok(Math.abs(actual - expected) <= 1e-12 * Math.max(scale, Math.abs(expected)), `${what}: ${actual} and ${expected}`);
}

test("there are golden cases of every kind", () => {
  assert.ok(golden.pairs.length >= 200);
  const seen = new Set(golden.pairs.map((pair) => pair.case));
  for (const name of ["chosen-up-rejected-down", "both-up", "both-down", "chosen-down-rejected-up", "unmoved"]) assert.ok(seen.has(name), name);
  assert.ok(golden.widgets.length >= 150);
  for (const name of ["agree", "orthogonal", "conflict", "one-rises", "cancel"]) assert.ok(golden.widgets.some(({ reading }) => reading.case === name), name);
});

test("firstOrderChanges, conditions, caseOf and cosine are Python's", () => {
  for (const { gram, d_chosen, d_rejected, eta, changes, holds, case: name, cosine } of golden.pairs) {
    const found = geometry.firstOrderChanges(gram, d_chosen, d_rejected, eta);
    const scale = eta * (Math.abs(d_chosen) + Math.abs(d_rejected)) * Math.max(gram[0][0], gram[1][1]);
    changes.forEach((expected, i) => assertClose(found[i], expected, scale, `change ${i} of ${JSON.stringify(gram)}`));
    const { chosenDoesNotFall, rejectedDoesNotRise } = geometry.conditions(gram, d_chosen, d_rejected);
    assert.deepEqual([chosenDoesNotFall, rejectedDoesNotRise], holds);
    assert.equal(geometry.caseOf(found), name);
    assertClose(geometry.cosine(gram), cosine, 1, "cosine");
  }
});

test("gramOf is the Gram matrix of the Python widget, and its case the Python widget's", () => {
  for (const { state, gram, reading } of golden.widgets) {
    const found = geometry.gramOf(state.chosen_norm, state.rejected_norm, state.angle);
    gram.flat().forEach((expected, i) => assertClose(found.flat()[i], expected, 1, `entry ${i} of ${JSON.stringify(state)}`));
    assert.equal(geometry.read({ ...state, menu: golden.menu }).case, reading.case, JSON.stringify(state));
  }
});

test("read is Python's reading, of a pair and of two domains", () => {
  for (const { state, gram, reading } of golden.widgets) {
    const found = geometry.read({ ...state, menu: golden.menu });
    assert.deepEqual(Object.keys(found), Object.keys(reading));
    for (const [name, expected] of Object.entries(reading)) {
      const what = `${name} of ${JSON.stringify(state)}`;
      const cancels = Math.max(1, state.ratio) * Math.max(...gram.flat()) * (gram[0][0] + gram[1][1]) / Math.min(gram[0][0], gram[1][1]);
      if (typeof expected === "number") assertClose(found[name], expected, cancels, what);
      else assert.equal(found[name], expected, what);
    }
  }
});

test("the menu's slopes have the ratio that Python's widget takes from it", () => {
  assert.ok(golden.chosen.length >= 23);
  for (const { objective, d_chosen, d_rejected, ratio } of golden.chosen) {
    // The slider's own ratio is none of an objective's business.
    const [dChosen, dRejected] = geometry.slopesOf({ menu: golden.menu, objective, ratio: 7 });
    assertClose(dChosen, d_chosen, 0, `d_w of ${objective}`);
    assertClose(dRejected, d_rejected, 0, `d_l of ${objective}`);
    assert.equal(dChosen / dRejected, ratio, objective);
  }
  assert.deepEqual(geometry.slopesOf({ menu: golden.menu, objective: "own", ratio: 7 }), [7, 1]);
});

test("Fish's loops and the GIP after a step are those of the package's Fish on two examples", () => {
  for (const { gram, alpha, loops, gips } of golden.fish) {
    const found = geometry.fishLoops(gram, alpha);
    loops.flat().forEach((expected, i) => assertClose(found.flat()[i], expected, 1, `step ${i} of ${JSON.stringify(gram)}`));
    [...found, [alpha, alpha]].forEach((step, i) => assertClose(geometry.gipAfter(gram, step), gips[i], 10, `GIP ${i} of ${JSON.stringify(gram)}`));
  }
});

test("slopes and step are 1 where they are left out", () => {
  assert.deepEqual(geometry.firstOrderChanges([[1, 2], [2, 4]]), [-1, -2]);
  assert.deepEqual(geometry.conditions([[1, 2], [2, 4]]), { chosenDoesNotFall: false, rejectedDoesNotRise: true });
});

test("the default export is what anywidget renders", () => {
  assert.equal(geometry.default.render, geometry.render);
});
