"""The algorithms in DomainBed's manner: ``update(minibatches)`` and ``predict(x)``, one class over each pure step."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch

from gentangle.errors import InputError
from gentangle.gradients.undo import all_or_nothing
from gentangle.matching.domains import Domains, Gradient, Minibatches, domains_of, learning, square
from gentangle.matching.erm import erm_gradient
from gentangle.matching.fish import fish_step
from gentangle.matching.idgm import idgm_gradient
from gentangle.matching.irm import irm_gradient
from gentangle.matching.smooth_fish import smooth_fish_gradient
from gentangle.matching.weighted_losses import group_dro_weights, vrex_weights, weighted_gradient


@dataclass(eq=False)
class Algorithm:
    """A model, its loss, its optimizer, and a generator of the order of domains.

    An update is all or nothing: when it fails, the parameters, the buffers and the generator are as they were. The
    mode of the model is the user's. A warm start is ``fish.model.load_state_dict(erm.model.state_dict())``.

    Args:
        model: any torch module.
        loss: ``loss(model(x), y)``, a scalar.
        make_optimizer: the optimizer from the list of learning parameters, as ``partial(torch.optim.SGD, lr=0.1)``;
            what it makes is ``.optimizer``.
        seed: of the orders; ERM and IDGM draw none.

    Raises:
        InputError: no parameter requires a gradient.
    """

    model: torch.nn.Module
    loss: Callable[[Any, Any], torch.Tensor]
    make_optimizer: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]
    _: KW_ONLY
    seed: int = 0

    def __post_init__(self) -> None:
        if not learning(self.model):
            raise InputError(
                f"No parameter of {type(self.model).__name__} requires a gradient: unfreeze what shall learn."
            )
        self.optimizer = self.make_optimizer(learning(self.model))
        self.generator = torch.Generator().manual_seed(self.seed)

    def update(self, minibatches: Minibatches) -> dict[str, float]:
        """One step on a minibatch (x, y, ...) of each domain, a mapping by name or a sequence.

        Returns:
            ``loss`` (the mean over domains), ``loss/<name>`` of each, and the exact ``gip`` and ``cosine``; of Fish
            those of the gradients along its loop, an estimate (:class:`gentangle.matching.loop_gip.LoopGIP`).

        Raises:
            InputError: fewer than two domains, an empty minibatch, one of a single example while BatchNorm trains, or a
                loss or gradient that is not finite (the domain is named).
        """
        domains, drawn = domains_of(self.model, self.loss, minibatches), self.generator.get_state()
        try:
            return self._step(domains)
        except BaseException:
            self.generator.set_state(drawn)
            raise

    def predict(self, x: Any) -> Any:
        """The model's output in evaluation mode, without a graph; each module's mode is left as it was."""
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            with torch.no_grad():
                return self.model(x)
        finally:
            for module, training in modes.items():
                module.training = training

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that decides the next updates, but torch's global generator (dropout draws from it)."""
        state = {"algorithm": type(self).__name__, "generator": self.generator.get_state()}
        return deepcopy(state | {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict`: a run that was killed ends with the same bytes.

        Raises:
            InputError: it is another algorithm's.
        """
        if (other := state.get("algorithm")) != type(self).__name__:
            raise InputError(
                f"The state is of {other}: to start from its model, model.load_state_dict(state['model'])."
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(deepcopy(state["optimizer"]))  # torch would share its tensors
        self.generator.set_state(state["generator"])

    def _step(self, domains: Domains) -> dict[str, float]:
        with all_or_nothing(list(self.model.buffers())):  # nothing else can have changed
            gradient, seen = self._gradient(domains)
            square(gradient)  # an error where it is not finite
        for parameter, part in zip(learning(self.model), gradient, strict=True):
            parameter.grad = part
        self.optimizer.step()
        self.optimizer.zero_grad()
        return seen

    def _gradient(self, domains: Domains) -> Gradient:
        """What the optimizer steps along, in an algorithm that does not step by itself."""
        raise NotImplementedError


class ERM(Algorithm):
    """A step of the optimizer on the mean loss; see :func:`gentangle.matching.erm.erm_gradient`."""

    def _gradient(self, domains: Domains) -> Gradient:
        return erm_gradient(self.model, domains)


@dataclass(eq=False, kw_only=True)
class IDGM(Algorithm):
    """A step of the optimizer on IDGM's objective; see :func:`gentangle.matching.idgm.idgm_gradient`."""

    gamma: float

    def _gradient(self, domains: Domains) -> Gradient:
        return idgm_gradient(self.model, domains, gamma=self.gamma)


@dataclass(eq=False, kw_only=True)
class SmoothFish(Algorithm):
    """A step of the (outer) optimizer; see :func:`gentangle.matching.smooth_fish.smooth_fish_gradient`."""

    alpha: float
    gamma: float

    def _gradient(self, domains: Domains) -> Gradient:
        dial: Any = {"alpha": self.alpha, "gamma": self.gamma}
        return smooth_fish_gradient(self.model, domains, generator=self.generator, **dial)


@dataclass(eq=False, kw_only=True)
class IRM(Algorithm):
    """A step of the optimizer on IRMv1's objective; see :func:`gentangle.matching.irm.irm_gradient`."""

    penalty: float

    def _gradient(self, domains: Domains) -> Gradient:
        return irm_gradient(self.model, domains, penalty=self.penalty)


@dataclass(eq=False, kw_only=True)
class VREx(Algorithm):
    """A step of the optimizer on V-REx's objective; see :func:`gentangle.matching.weighted_losses.vrex_weights`."""

    penalty: float

    def _gradient(self, domains: Domains) -> Gradient:
        return weighted_gradient(self.model, domains, lambda losses: vrex_weights(losses, self.penalty))


@dataclass(eq=False, kw_only=True)
class GroupDRO(Algorithm):
    """A step on the losses weighted by q, after one of q towards the larger ones.

    The weights belong to names: a domain that is new begins with the mean of the others' (all alike at first).

    Args:
        step: size of the weights' own step, see :func:`gentangle.matching.weighted_losses.group_dro_weights`.
    """

    step: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self.log_weights: dict[str, float] = {}

    def _gradient(self, domains: Domains) -> Gradient:
        begin = sum(self.log_weights.values()) / max(1, len(self.log_weights))
        before = torch.tensor([self.log_weights.get(str(name), begin) for name in domains])
        after: list[torch.Tensor] = []

        def weights(losses: torch.Tensor) -> torch.Tensor:
            after.append(group_dro_weights(before.to(losses), losses, self.step))
            return after[0].exp()

        gradient, seen = weighted_gradient(self.model, domains, weights)
        square(gradient)  # an error where it is not finite, before the weights are kept
        self.log_weights |= dict(zip(map(str, domains), after[0].tolist(), strict=True))
        return gradient, seen

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"log_weights": dict(self.log_weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.log_weights = dict(state["log_weights"])


@dataclass(eq=False, kw_only=True)
class Fish(Algorithm):
    """The (inner) optimizer's loop and a step towards its end; see :func:`gentangle.matching.fish.fish_step`.

    Args:
        eps: size of the step towards the loop's end.
        buffers: ``"interpolate"`` or ``"inner"``.
        track: read the GIP off the loop.
        keep_state: keep the inner optimizer's moments from loop to loop (the authors' code), or forget them.
        permute: a fresh order each loop; False visits the domains as they are given, which does not match gradients.
    """

    eps: float
    buffers: str = "interpolate"
    track: bool = True
    keep_state: bool = True
    permute: bool = True

    def _step(self, domains: Domains) -> dict[str, float]:
        if not self.keep_state:
            self.optimizer.state.clear()
        settings: Any = {"eps": self.eps, "buffers": self.buffers, "track": self.track}
        generator = self.generator if self.permute else None
        return fish_step(self.model, domains, self.optimizer, generator=generator, **settings)


class Reptile(Fish):
    """Fish, to be given several minibatches of *one* domain an update: it matches these instead of the domains.

    Source: Nichol et al., arXiv 1803.02999.
    """
