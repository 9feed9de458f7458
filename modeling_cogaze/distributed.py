"""Sharing tensors between the processes of a data-parallel run."""

import torch
import torch.distributed as dist
from torch import nn


def world_size() -> int:
    """Number of processes; 1 outside a distributed run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _GatherWithGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
        ctx.sizes = sizes
        return _gather(tensor, sizes)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.split(ctx.sizes)[dist.get_rank()], None


def _gather(tensor: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def gather_with_grad(tensor: torch.Tensor) -> torch.Tensor:
    """The tensors (n_r, ...) of all processes, joined in rank order along dimension 0; rows may differ in number.

    The gradient of every process's loss reaches every process's tensor: the backward pass sums over processes. So when
    each computes the same loss of the joined tensor, averaging parameter gradients over processes (DDP) gives those of
    one process with the joined batch. A collective operation: all processes must call it. Alone: the tensor itself.
    """
    if world_size() == 1:
        return tensor
    size = torch.tensor(len(tensor), device=tensor.device)
    sizes = [torch.empty_like(size) for _ in range(world_size())]
    dist.all_gather(sizes, size)
    sizes = tuple(torch.stack(sizes).tolist())
    return _GatherWithGrad.apply(tensor, sizes) if tensor.requires_grad else _gather(tensor, sizes)


def mean_over_processes(value: torch.Tensor) -> torch.Tensor:
    """The mean of `value` over all processes, without a gradient. A collective operation."""
    if world_size() == 1:
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value / world_size()


class _SumWithGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose training statistics are those of the joined batch of all processes, on any device.

    (`torch.nn.SyncBatchNorm` does the same, on accelerators alone.) In training, a collective operation.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not self.training or world_size() == 1:
            return super().forward(hidden_states)
        x = hidden_states.float()
        count = x.new_full((1,), x.numel() / x.shape[1])
        sums = _SumWithGrad.apply(torch.cat([x.sum(dim=(0, 2, 3)), count]))
        count = sums[-1]
        mean = sums[:-1] / count
        centred = x - mean[:, None, None]
        variance = _SumWithGrad.apply(centred.square().sum(dim=(0, 2, 3))) / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1
                weight = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, weight)
                self.running_var.lerp_(variance * count / (count - 1), weight)
        normalised = centred * (variance + self.eps).rsqrt()[:, None, None]
        return (normalised * self.weight[:, None, None] + self.bias[:, None, None]).to(hidden_states.dtype)


def share_batch_statistics(model: nn.Module) -> None:
    """Turn the model's `nn.BatchNorm2d` into `SharedBatchNorm2d`; weights and their names stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d
