"""Small domains in float64, with their gradients and Hessians by another way than the package's."""

from functools import partial
from itertools import combinations, permutations

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from gentangle.matching.fish import fish_step

seeds = st.integers(0, 10_000)


def network(seed=0, norm=False):
    """3 -> 4 -> 1, tanh between; with BatchNorm where asked."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), *([nn.BatchNorm1d(4)] if norm else []), nn.Tanh(), nn.Linear(4, 1)).double()


def minibatches(seed=0, count=3, size=6):
    """(x, y) of each domain, by name; each has its own way from x to y."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    return {"abcdefgh"[i]: ((x := draw(size, 3)), (x @ draw(3, 1) > 0).double()) for i in range(count)}


def losses(batches, loss=nn.functional.binary_cross_entropy_with_logits):
    return {name: lambda m, x=x, y=y: loss(m(x), y) for name, (x, y) in batches.items()}


def problem(seed, count=3, loss=nn.functional.binary_cross_entropy_with_logits):
    """A network and the losses of its domains."""
    return network(seed), losses(minibatches(seed, count), loss)


class Point(nn.Module):
    """A model that is its parameters."""

    def __init__(self, at):
        super().__init__()
        self.theta = nn.Parameter(torch.as_tensor(at, dtype=torch.float64).clone())

    def forward(self, x=None):
        return self.theta


def quadratics(hessians, minima):
    """L_i = (theta - c_i)^T A_i (theta - c_i) / 2."""
    return {
        i: lambda m, a=a, c=c: (m() - c) @ a @ (m() - c) / 2
        for i, (a, c) in enumerate(zip(hessians, minima, strict=True))
    }


def random_quadratics(seed, count=3, width=4):
    """Hessians, positive definite, and minima."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    roots = draw(count, width, width)
    return roots @ roots.mT / width, draw(count, width)


def vector(model):
    return parameters_to_vector(model.parameters()).detach().clone()


def derivatives(model, domains):
    """Gradients (S, d) and Hessians (S, d, d), by torch's functional Hessian."""
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def at(theta, name):
        parts = theta.split([shape.numel() for shape in shapes.values()])
        given = {key: part.view(shape) for (key, shape), part in zip(shapes.items(), parts, strict=True)}
        return domains[name](lambda *x: torch.func.functional_call(model, given, x))

    theta = vector(model)
    each = [partial(at, name=name) for name in domains]
    gradients = [torch.autograd.functional.jacobian(f, theta) for f in each]
    return torch.stack(gradients), torch.stack([torch.autograd.functional.hessian(f, theta) for f in each])


def matching_gradient(gradients, hessians):
    """Gradient of sum_{i<j} g_i . g_j, pair by pair."""
    pairs = combinations(range(len(gradients)), 2)
    return sum(hessians[i] @ gradients[j] + hessians[j] @ gradients[i] for i, j in pairs)


def displacement(model, domains, alpha, **settings):
    """theta - theta~ of one Fish loop by plain SGD in the order given; the model is left where it was."""
    start = vector(model)
    fish_step(model, domains, torch.optim.SGD(model.parameters(), lr=alpha), eps=1.0, generator=None, **settings)
    moved = start - vector(model)
    vector_to_parameters(start, model.parameters())
    return moved


def mean_displacement(model, domains, alpha):
    """Its expectation over all orders."""
    orders = [displacement(model, {name: domains[name] for name in o}, alpha) for o in permutations(domains)]
    return torch.stack(orders).mean(0)


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))
