"""Settings of the tests against PyTorch."""

import torch

# PyTorch's threads and XLA's wait for each other on a machine of few cores.
torch.set_num_threads(1)
