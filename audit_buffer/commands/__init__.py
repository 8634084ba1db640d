"""
The commands of `audit-buffer`, one module each; see `audit_buffer.cli`.
"""
