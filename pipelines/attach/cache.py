"""Which of Diffusers' caches (``enable_cache``) a guider can live with.

A cache keeps activations from one evaluation to the next, for the rows of the call before. A guider
that leaves rows out changes what they belong to, in silence or with an error inside the network.
"""

from __future__ import annotations

from typing import Any

from .layouts import Form

# It keeps each forward's state under its own name, which two-pass pipelines give it, and compares
# with the last forward of that name, whenever that was. (MagCache has names as well, but counts the
# forwards of each to know which step it is at, so that none may be left out.)
BY_CONTEXT = ("FirstBlockCacheConfig",)


def needs_every_row(network: Any, form: Form | None) -> str:
    """Why no evaluation of this network may be left out; "" where any may.

    Raises:
        ValueError: the network's cache does not go with guiders at all.
    """
    if not getattr(network, "is_cache_enabled", False):
        return ""
    kind, name = type(network._cache_config).__name__, type(network).__name__
    if kind == "FasterCacheConfig":
        raise ValueError(
            f"the {kind} of the {name} makes up the negative branch by itself; allowed is another "
            "cache, or none (disable_cache())"
        )
    if form is not None and form.passes == 2 and kind in BY_CONTEXT:
        return ""
    return (
        f"the {kind} of the {name} needs the same evaluations at every step, and the guider leaves "
        "some out; allowed is a guider without Interval, Adaptive and other gates, or no cache "
        "(disable_cache())"
    )
