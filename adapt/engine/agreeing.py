"""Steps on tensors without values: what Python reads of them."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Agreeing(TorchDispatchMode):
    """Within it tensors without values read as true, or 1: losses are finite, class ratios are
    known."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Return the value in the tensor's place, or run the function."""
        if function is torch.ops.aten._local_scalar_dense.default:
            return True
        return function(*args, **(kwargs or {}))
