"""The Gram matrix of features that lie in one tensor, on a GPU for example."""

from __future__ import annotations

import numpy as np
import torch

from toolkit.encoding.gram import BLOCK_COLUMNS, column_slices, finished, product_dtype
from toolkit.encoding.statistics import LayerStatistics, RowStatistics


def tensor_statistics(features: torch.Tensor) -> LayerStatistics:
    """:func:`toolkit.encoding.gram.layer_statistics` of a tensor, computed where it lies.

    Parameters
    ----------
    features
        (n, p), float32 or float16. Blocks of its columns are centred and multiplied in the
        precision of :func:`~toolkit.encoding.gram.product_dtype`, and added up in float64.

    Raises
    ------
    FeaturesError
        If the products overflow.
    """
    n_rows, n_columns = features.shape
    is_double = product_dtype(n_rows, n_columns) is np.float64
    dtype = torch.float64 if is_double else torch.float32
    gram = torch.zeros((n_rows, n_rows), dtype=torch.float64, device=features.device)
    rows: RowStatistics | None = None
    for block in column_slices(n_columns, BLOCK_COLUMNS):
        values = features[:, block].to(dtype)
        mean = values.mean(dim=0, dtype=torch.float64)
        centred = values - mean.to(dtype)
        gram += (centred @ centred.T).double()
        more = _row_statistics(centred, mean)
        rows = more if rows is None else rows + more
    assert rows is not None
    symmetric = (gram + gram.T) / 2
    return finished(symmetric.cpu().numpy(), rows)


def _row_statistics(centred: torch.Tensor, mean: torch.Tensor) -> RowStatistics:
    spread = mean - mean.mean()
    totals = torch.stack([torch.ones_like(spread), spread], dim=1).to(centred.dtype)
    sums = (centred @ totals).double().cpu().numpy()
    return RowStatistics(
        n_features=len(mean),
        grand_mean=float(mean.mean()),
        mean_spread=float(spread @ spread),
        row_sums=np.ascontiguousarray(sums[:, 0]),
        mean_products=np.ascontiguousarray(sums[:, 1]),
    )
