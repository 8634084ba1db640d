"""
The asv suite (`nox -s benchmarks`), and `options/`: the four ways to keep audit writes out of the domain operation.
"""
