"""What the activations of any network receive, seen without the library."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ACTIVATIONS = {"softplus", "relu", "relu_", "elu", "celu", "leaky_relu"}


class _Spy(TorchFunctionMode):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows, self.received = rows, []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in ACTIVATIONS and self.rows in args[0].shape:
            self.received.append(args[0].detach().clone())
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def pre_activations(
    network: nn.Module,
    inputs: Sequence[Tensor],
    convex: Sequence[int] = (0,),
    call: Callable[..., Tensor] | None = None,
) -> list[Tensor]:
    """``[rows and positions, units]`` of whatever an activation bends and the convex inputs change.

    The number of rows must be no other size in the network. The network is run in evaluation mode.
    """
    runs = []
    network.eval()
    shuffled = [t.flip(0) if index in convex else t for index, t in enumerate(inputs)]
    for values in (inputs, shuffled):
        spy = _Spy(len(inputs[0]))
        with spy:
            copies = [value.clone() for value in values]
            network(*copies) if call is None else call(network, *copies)
        runs.append(spy.received)
    signals = []
    for signal, other in zip(*runs, strict=True):
        if not torch.equal(signal, other):
            rows = signal.shape.index(len(inputs[0]))
            units = 1 if rows == 0 else 0
            signals.append(signal.movedim(units, -1).flatten(0, -2).double())
    return signals
