"""Several processes that train one model together, as torchrun starts them; alone, one is all.

    torchrun --nproc-per-node=2 -m training.train --config training/configs/baseline.yaml

Each process holds the whole model and its share of each step's batches. What they exchange is added
up in one order everywhere, so their weights stay the same to the bit. Torch's
DistributedDataParallel is not used: it would have to be built anew when layers thaw, told of
`accumulate`, and kept from waiting where an epoch's last step has no batch for some process.
"""

import io
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from training.config import BadConfig, HardwareConfig
from training.hardware import find_device

# The first process may ask teachers meanwhile; of a death torchrun tells at once.
PATIENCE = timedelta(hours=2)
T = TypeVar("T")


@contextmanager
def joined(config: HardwareConfig) -> Iterator[None]:
    """Join the processes that torchrun started; without torchrun, nothing happens.

    On the CPU they speak through gloo, on GPUs through nccl; each takes a GPU of its own.

    Raises:
        BadConfig: not as many GPUs as processes, or one GPU named for all.
    """
    if not distributed.is_torchelastic_launched():
        yield
        return
    on_gpu = find_device(config).type == "cuda"
    if on_gpu:
        here, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if config.device != "cuda" or here > gpus:
            raise BadConfig(
                f"device: expected cuda and at most one process for each of the {gpus} GPUs here; "
                f"found {config.device} and {here} processes"
            )
        torch.cuda.set_device(_place_here())
    store, place, count = next(rendezvous("env://"))
    if os.environ["GROUP_WORLD_SIZE"] == "1":
        # The store outlives a restart, with the addresses of the dead (pytorch issue 167288). On
        # several machines these counts differ.
        store = PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo", store=store, rank=place, world_size=count, timeout=PATIENCE
    )
    if rank():
        logging.getLogger().setLevel(logging.WARNING)  # all would say the same
    try:
        yield
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """The number of this process; 0 is the first, who writes."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def _place_here() -> int:
    """The number of this process among those of its machine."""
    return int(os.environ["LOCAL_RANK"]) if distributed.is_torchelastic_launched() else 0


@contextmanager
def first_here_before_others() -> Iterator[None]:
    """Let each machine's first process go through first: it leaves what others find, as files."""
    if size() > 1 and _place_here():
        distributed.barrier()
    yield
    if size() > 1 and not _place_here():
        distributed.barrier()


def share(length: int) -> range:
    """This process's part of so many things in a row; as even as can be, maybe empty."""
    return range(length * rank() // size(), length * (rank() + 1) // size())


def from_first(value: T) -> T:
    """The value of the first process, in all: plain values and tensors, which come to the CPU."""
    if size() == 1:
        return value
    buffer = io.BytesIO()
    if rank() == 0:
        torch.save(value, buffer)
    box = [buffer.getvalue()]
    distributed.broadcast_object_list(box, src=0)
    if rank() == 0:
        return value
    found: T = torch.load(io.BytesIO(box[0]), map_location="cpu", weights_only=True)
    return found


def add_up(tensors: Iterable[Tensor]) -> None:
    """Replace tensors of one type by their sums over all processes."""
    tensors = list(tensors)
    if size() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view(tensor.shape))


class StepSum:
    """Brings together what the batches of a step, in all processes, did to a model.

    Afterwards it is as if one process had seen them in turn (``accumulate``): gradients are
    added; the running statistics of batch norms are those behind the last batch. Each batch is
    normalised by its own statistics, as with ``accumulate``: at 64 tiles and more, none is missed.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        # Each with the share of it that a batch leaves in place.
        self._statistics = [
            (norm.get_buffer(name), 1 - (norm.momentum or 0.0))
            for norm in self._norms
            for name in ("running_mean", "running_var")
        ]
        self._before = [value.clone() for value, _ in self._statistics]

    @torch.no_grad()
    def __call__(self, batches: int) -> None:
        """Take so many batches together, of which this process has seen its ``share``."""
        if size() == 1:
            return
        mine = share(batches)
        learning = [p for p in self._model.parameters() if p.requires_grad]
        for parameter in learning:
            if parameter.grad is None:  # without a batch in this step
                parameter.grad = torch.zeros_like(parameter)
        # s after n batches is k^n s before, plus what the batches brought; that fades by k with
        # each later batch.
        for (value, kept), before in zip(self._statistics, self._before, strict=True):
            value.sub_(before * kept ** len(mine)).mul_(kept ** (batches - mine.stop))
        gradients = [p.grad for p in learning if p.grad is not None]
        add_up([*gradients, *(value for value, _ in self._statistics)])
        for (value, kept), before in zip(self._statistics, self._before, strict=True):
            value.add_(before * kept**batches)
            before.copy_(value)
        for norm in self._norms:
            norm.get_buffer("num_batches_tracked").add_(batches - len(mine))
