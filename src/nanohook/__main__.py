"""``python -m nanohook``."""

from nanohook.cli import main

main()
