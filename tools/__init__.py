"""What maintainers run; readers of the notebooks need none of it."""

import sys


def speak() -> None:
    """A name or a sign that the console cannot write is printed as its code, and is no failure.

    Consoles of Windows, and output that is redirected there, may know a few hundred signs only.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
