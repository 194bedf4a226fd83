"""The widget that replays stored runs of DPO: log-probabilities, cosines, cases and heatmaps, look by look."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import traitlets

from gentangle.alignment.conditions import CASES
from gentangle.alignment.records import look_cosines
from gentangle.display.widget import CHOSEN, REJECTED, BookWidget, module_text, still
from gentangle.errors import InputError

GROUPS = {"held_out": "held-out", "train": "training"}
#: The stages at which a record has token heatmaps, in the order of time.
STAGES = {"base": "before fine-tuning", "supervised": "after fine-tuning", "preference": "after DPO"}


def replay_data(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    r"""What the widget shows of stored runs, small enough for a page: at most 40 KB of JSON for four forms.

    Args:
        records: one run's record by the name of its form, as :func:`gentangle.alignment.records.load_record` gives.

    Returns:
        ``seed``; ``steps``, of DPO, one a look; and ``forms``: by form and group of pairs, for the look before
        fine-tuning and then for every step, ``chosen`` and ``rejected`` (mean log-probabilities of the tracked pairs,
        in nats), ``cosines`` :math:`\langle w,l\rangle/\lVert w\rVert\lVert l\rVert` of each pair whose Gram matrix was
        taken, ``cases`` (its digit in :data:`gentangle.alignment.conditions.CASES`, one a pair; a higher digit is
        another case); and ``heat``, for each of the three stages: by pair, the cosine of the two contrast tokens, then
        of the tokens that both responses have at one position.

    Raises:
        InputError: no record, runs of several seeds or lengths, or a record without looks at all stages.
    """
    if not records:
        raise InputError("There is no record to replay: give one by the name of its form.")
    forms, steps, seeds = {}, set(), set()
    for form, record in records.items():
        rows = record["rows"]
        seeds.add(int(record["config"]["seed"]))
        forms[form] = {group: _group(form, rows, group) for group in GROUPS}
        steps.add(tuple(row["step"] for row in rows if row["kind"] == "track" and row["group"] == "held_out"))
    if len(steps) > 1 or len(seeds) > 1:
        raise InputError(f"Got runs of seeds {sorted(seeds)} with {len(steps)} sets of steps, expected one of each.")
    return {"seed": seeds.pop(), "steps": list(steps.pop()), "forms": forms}


def _group(form: str, rows: Any, group: str) -> dict[str, Any]:
    mine = [row for row in rows if row.get("group") == group]
    stages = {row["stage"]: row for row in mine if row["kind"] == "stage"}
    if missing := set(STAGES) - set(stages):
        raise InputError(f"The run {form!r} has no look at {sorted(missing)}, expected one at each of {[*STAGES]}.")
    looks = [stages["base"], *(row for row in mine if row["kind"] == "track")]
    heat = [[stages[name]["contrast_cosine"], stages[name]["shared_cosine"]] for name in STAGES]
    return {
        "chosen": [round(float(np.mean(look["chosen"])), 4) for look in looks],
        "rejected": [round(float(np.mean(look["rejected"])), 4) for look in looks],
        "cosines": [[round(c, 6) + 0.0 for c in look_cosines(look).tolist()] for look in looks],
        "cases": ["".join(map(_digit, look["case"])) for look in looks],
        "heat": [
            [[round(c, 2) + 0.0 for c in (own, *shared)] for own, shared in zip(*both, strict=True)] for both in heat
        ],
    }


def _digit(case: str) -> str:
    return str(CASES.index(case) if case in CASES else len(CASES))


class TrainingReplay(BookWidget):
    """A run of DPO, look by look.

    Args:
        data: of :func:`replay_data`.
        form: one of its forms; its first where none is named.
        group: whose heatmap is shown, ``held_out`` or ``train``.
        look: 0 is the look before fine-tuning, 1 the one at step 0 of DPO.

    Raises:
        InputError: ``form`` or ``look`` is not in the data.
    """

    module = "replay"
    state_names = ("data", "form", "group", "look")
    _esm = module_text("replay")

    data = traitlets.Dict().tag(sync=True)
    form = traitlets.Unicode().tag(sync=True)
    group = traitlets.Enum([*GROUPS], "held_out").tag(sync=True)
    look = traitlets.Int(1, min=0).tag(sync=True)

    def __init__(self, data: Mapping[str, Any], **traits: Any) -> None:
        super().__init__(**{"data": data, "form": next(iter(data["forms"]))} | traits)
        if self.form not in data["forms"] or self.look > len(data["steps"]):
            raise InputError(
                f"Got form {self.form!r} and look {self.look}, expected one of {[*data['forms']]} and at most "
                f"{len(data['steps'])}."
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(form={self.form!r}, group={self.group!r}, look={self.look})"

    def heat_stage(self) -> int:
        """The stage whose heatmap is nearest to the look, as a place in ``STAGES``; of two as near, the earlier."""
        steps = self.data["steps"]
        return 0 if self.look == 0 else 1 + (2 * steps[self.look - 1] > steps[0] + steps[-1])

    def reading(self) -> dict[str, float]:
        """What the widget shows, by name: ``<group>_<what>``.

        ``chosen``, ``rejected`` and their difference ``margin``; changes of both since step 0 of DPO; the median
        ``cosine``; how many pairs are in each case (``case0`` to ``case2``, in the order of ``CASES``); and of the
        heatmap at :meth:`heat_stage` the mean cosine of ``contrast`` tokens and of ``shared`` ones (NaN without any).
        """
        found: dict[str, float] = {"heat_stage": self.heat_stage()}
        for group in GROUPS:
            run = self.data["forms"][self.form][group]
            chosen, rejected = run["chosen"][self.look], run["rejected"][self.look]
            heat = run["heat"][self.heat_stage()]
            shared = [cosine for pair in heat for cosine in pair[1:]]
            values = {
                "chosen": chosen,
                "rejected": rejected,
                "margin": chosen - rejected,
                "change_chosen": chosen - run["chosen"][1],
                "change_rejected": rejected - run["rejected"][1],
                "cosine": float(np.median(run["cosines"][self.look])),
                "contrast": float(np.mean([pair[0] for pair in heat])),
                "shared": float(np.mean(shared)) if shared else float("nan"),
            }
            values |= {f"case{k}": run["cases"][self.look].count(str(k)) for k in range(len(CASES))}
            found |= {f"{group}_{what}": value for what, value in values.items()}
        return found

    def when(self) -> str:
        """The look in words."""
        return "before fine-tuning" if self.look == 0 else f"step {self.data['steps'][self.look - 1]}"

    def sentence(self) -> str:
        """The picture in words."""
        reading = self.reading()
        parts = [
            f"{title} pairs: log \u03c0_w {reading[f'{group}_chosen']:.2f}, log \u03c0_l "
            f"{reading[f'{group}_rejected']:.2f}, median cosine {reading[f'{group}_cosine']:.2f}"
            for group, title in GROUPS.items()
        ]
        start = f"DPO on the form {self.form}, seed {self.data['seed']}, {self.when()}."
        return f"{start} Means of {'; '.join(parts)}.".replace(" -", " \u2212")

    def picture(self) -> str:
        run, sides = self.data["forms"][self.form], {"chosen": CHOSEN, "rejected": REJECTED}
        values = [value for group in GROUPS for side in sides for value in run[group][side][1:]]
        low, spread, last = min(values), max(values) - min(values) or 1.0, len(self.data["steps"]) - 1
        drawn = []
        for side, colour in sides.items():
            for group, dashes in zip(GROUPS, ("", "6 4"), strict=True):
                path = enumerate(run[group][side][1:])
                at = " ".join(f"{240 * k / last:.1f},{160 - 150 * (value - low) / spread:.1f}" for k, value in path)
                drawn.append(
                    f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="2.5" '
                    f'stroke-dasharray="{dashes}"/>'
                )
            end = 160 - 150 * (run["held_out"][side][-1] - low) / spread
            drawn.append(f'<text x="246" y="{end + 5:.1f}" fill="{colour}">{side}</text>')
        at = 240 * max(self.look - 1, 0) / last
        axes = f'<g stroke="#767676"><path d="M0 170H240"/><path d="M{at:.1f} 0V170" stroke-dasharray="4"/></g>'
        return still((0, 0, 310, 180), axes + "".join(drawn), self.sentence(), " Held-out solid, training dashed.")
