// What a preference pair's Gram matrix [[|w|^2, <w,l>], [<w,l>, |l|^2]] says, rows chosen and rejected: the maths of
// gentangle/alignment/conditions.py. It stands before the modules that read a pair; tests/js compares the two.

export function firstOrderChanges(gram, dChosen = 1, dRejected = 1, eta = 1) {
  const [[chosenSq, inner], [, rejectedSq]] = gram;
  return [
    eta * (dChosen * chosenSq - dRejected * inner),
    eta * (dChosen * inner - dRejected * rejectedSq),
  ];
}

export function caseOf([chosen, rejected]) {
  if (chosen === 0 && rejected === 0) return "unmoved";
  if (chosen >= 0) return rejected <= 0 ? "chosen-up-rejected-down" : "both-up";
  return rejected <= 0 ? "both-down" : "chosen-down-rejected-up";
}

export function cosine(gram) {
  return gram[0][1] / Math.sqrt(gram[0][0] * gram[1][1]);
}
