"""Published weights of a backbone under our names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from utils.errors import CheckpointError

# a buffer that counts training steps, and that some files lack: nothing is computed from it here
COUNTER = "num_batches_tracked"
NOTHING = r"$^"  # no key matches


def renamed_keys(keys: Iterable[str], renames: Sequence[tuple[str, str]], ignored: str) -> dict[str, str]:
    """{published key: our name}, without the keys that match `ignored`; see load_published()."""
    names = {}
    for key in keys:
        if not re.match(ignored, key):
            pattern, name = next((pair for pair in renames if re.match(pair[0], key)), ("", ""))
            names[key] = re.sub(pattern, name, key, count=1)
    return names


def load_published(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    renames: Sequence[tuple[str, str]],
    source: str,
    *,
    prefix: str = "",
    ignored: str = NOTHING,
) -> None:
    """Load `weights` of a published file: keys lose the `prefix`; those that match `ignored` are left out.

    renames: (regular expression, replacement), the first that matches a key counts; other keys keep their
    names. Raises CheckpointError, with `source`, if a key is missing or unknown or a shape does not fit.
    """
    weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    names = renamed_keys(weights, renames, ignored)
    own = network.state_dict()
    state = {key: own[key] for key in own if key.endswith(COUNTER)}
    state |= {name: weights[key] for key, name in names.items()}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{source}: not the weights of {type(network).__name__}: {error}") from error
