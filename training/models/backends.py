"""What this project asks of torch's backends, said once per process before the first forward on a device."""

import torch


def settle(device: torch.device) -> None:
    """On CUDA: attention never by cuDNN.

    On Hopper torch prefers cuDNN's attention, which compiles a plan for every new shape; chunks of prompts and
    micro-batches have a new shape nearly each time. Flash and memory-efficient attention compile nothing.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
