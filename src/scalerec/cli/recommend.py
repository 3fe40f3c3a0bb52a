"""`scalerec recommend`: a bundle and a user give items."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from scalerec.cli.options import AsJson, Threads, examples, use_threads
from scalerec.cli.output import note, print_json, print_table

HELP = examples(
    "scalerec recommend runs/deepfm --user 42 --k 10",
    "scalerec recommend runs/deepfm --history 50,181,174 --k 10     # a user never seen",
)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("recommend", short_help="Recommend items to a user, known or not.", epilog=HELP)(
        run
    )


def run(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle made by `train`.")],
    user: Annotated[str | None, typer.Option("--user", help="The user's key.")] = None,
    history: Annotated[
        str | None, typer.Option("--history", help="Keys of items met, oldest first: 50,181,174.")
    ] = None,
    k: Annotated[int, typer.Option("--k", help="Length of the list.")] = 10,
    repeat: Annotated[
        bool, typer.Option("--repeat", help="Allow items that the user has met.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Check every digest of the bundle first.")
    ] = True,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Rank the whole catalogue for one user, known or not."""
    from scalerec.bundle.recommenders import open_recommender
    from scalerec.scoring import recommend

    use_threads(threads)
    opened = open_recommender(bundle, verify=verify)
    keys = [key.strip() for key in history.split(",") if key.strip()] if history else []
    start = time.perf_counter()
    items = recommend(opened, user=user, history=keys, k=k, exclude_met=not repeat)
    milliseconds = 1000 * (time.perf_counter() - start)
    unknown = [key for key in keys if key not in set(opened.item_keys)]
    known = user is not None and user in set(opened.user_keys)
    if as_json:
        print_json(
            {
                "bundle": opened.bundle.digest,
                "user": user,
                "known_user": known,
                "history": keys,
                "unknown_items": unknown,
                "milliseconds": round(milliseconds, 3),
                "items": [asdict(item) for item in items],
            }
        )
        return
    if user is not None and not known:
        note(f"user {user!r} was not met in training: served from what all users have in common")
    if unknown:
        note(f"not in the catalogue, counted as unknown items: {', '.join(unknown)}")
    rows = [[item.rank, item.item, item.title, item.score] for item in items]
    print_table(["rank", "item", "title", "score"], rows)
    note(f"{milliseconds:.1f} ms")
