"""Which parameters of a bundle may be adapted."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from scalerec.bundle.bundle import Bundle
from scalerec.errors import BundleError

__all__ = ["adaptable_names", "require_adaptable"]


def adaptable_names(bundle: Bundle) -> tuple[str, ...]:
    """Give the names of all tensors that may be adapted, sorted."""
    return tuple(name for name in bundle.tensor_infos() if _matches(name, bundle.adaptable))


def require_adaptable(bundle: Bundle, names: Iterable[str]) -> None:
    """Refuse to adapt parameters that are frozen or do not exist.

    Args:
        bundle: The bundle that is to be adapted.
        names: The parameters that would change.

    Raises:
        BundleError: It names the frozen ones.
    """
    wanted = list(names)
    known = bundle.tensor_infos()
    if absent := [name for name in wanted if name not in known]:
        raise BundleError(f"{bundle.path}: has no parameter {', '.join(map(repr, absent))}")
    if frozen := [name for name in wanted if not _matches(name, bundle.adaptable)]:
        allowed = ", ".join(bundle.adaptable) or "none"
        raise BundleError(
            f"{bundle.path}: these parameters are frozen: {', '.join(frozen)}; adaptable: {allowed}"
        )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    # A name may itself hold brackets, so it always matches itself.
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)
