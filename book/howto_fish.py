"""The how-to's third example, executed by tests/book/test_howto.py."""

from functools import partial

import torch

from gentangle.matching.algorithms import Fish
from gentangle.matching.environments import Draws

torch.manual_seed(0)  # your data instead: x and y of any kind, and whose they are
x, domain = torch.randn(600, 5), torch.arange(600) % 3
y = (x[:, 0] + torch.where(domain == 0, 1.0, -0.5) * x[:, 1] > 0).long()

parts = {d: (x[domain == d], y[domain == d]) for d in domain.unique().tolist()}
model = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
adam = partial(torch.optim.Adam, lr=0.01)
fish = Fish(model, torch.nn.functional.cross_entropy, adam, eps=0.5, seed=0)
draws = Draws(parts, batch_size=16, generator=torch.Generator().manual_seed(0))
for step in range(1, 201):
    seen = fish.update(draws.draw())
    if step % 50 == 0:
        print(f"{step}: loss {seen['loss']:.2f}, gip {seen['gip']:+.4f}, cosine {seen['cosine']:+.2f}")
right = (fish.predict(x).argmax(dim=1) == y).float().mean().item()
