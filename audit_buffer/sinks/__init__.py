"""
Where batches go: the service's table, an application's own table, replayed calls, or a sink of your own.
"""

from audit_buffer.sinks._protocol import Batch, Gap, Sink
from audit_buffer.sinks._table import TableSink


__all__ = ["Batch", "Gap", "Sink", "TableSink"]
