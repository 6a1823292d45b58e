"""Learns the transform: a colour rotation and one Karhunen-Loeve basis per colour channel."""

import numpy as np

from shared.arrays import Float64Array, UInt8Array
from shared.codec.entropy.transform import MEANS, PatchTransform
from shared.patches import PATCH_SIZE

_SAMPLES = PATCH_SIZE * PATCH_SIZE


def learn_transform(patches: UInt8Array) -> PatchTransform:
    """Learns from (n, 192) samples of patches, n in the tens of thousands.

    The statistics are averaged over the square's eight symmetries, which keeps means and gradients apart.
    """
    samples = patches.reshape(-1, _SAMPLES, 3).astype(np.float64) - 128
    colour = _eigenvectors(np.einsum("npc,npd->cd", samples, samples) / samples.shape[0])
    channels = np.einsum("npc,kc->nkp", samples, colour)
    rows, variances = [], []
    for channel in range(3):
        basis, variance = _channel_basis(channels[:, channel])
        rows.append(np.einsum("kp,c->kpc", basis, colour[channel]).reshape(_SAMPLES, -1))
        variances.append(variance)
    basis, variance = np.concatenate(rows), np.concatenate(variances)
    means = np.arange(MEANS) * _SAMPLES
    finer = np.setdiff1d(np.argsort(-variance, kind="stable"), means, assume_unique=True)
    order = np.concatenate([means, finer[np.argsort(-variance[finer], kind="stable")]])
    return PatchTransform(np.rint(basis[order] * (1 << 14)).astype(np.int16))


def _channel_basis(samples: Float64Array) -> tuple[Float64Array, Float64Array]:
    """(64, 64) rows, the even one first, and their variances."""
    even = np.full(_SAMPLES, 1 / PATCH_SIZE)
    without = np.eye(_SAMPLES) - np.outer(even, even)
    covariance = _symmetric(samples.T @ samples / len(samples))
    fine = _eigenvectors(without @ covariance @ without)[: _SAMPLES - 1]
    basis = np.concatenate([even[None], fine])
    return basis, np.einsum("kp,pq,kq->k", basis, covariance, basis)


def _symmetric(covariance: Float64Array) -> Float64Array:
    """Mean over mirrorings and transposition of the patch."""
    square = covariance.reshape(PATCH_SIZE, PATCH_SIZE, PATCH_SIZE, PATCH_SIZE)
    square = (square + square[::-1, :, ::-1]) / 2
    square = (square + square[:, ::-1, :, ::-1]) / 2
    square = (square + square.transpose(1, 0, 3, 2)) / 2
    return np.ascontiguousarray(square).reshape(_SAMPLES, _SAMPLES)


def _eigenvectors(matrix: Float64Array) -> Float64Array:
    """Rows, by falling eigenvalue, the first entry that is not tiny positive."""
    vectors = np.linalg.eigh(matrix)[1].T[::-1]
    firsts = vectors[np.arange(len(vectors)), np.argmax(np.abs(vectors) > 1e-6, axis=1)]
    return np.asarray(vectors * np.sign(firsts)[:, None])
