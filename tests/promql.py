"""What a PromQL expression takes for granted, checked against the metrics and labels that there are."""

from collections.abc import Callable, Mapping

import promql_parser as promql

FROM_PROMETHEUS = frozenset({"job", "instance"})
"""Labels that every scraped series gets; a metric with one of its own would lose it."""
_ONLY_COUNTERS = {"rate", "irate", "increase"}
_COUNTED = ("_total", "_bucket", "_count", "_sum")
Labels = frozenset[str]


class Vocabulary:
    """Metrics by name, each with its labels. `up` is Prometheus' own."""

    def __init__(self, metrics: Mapping[str, frozenset[str]]) -> None:
        self._metrics = {"up": frozenset[str](), **metrics}

    def labels(self, expression: str) -> Labels:
        """The labels of the result. Fails on any metric or label that does not exist where it is used."""
        return self._of(promql.parse(expression))

    def _of(self, expr: promql.Expr) -> Labels:
        kinds: dict[type, Callable[..., Labels]] = {
            promql.VectorSelector: self._selector,
            promql.MatrixSelector: lambda e: self._selector(e.vector_selector),
            promql.SubqueryExpr: lambda e: self._of(e.expr),
            promql.ParenExpr: lambda e: self._of(e.expr),
            promql.UnaryExpr: lambda e: self._of(e.expr),
            promql.AggregateExpr: self._aggregate,
            promql.BinaryExpr: self._binary,
            promql.Call: self._call,
            promql.NumberLiteral: lambda _: frozenset(),
        }
        return kinds[type(expr)](expr)

    def _selector(self, selector: promql.VectorSelector) -> Labels:
        assert selector.name in self._metrics, f"no service exports {selector.name}"
        labels = self._metrics[selector.name] | FROM_PROMETHEUS
        used = {matcher.name for matcher in selector.matchers.matchers}
        assert used <= labels, f"{selector.name} has no label {sorted(used - labels)}"
        return labels

    def _call(self, call: promql.Call) -> Labels:
        if call.func.name in _ONLY_COUNTERS:
            name = call.args[0].vector_selector.name
            assert name.endswith(_COUNTED), f"{call.func.name}({name}): only counters have a rate"
        labels = self._of(call.args[-1])
        if call.func.name == "scalar":
            return frozenset()
        if call.func.name == "histogram_quantile":
            assert "le" in labels, "histogram_quantile needs the label le"
            return labels - {"le"}
        return labels

    def _aggregate(self, expr: promql.AggregateExpr) -> Labels:
        inner = self._of(expr.expr)
        if expr.modifier is None:
            return frozenset()
        named = frozenset(expr.modifier.labels)
        assert named <= inner, f"{expr.prettify()}: nothing has the label {sorted(named - inner)}"
        by = expr.modifier.type == promql.AggModifierType.By
        return named if by else inner - named

    def _binary(self, expr: promql.BinaryExpr) -> Labels:
        left, right = self._of(expr.lhs), self._of(expr.rhs)
        scalars = [_is_scalar(side) for side in (expr.lhs, expr.rhs)]
        if any(scalars):
            return right if scalars[0] else left
        matching = expr.modifier.matching if expr.modifier else None
        if matching is None:
            assert left == right, f"{expr.prettify()}: {sorted(left)} never matches {sorted(right)}"
        else:
            named = frozenset(matching.labels)
            assert named <= left, f"{expr.prettify()}: the left side lacks {sorted(named - left)}"
            assert named <= right, f"{expr.prettify()}: the right side lacks {sorted(named - right)}"
        return left


def _is_scalar(expr: promql.Expr) -> bool:
    if isinstance(expr, promql.ParenExpr):
        return _is_scalar(expr.expr)
    return isinstance(expr, promql.NumberLiteral) or (
        isinstance(expr, promql.Call) and expr.func.name == "scalar"
    )
