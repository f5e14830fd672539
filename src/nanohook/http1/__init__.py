"""HTTP/1.1 and 1.0 towards strangers: connections, requests and answers, on httptools' parser."""

from nanohook.http1.connection import Connection
from nanohook.http1.table import MOST_CONNECTIONS, Limits, Table

__all__ = ["MOST_CONNECTIONS", "Connection", "Limits", "Table"]
