"""Sparse random projection of features, the same everywhere for the same seed."""

from __future__ import annotations

import warnings

import torch

# Kane & Nelson 2014 ask for about eps⁻¹ ln n non-zeros per feature in the worst case; features that
# no few dominate need fewer, and four keep distances as well as a dense matrix does (tested).
NON_ZEROS = 4

BLOCK_FEATURES = 2**18


class SparseProjection:
    """Project (batch, n_features) onto ``n_dims`` random directions.

    y = x R with R (n_features, n_dims): each feature has ``NON_ZEROS`` entries ± 1/√NON_ZEROS, one
    in each of as many equal shares of the dimensions (Kane & Nelson 2014, block construction), so
    that squared norms are kept on average. Rows of R are drawn block by block of features, from the
    seed and the block's number, on the CPU: the same on every device. No dense R is ever made.

    Parameters
    ----------
    n_features, n_dims
        Before and after.
    seed
        Decides R together with the two numbers.
    """

    def __init__(self, n_features: int, n_dims: int, seed: int) -> None:
        self.n_features, self.n_dims, self.seed = n_features, n_dims, seed
        self._blocks: list[torch.Tensor] = []

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Project (batch, n_features) float32 to (batch, n_dims), where it lies."""
        if not self._blocks:
            self._blocks = [
                self._block(start).to(features.device)
                for start in range(0, self.n_features, BLOCK_FEATURES)
            ]
        projected = torch.zeros((self.n_dims, len(features)), device=features.device)
        for number, block in enumerate(self._blocks):
            start = number * BLOCK_FEATURES
            projected += block @ features[:, start : start + BLOCK_FEATURES].T.contiguous()
        return projected.T

    def _block(self, start: int) -> torch.Tensor:
        """Rᵀ for a block of features, (n_dims, width), as compressed sparse rows."""
        width = min(BLOCK_FEATURES, self.n_features - start)
        generator = torch.Generator().manual_seed(self.seed * 2**20 + start // BLOCK_FEATURES)
        shape = (NON_ZEROS, width)
        shares = torch.arange(NON_ZEROS + 1) * self.n_dims // NON_ZEROS
        sizes = (shares[1:] - shares[:-1])[:, None]
        places = (
            torch.rand(shape, generator=generator, dtype=torch.float64) * sizes
        ).long() + shares[:-1, None]
        signs = torch.randint(0, 2, shape, generator=generator) * 2 - 1
        columns = torch.arange(width).expand(shape)
        indices = torch.stack([places.flatten(), columns.flatten()])
        values = signs.flatten().float() / NON_ZEROS**0.5
        with torch.sparse.check_sparse_tensor_invariants(True), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
            block = torch.sparse_coo_tensor(indices, values, (self.n_dims, width))
            return block.coalesce().to_sparse_csr()
