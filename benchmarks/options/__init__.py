"""
The four ways to keep an audit write out of the domain operation, each built small; `compare.py` measures them.
"""
