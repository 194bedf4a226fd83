"""What random problems and the step's benchmark say about the claims on gradient matching, by fixed rules.

Each function returns a claim's status and the measured figure.
"""

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from gentangle.errors import InputError
from gentangle.matching.domains import domain_gram, domains_of
from gentangle.matching.erm import erm_gradient
from gentangle.matching.expansion import LOGISTIC_LOSS, fish_approximates_idgm, logistic_problem
from gentangle.matching.fish import gamma_eff
from gentangle.matching.gip import gip
from gentangle.matching.idgm import idgm_gradient
from gentangle.matching.linear_toy import linear_toy_verdict
from gentangle.matching.smooth_fish import smooth_fish_gradient
from gentangle.verdict import Verdict, in_part


def matching_theory_verdicts(results: Path) -> dict[str, Verdict]:
    """Status and measured figure by the claim's id; ``results`` holds the record ``fish_step.json``.

    Raises:
        InputError: it is missing.
    """
    return {
        "fish-approximates-idgm": fish_approximates_idgm(),
        "linear-toy": linear_toy_verdict(),
        "idgm-raises-gip": idgm_raises_gip(),
        "smooth-fish-dial": smooth_fish_dial(),
        "idgm-cost": idgm_cost(results / "fish_step.json"),
    }


def idgm_raises_gip(draws: int = 200, length: float = 1e-4) -> Verdict:
    """From one point, a step of one length down IDGM's gradient (gamma 1) and one down ERM's, on logistic regressions.

    ``reproduced`` if in every draw the GIP ends higher after IDGM's step than after ERM's, else ``differs``.
    """
    above, erm_lowers = 0, 0
    for seed in range(draws):
        model, batches = logistic_problem(seed)
        domains = domains_of(model, LOGISTIC_LOSS, batches)
        start, first = parameters_to_vector(model.parameters()).detach().clone(), gip(domain_gram(model, domains))
        ends = []
        for gradient in (idgm_gradient(model, domains, gamma=1.0)[0], erm_gradient(model, domains)[0]):
            step = parameters_to_vector(gradient)
            vector_to_parameters(start - length * step / step.norm(), model.parameters())
            ends.append(gip(domain_gram(model, domains)))
            vector_to_parameters(start.clone(), model.parameters())
        above += ends[0] > ends[1]
        erm_lowers += ends[1] < first
    return "reproduced" if above == draws else "differs", (
        f"on {draws} logistic regressions of 3 domains the GIP ends higher after a small step of IDGM than after one "
        f"of ERM as long in {above}; ERM's step lowers it in {erm_lowers}"
    )


def smooth_fish_dial(draws: int = 10, alpha: float = 0.01) -> Verdict:
    r"""SmoothFish's direction over all orders beside IDGM's gradient with the dial's share of :math:`\gamma_{eff}`.

    The distance is in units of what the dial adds to ERM. ``reproduced`` if it is below 1 % in every draw, dials .25,
    .5 and 1, and falls with alpha; else ``differs``.
    """
    misses = np.array([[_dial_miss(seed, alpha / k) for k in (1, 10)] for seed in range(draws)])
    good = misses[:, 0].max() < 0.01 and (misses[:, 1] < misses[:, 0] / 5).all()
    return "reproduced" if good else "differs", (
        f"{draws} logistic regressions of 3 domains, dials .25, .5, 1: largest miss {misses[:, 0].max():.1%} of what "
        f"the dial adds to ERM at alpha {alpha}, {misses[:, 1].max():.2%} at {alpha / 10}"
    )


def _dial_miss(seed: int, alpha: float) -> float:
    model, batches = logistic_problem(seed)
    domains = domains_of(model, LOGISTIC_LOSS, batches)
    erm = parameters_to_vector(erm_gradient(model, domains)[0])
    misses = []
    for dial in (0.25, 0.5, 1.0):
        orders = [{name: domains[name] for name in order} for order in permutations(domains)]
        each = [smooth_fish_gradient(model, o, alpha=alpha, gamma=dial, generator=None)[0] for o in orders]
        found = torch.stack([parameters_to_vector(g) for g in each]).mean(0)
        wanted = parameters_to_vector(idgm_gradient(model, domains, gamma=dial * gamma_eff(alpha, len(domains)))[0])
        misses.append(float((found - wanted).norm() / (wanted - erm).norm()))
    return max(misses)


def idgm_cost(record: Path) -> Verdict:
    """What a step of IDGM takes beside one of Fish, by the benchmark ``benchmarks/bench_fish.py``.

    ``reproduced in part`` if it takes at least twice as long at each width and number of domains, else ``differs``.

    Raises:
        InputError: the record is missing.
    """
    try:
        curve = json.loads(record.read_text())["curve"]
    except FileNotFoundError as error:
        raise InputError(f"{record} is missing: `benchmarks/bench_fish.py --write` makes it.") from error
    ratios = [min(row["idgm"], row["idgm_pairs"]) / row["fish"] for row in curve]
    domains, widths = ({row[key] for row in curve} for key in ("domains", "width"))
    return in_part(min(ratios) >= 2), (
        f"a step of IDGM, by the cheaper of two ways, takes {min(ratios):.1f} to {max(ratios):.1f} times one of Fish, "
        f"{min(domains)} to {max(domains)} domains, widths {min(widths)} to {max(widths)}"
    )
