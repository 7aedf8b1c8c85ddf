"""Predictions as vectors, so that a method is written as in its paper and costs little.

A ``Vector`` is a sum of a few tensors (B, ...), each times a weight for each image. ``+``, ``-``
and ``*`` with a number for each image only move weights; nothing of an image's size is touched.
``dot``, ``norm``, ``cosine`` and ``project`` ask for scalar products of the tensors, each pair of
which is computed once; the engine then writes the result once. What needs pixels asks for
``tensor()``, and a tensor may take the place of a vector anywhere::

    gap = positive - reference
    gap = gap * shrink(gap, radius)
    return (scale - 1) * (gap - (1 - self.eta) * project(gap, onto=positive.x0))
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from .tensors import append_dims, wide

_serials = itertools.count()


class Numbers:
    """A number for each image, (B,), in float64 on the images' device.

    It takes part in arithmetic with numbers, tensors (B, ...) and vectors. It has no truth and no
    value on the host, for which the host would have to wait: use ``where`` and ``clamp``.
    """

    __slots__ = ("_factor", "_tensor")

    def __init__(self, values: Tensor, factor: float = 1.0) -> None:
        self._tensor, self._factor = values, factor  # factors of the host are free until used

    @property
    def values(self) -> Tensor:
        """The tensor (B,)."""
        if self._factor != 1:
            self._tensor, self._factor = self._tensor * self._factor, 1.0
        return self._tensor

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, (float, int)):
            return Numbers(self._tensor, self._factor * other)
        if isinstance(other, Numbers):
            return Numbers(self._tensor * other._tensor, self._factor * other._factor)
        if isinstance(other, Tensor):
            return append_dims(self.values, other) * other
        return NotImplemented

    __rmul__ = __mul__

    def __add__(self, other: Any) -> Numbers:
        return Numbers(self.values + _plain(other))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Numbers:
        return Numbers(self.values - _plain(other))

    def __rsub__(self, other: Any) -> Numbers:
        return Numbers(_plain(other) - self.values)

    def __truediv__(self, other: Any) -> Numbers:
        if isinstance(other, (float, int)):
            return Numbers(self._tensor, self._factor / other)
        return Numbers(self._tensor / other._tensor, self._factor / other._factor)

    def __rtruediv__(self, other: Any) -> Any:
        return Numbers(self._tensor.reciprocal(), 1 / self._factor) * other

    def __neg__(self) -> Numbers:
        return Numbers(self._tensor, -self._factor)

    def __ge__(self, other: Any) -> Numbers:
        return Numbers(self.values >= _plain(other))

    def __gt__(self, other: Any) -> Numbers:
        return Numbers(self.values > _plain(other))

    def __le__(self, other: Any) -> Numbers:
        return Numbers(self.values <= _plain(other))

    def __lt__(self, other: Any) -> Numbers:
        return Numbers(self.values < _plain(other))

    def where(self, condition: Numbers, otherwise: float | Numbers) -> Numbers:
        """These where the condition holds, and the others elsewhere."""
        return Numbers(torch.where(condition.values, self.values, _plain(otherwise)))

    def clamp(self, low: float | None = None, high: float | None = None) -> Numbers:
        return Numbers(self.values.clamp(low, high))

    def sqrt(self) -> Numbers:
        """Of what is not negative but for rounding; its slope is finite at 0."""
        return Numbers(self.values.clamp_min(torch.finfo(self._tensor.dtype).tiny).sqrt())

    def exp(self) -> Numbers:
        return Numbers(self.values.exp())

    def log(self) -> Numbers:
        return Numbers(self.values.log())

    def __bool__(self) -> NoReturn:
        raise TypeError(
            "expected arithmetic with a number for each image, got a question of one truth for "
            "all, for which the host would wait for the device; use where and clamp"
        )

    __float__ = __int__ = __len__ = __iter__ = __bool__

    def __repr__(self) -> str:
        return f"Numbers({tuple(self._tensor.shape)})"


def _plain(value: float | Numbers) -> float | Tensor:
    return value.values if isinstance(value, Numbers) else value


Number = float | Numbers


class Span:
    """The step to which vectors belong: afterwards networks may overwrite what they are made of."""

    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over = False


class Basis:
    """One of the tensors of which vectors are made; it is computed when it is first needed."""

    __slots__ = ("_make", "_products", "_span", "_tensor", "made", "serial")

    def __init__(self, tensor: Tensor | Callable[[], Tensor], span: Span) -> None:
        self._tensor = tensor if isinstance(tensor, Tensor) else None
        self._make = None if isinstance(tensor, Tensor) else tensor
        self.made = self._make is not None  # and so nobody else's
        self._span, self.serial = span, next(_serials)
        self._products: dict[int, Tensor] = {}

    @property
    def tensor(self) -> Tensor:
        if self._span.over:
            raise RuntimeError(
                "a vector was used after its step; keep what a method needs later with state.set"
            )
        if self._tensor is None:
            assert self._make is not None
            self._tensor, self._make = self._make(), None
        return self._tensor

    def product(self, other: Basis) -> Tensor:
        """The scalar products (B,), computed once."""
        first, second = (self, other) if self.serial < other.serial else (other, self)
        if second.serial not in first._products:
            first._products[second.serial] = products(first.tensor, second.tensor)
        return first._products[second.serial]


def products(a: Tensor, b: Tensor) -> Tensor:
    """The scalar products of two batches (B, ...) over all but the batch, (B,).

    In float32 along the last dimension and in float64 from there on, so that nothing of an
    image's size is in float64. No matrix product, which may round to TF32 and depend on the batch.
    """
    if a is b:
        sums = wide(torch.linalg.vector_norm(a, dim=-1)).square()
    else:
        sums = wide((a * b).sum(dim=-1))
    return sums.flatten(1).sum(dim=1) if sums.dim() > 1 else sums


class Vector:
    """A sum of tensors (B, ...) with a weight for each image. It is valid within its step.

    Attributes:
        weights: of its tensors; a weight is a number, or one for each image.
    """

    __slots__ = ("_like", "weights")

    def __init__(self, weights: dict[Basis, Number], like: Basis) -> None:
        self.weights, self._like = weights, like

    @classmethod
    def of(
        cls,
        tensor: Tensor | Callable[[], Tensor],
        span: Span | None = None,
        weight: Number = 1.0,
    ) -> Vector:
        """``weight`` times a tensor (B, ...), or what makes it when it is needed."""
        basis = Basis(tensor, Span() if span is None else span)
        return cls({basis: weight if isinstance(weight, Numbers) else float(weight)}, basis)

    @property
    def shape(self) -> torch.Size:
        """(B, ...), as of its tensor."""
        return self._like.tensor.shape

    def __add__(self, other: Vector | Tensor) -> Vector:
        if isinstance(other, Tensor):
            other = Vector.of(other)
        if not isinstance(other, Vector):
            return NotImplemented
        weights = dict(self.weights)
        for basis, weight in other.weights.items():
            total = weights[basis] + weight if basis in weights else weight
            weights[basis] = total
            # What cancels is not multiplied by 0, which is NaN where it is not finite.
            if not isinstance(total, Numbers) and not total:
                del weights[basis]
        return Vector(weights, self._like)

    __radd__ = __add__

    def __neg__(self) -> Vector:
        return self * -1.0

    def __sub__(self, other: Vector | Tensor) -> Vector:
        return self + -other

    def __rsub__(self, other: Vector | Tensor) -> Vector:
        return -self + other

    def __mul__(self, factor: Number | Tensor) -> Vector:
        if isinstance(factor, Vector):
            return NotImplemented
        if isinstance(factor, Tensor):
            if factor.dim() and factor.numel() != len(factor):  # a number for each pixel
                return Vector.of(self.tensor() * factor)
            factor = Numbers(wide(factor.flatten()))
        if isinstance(factor, (float, int)) and factor == 0:
            return Vector({}, self._like)
        weights: dict[Basis, Number] = {b: w * factor for b, w in self.weights.items()}
        return Vector(weights, self._like)

    __rmul__ = __mul__

    def __truediv__(self, divisor: Number) -> Vector:
        return Vector({b: w / divisor for b, w in self.weights.items()}, self._like)

    def tensor(self) -> Tensor:
        """The sum, (B, ...), in at least float32. Do not write into it: it may be a basis."""
        total: Tensor | None = None
        # One that has the weight 1 comes first: it is exact where zeros are added.
        for basis, weight in sorted(self.weights.items(), key=lambda item: not _is_one(item[1])):
            total = _add(total, basis.tensor, weight)
        return torch.zeros_like(self._like.tensor) if total is None else total

    def written(self) -> tuple[Tensor, float]:
        """A tensor of its own and a number, whose product it is; to be kept beyond the step."""
        plain = [weight for weight in self.weights.values() if isinstance(weight, float)]
        factor = max(plain, key=abs, default=1.0)  # what is divided by it cannot overflow
        tensor = (self / factor).tensor()
        ours = len(self.weights) != 1 or next(iter(self.weights)).made
        return (tensor if ours else tensor.clone()), factor

    def is_finite(self) -> bool:
        """Are its weights, and those of its tensors that were computed? Waits for the device."""
        known = [basis._tensor for basis in self.weights if basis._tensor is not None]
        known += [weight.values for weight in self.weights.values() if isinstance(weight, Numbers)]
        plain = (weight for weight in self.weights.values() if not isinstance(weight, Numbers))
        return all(map(math.isfinite, plain)) and all(bool(t.isfinite().all()) for t in known)

    def __repr__(self) -> str:
        return f"Vector({', '.join(map(str, self.weights.values()))})"


Batch = Vector | Tensor


def as_vector(value: Batch) -> Vector:
    return Vector.of(value) if isinstance(value, Tensor) else value


def dot(a: Batch, b: Batch) -> Numbers:
    """The scalar product of two batches of images (B, ...), for each image."""
    a, b = as_vector(a), as_vector(b)
    total: Numbers | None = None
    for one, weight in a.weights.items():
        for other, factor in b.weights.items():
            part, both = Numbers(one.product(other)), weight * factor
            part = part if _is_one(both) else part * both
            total = part if total is None else total + part
    if total is not None:
        return total
    like = a._like.tensor
    return Numbers(wide(like.new_zeros(len(like))))


def norm(a: Batch) -> Numbers:
    """The Euclidean norm of each image; of a zero vector the smallest number, to divide by."""
    a = as_vector(a)
    return dot(a, a).sqrt()


def cosine(a: Batch, b: Batch) -> Numbers:
    """The cosine of two batches of images, for each image; zero vectors give 0."""
    return dot(a, b) / (norm(a) * norm(b))


def project(a: Batch, onto: Batch) -> Vector:
    """The part of ``a`` along ``onto``, image by image; 0 along a zero vector."""
    onto = as_vector(onto)
    return onto * (dot(a, onto) / dot(onto, onto).clamp(low=TINY))


def spread(a: Batch) -> Numbers:
    """The standard deviation over each image."""
    return Numbers(wide(as_vector(a).tensor().flatten(1).std(dim=1, correction=0)))


TINY = torch.finfo(torch.float32).tiny  # what is divided by is at least this


def _is_one(weight: Number) -> bool:
    return isinstance(weight, float) and weight == 1


def _add(total: Tensor | None, tensor: Tensor, weight: Number) -> Tensor:
    """``total + weight * tensor`` in one pass."""
    if total is None:
        return tensor if _is_one(weight) else weight * tensor
    if isinstance(weight, Numbers):
        return torch.addcmul(total, tensor, append_dims(weight.values, tensor))
    return torch.add(total, tensor, alpha=weight)
