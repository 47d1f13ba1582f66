"""Matrix products of a sweep, by the faster of torch's two libraries.

On x86 torch hands a matrix product to MKL and a convolution to oneDNN. Both are exact to rounding,
but MKL does not use the widest instructions of every maker's processors; there oneDNN is twice as
fast (tools/benchmarks/README.md). A matrix product *is* a convolution with filters of one pixel: take `x`
for a picture with a channel for each input and a pixel for each row, and what the weights hold for
one output for a filter. Nothing is copied to look at it that way.
"""

import time
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

LARGE = 2**25  # multiplications; below, what a convolution takes to set up is not made good


def product(
    x: Float[Tensor, "rows d_in"], weight: Float[Tensor, "d_in d_out"], bias: Float[Tensor, "d_out"]
) -> Float[Tensor, "rows d_out"]:
    """`x @ weight + bias`."""
    large = x.numel() * weight.shape[1] >= LARGE
    suited = large and x.is_cpu and x.dtype == torch.float32
    if suited and convolution_wins(torch.get_num_threads()):
        return by_convolution(x, weight, bias)
    return torch.addmm(bias, x, weight)


def by_convolution(
    x: Float[Tensor, "rows d_in"], weight: Float[Tensor, "d_in d_out"], bias: Float[Tensor, "d_out"]
) -> Float[Tensor, "rows d_out"]:
    """`x @ weight + bias`, with the rows as a picture and the weights as filters.

    Weights that lie input by input (a model that `load_model` did not load) change places with the
    rows: filters that had to be turned round first would cost more.
    """
    if weight.mT.is_contiguous():
        picture = x[None, :, None].permute(0, 3, 1, 2)  # (1, d_in, rows, 1)
        return F.conv2d(picture, weight.mT[:, :, None, None], bias)[0, :, :, 0].mT
    picture = weight[None, :, :, None]  # (1, d_in, d_out, 1)
    return F.conv2d(picture, x[:, :, None, None])[0, :, :, 0].add_(bias)


def lay_out(network: torch.nn.Module) -> None:
    """Put the weights of all linear layers into the order in memory that a convolution likes best,
    output by output: a tenth of a sweep's time.

    torch's own layers lie so. GPT-2's lie input by input, and so do those that transformer_lens
    makes of its `c_attn`. The matrices stay what they are.
    """
    for layer in network.modules():
        if type(layer) is Conv1D:
            layer.weight.data = layer.weight.data.mT.contiguous().mT
        elif type(layer) is torch.nn.Linear:
            layer.weight.data = layer.weight.data.contiguous()


@cache
def convolution_wins(threads: int) -> bool:
    """Whether a convolution takes less than 3/4 of the time here; measured once (20 ms).

    With one thread torch does not hand it to oneDNN, and on a Mac there is another library: then
    the two take the same time, or the convolution longer.
    """
    x, weight, bias = torch.ones(256, 768), torch.ones(768, 768).mT, torch.ones(768)  # laid out

    def seconds(multiply) -> float:
        times = []
        for _ in range(6):
            start = time.perf_counter()
            multiply()
            times.append(time.perf_counter() - start)
        return min(times)

    usual = seconds(lambda: torch.addmm(bias, x, weight))
    return seconds(lambda: by_convolution(x, weight, bias)) < 0.75 * usual
