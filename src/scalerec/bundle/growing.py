"""Bundles and data that go on from them: what a data set needs to know, and models that fit it."""

from collections.abc import Collection

import torch

from scalerec.bundle.adaptation import model_settings, model_tensors
from scalerec.bundle.bundle import Bundle
from scalerec.bundle.recommenders import RECOMMENDER, OpenRecommender, check_encoders
from scalerec.data.continuing import Base
from scalerec.data.dataset import Dataset
from scalerec.data.encoding import Encoders
from scalerec.data.growing import GrowConfig, fault_of_growth, live_ids
from scalerec.data.layout import Layout
from scalerec.errors import BundleError, ScalerecError
from scalerec.models.growing import FreshRow, GrownRows, grow_recommender
from scalerec.models.recommender import ModelSpec, Recommender
from scalerec.models.widening import reading

__all__ = ["base_of", "grow_bundle", "growth_of", "recommender_for"]


def base_of(
    bundle: Bundle,
    grow: GrowConfig | None = None,
    *,
    keep: Collection[str] = ("users", "items"),
) -> Base:
    """What a data set that continues a bundle needs to know of it; no tensor is read.

    Args:
        bundle: It holds a recommender.
        grow: How its encoders are to grow.
        keep: Whom the data set takes over: the bundle's `users` with their histories, its `items`.
            Those of another domain are better left behind: they would be in every list.

    Raises:
        BundleError: If it holds something else, or has no encoders.
    """
    users, items = bundle.users, bundle.catalogue
    if users is not None and "items" not in keep and "met" in users.column_names:
        # Those are numbers of items.
        users = users.drop_columns(["met"])
    return Base(
        digest=bundle.digest,
        encoders=_encoders(bundle),
        items=items if "items" in keep else None,
        users=users if "users" in keep else None,
        grow=grow or GrowConfig(),
        left=tuple(name for name in ("users", "items") if name not in keep),
    )


def grow_bundle(
    bundle: Bundle, dataset: Dataset, fresh: FreshRow = "unknown"
) -> tuple[Recommender, GrownRows]:
    """Give a bundle's model with tables that have grown to the ids and fields of a data set.

    Args:
        bundle: It holds a recommender.
        dataset: Its encoders are the bundle's, or have grown from them.
        fresh: What rows of new ids start from; see `scalerec.models.growing`.

    Raises:
        BundleError: If the data set was encoded otherwise, or the bundle's parts do not fit.
    """
    spec, live = growth_of(bundle, dataset)
    try:
        tensors = model_tensors(bundle.tensors())
        before = Layout.from_dict(bundle.layout, "layout")
        return grow_recommender(
            spec, dataset.layout, tensors, live, fresh=fresh, known=before.tables, before=before
        )
    except (ScalerecError, KeyError, RuntimeError) as error:
        raise BundleError(f"{bundle.path}: its parts do not fit together: {error}") from error


def growth_of(bundle: Bundle, dataset: Dataset) -> tuple[ModelSpec, dict[str, torch.Tensor]]:
    """What a bundle's model is, and which ids of a data set that continues it are not retired.

    Args:
        bundle: It holds a recommender; no tensor of it is read.
        dataset: Its encoders are the bundle's, or have grown from them.

    Returns:
        The model, and by table a mark for each id, ``[ids]`` bool.

    Raises:
        BundleError: If the data set was encoded otherwise, or the bundle's model is unknown.
    """
    fault = fault_of_growth(dataset.encoders, _encoders(bundle))
    if fault:
        raise BundleError(
            f"{dataset.directory} does not continue {bundle.path}: {fault}; make it with: "
            f"scalerec prepare SOURCE --continue {bundle.path}"
        )
    live = {
        name: torch.ones(size, dtype=torch.bool) for name, size in dataset.layout.tables.items()
    }
    live |= {
        name: torch.from_numpy(live_ids(vocabulary))
        for name, vocabulary in dataset.encoders.vocabularies.items()
    }
    try:
        return ModelSpec.from_dict(model_settings(bundle.spec), "spec"), live
    except ScalerecError as error:
        raise BundleError(f"{bundle.path}: its parts do not fit together: {error}") from error


def recommender_for(opened: OpenRecommender, dataset: Dataset) -> Recommender:
    """Give a bundle's model as it scores a data set: its own, or one that came before or after.

    If the data set continues the bundle, its new ids read the out-of-vocabulary row, as their keys
    always did; and so do keys that were retired when the data set was made. Its new fields say
    nothing. If the bundle knows more fields than the data set, those count as missing.

    Raises:
        BundleError: If the ids of the data set mean something else than the bundle's.
    """
    if fault_of_growth(opened.encoders, dataset.encoders):
        if fault_of_growth(dataset.encoders, opened.encoders):
            check_encoders(opened, dataset)
        return grow_bundle(opened.bundle, dataset)[0]
    return reading(opened.recommender, dataset.layout)


def _encoders(bundle: Bundle) -> Encoders:
    if bundle.spec.get("kind") != RECOMMENDER or bundle.encoders is None:
        raise BundleError(f"{bundle.path}: holds no recommender with encoders, so nothing grows")
    return Encoders.from_table(bundle.encoders)
