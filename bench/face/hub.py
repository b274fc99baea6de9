"""Pruned networks on the Hugging Face hub, or in a folder: bundles beside a model card, nothing pickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, hf_hub_download
from torch import nn

from ...architectures.saved import bundle
from ...datasets.errors import UsageError
from .pruned import Pruned

FILE = "pruned.safetensors"
CARD = """---
{{ card_data }}
---

# A pruned network

Pruned by bayesprune.

```
{{ summary }}
```

```python
import bayesprune as bp

network = bp.HubNetwork.from_pretrained("REPOSITORY_OR_FOLDER"{{ needs_network }})
```
"""


class HubNetwork(ModelHubMixin, library_name="bayesprune", tags=["pruning"], model_card_template=CARD):
    """A pruned network that can be pushed to the hub, and comes back from it.

    >>> bp.HubNetwork(pruned, {"name": "lenet5", ...}).push_to_hub("me/small")   # doctest: +SKIP
    >>> network = bp.HubNetwork.from_pretrained("me/small")   # doctest: +SKIP

    Args:
        pruned: what `prune`, `fit` or `finish` gave.
        architecture: name, input_shape, outputs and options, as for `Pruned.save`; without it, whoever loads must bring
            a network of the class that was pruned.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> HubNetwork:
        """Without the mixin's own configuration file: the bundle holds its plan."""
        return object.__new__(cls)

    def __init__(self, pruned: Pruned, architecture: Mapping[str, Any] | None = None) -> None:
        self.pruned, self.architecture = pruned, architecture

    def _save_pretrained(self, save_directory: Path) -> None:
        self.pruned.save(save_directory / FILE, self.architecture)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> Any:
        """The card, with the summary of the pruning."""
        needs = "" if self.architecture else ", network=a_dense_one_of_its_class"
        return super().generate_model_card(*args, summary=self.pruned.summary(), needs_network=needs, **kwargs)

    @classmethod
    def _from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, *, model_id: str, revision: str | None, cache_dir: str | Path | None, force_download: bool,
        local_files_only: bool, token: str | bool | None, network: nn.Module | None = None, trust: bool = False,
        **ignored: Any,
    ) -> nn.Module:  # fmt: skip
        """The compact network itself, by `bayesprune.load`, whose `network` and `trust` may be given."""
        path = Path(model_id) / FILE
        if Path(model_id).is_dir() and not path.is_file():
            raise UsageError(f"folder {model_id} holds no {FILE}: save a pruned network there with save_pretrained")
        if not path.is_file():
            path = hf_hub_download(
                model_id, FILE, revision=revision, cache_dir=cache_dir, force_download=force_download,
                local_files_only=local_files_only, token=token,
            )  # fmt: skip
        return bundle.load(path, network, trust=trust)
