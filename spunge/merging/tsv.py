"""Task Singular Vectors merging, TSV-M (Gargiulo et al., CVPR 2025, arXiv 2412.00081).

RMU shards of one seed push the same matrices towards the same control vector, so their task vectors share singular
directions. A merge that looks at entries one by one can't see that; this one makes the shards' directions orthogonal.
"""

import torch

from spunge.models.matrix_products import by_mkl


@by_mkl()
def merge(matrices: list[torch.Tensor], weights: tuple[float, ...] | None = None) -> torch.Tensor:
    """Merge matrices of shape (rows, columns) into one.

    Of each of T matrices the first min(rows, columns) // T singular triplets are kept, at least one; side by side,
    the left vectors are replaced by the nearest matrix with orthonormal columns, the right ones likewise. Triplets
    beyond a matrix's numerical rank, which the authors' code keeps, have arbitrary vectors and are left out.
    """
    rows, columns = matrices[0].shape
    share = max(1, min(rows, columns) // len(matrices))
    weights = weights or (1.0,) * len(matrices)
    triplets = []
    for matrix, weight in zip(matrices, weights, strict=True):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        kept = min(share, _rank(values, max(rows, columns)))
        relative = weight * len(weights) / sum(weights)
        triplets.append((left[:, :kept].clone(), values[:kept] * relative, right[:kept].clone()))
    lefts, values, rights = zip(*triplets, strict=True)
    return _orthonormal(torch.cat(lefts, dim=1)) * torch.cat(values) @ _orthonormal(torch.cat(rights))


def _orthonormal(matrix: torch.Tensor) -> torch.Tensor:
    """Return P·Qᵀ of a matrix's singular value decomposition P·Σ·Qᵀ: its solution of the Procrustes problem.

    Directions beyond its rank are left out: there P and Q are arbitrary (two equal shards would give noise).
    """
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    rank = _rank(values, max(matrix.shape))
    return left[:, :rank] @ right[:rank]


def _rank(values: torch.Tensor, size: int) -> int:
    """Return how many singular values, in falling order, stand out from rounding errors, as torch's matrix_rank."""
    return int((values > values[:1] * size * torch.finfo(values.dtype).eps).sum())
