"""`scalerec recommend`: a bundle and a user give items."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalerec.cli.options import AsJson, Threads, examples, use_threads
from scalerec.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from scalerec.bundle.recommenders import OpenRecommender
    from scalerec.meta.told import Told

HELP = examples(
    "scalerec recommend runs/deepfm --user 42 --k 10",
    "scalerec recommend runs/deepfm --history 50,181,174 --k 10     # a user never seen",
    "scalerec recommend runs/meta --history 50,181,174 --k 10       # adapts to them on the spot",
    "scalerec recommend runs/meta --history 50:5,181:1 --k 10       # with ratings",
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
        str | None,
        typer.Option(
            "--history",
            help="Keys of items met, oldest first: 50,181,174. An item was liked unless its label "
            "follows, as the data have it: 50:5,181:1. A bundle that adapts takes as many other "
            "items as not liked, the popular ones more often, and always the same.",
        ),
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
    told = _told(opened, history)
    keys, read = list(told.keys), _read(opened, told)
    skip = [key for key in keys if key not in read]
    with _adapted(opened, told, known=user in opened.user_numbers) as (ready, adapted):
        start = time.perf_counter() - adapted
        items = recommend(
            ready, user=user, history=read, k=k, exclude_met=not repeat, adapted=adapted > 0,
            skip=skip,
        )  # fmt: skip
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
                "adapted_in_ms": round(1000 * adapted, 3),
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
    note(f"{milliseconds:.1f} ms" + (f", {1000 * adapted:.1f} to adapt" if adapted else ""))


def _told(opened: "OpenRecommender", history: str | None) -> "Told":
    from scalerec.meta.told import Told, read_told

    if history is None:
        return Told((), ())
    return read_told(opened, [key.strip() for key in history.split(",") if key.strip()])


def _read(opened: "OpenRecommender", told: "Told") -> list[str]:
    """What histories hold of what was told: all of it, or what was liked."""
    kinds = {feature.history for feature in opened.encoders.schema.history}
    return list(told.keys) if kinds == {"all"} else told.liked


@contextmanager
def _adapted(
    opened: "OpenRecommender", told: "Told", *, known: bool
) -> Iterator[tuple["OpenRecommender", float]]:
    """The bundle, adapted to a history where it learned to, and the seconds that took."""
    how = opened.adaptation
    reads = any(bag.history for bag in opened.layout.bags)
    strange = reads and not any(key in opened.item_numbers for key in told.keys)
    if how is None or how.by != "user" or known or not told.keys or strange:
        yield opened, 0.0
        return
    import torch

    from scalerec.meta.adapt import Adapter
    from scalerec.meta.few import rows_of_history

    adapter = Adapter(opened).ready()
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    own = adapter.one(rows_of_history(opened, told.keys, generator, told.labels))
    seconds = time.perf_counter() - start
    with adapter.adapted(own) as ready:
        yield ready, seconds
