"""version.py - of this package; the same as the C++ project's, a test looks."""
VERSION = "0.1.0"
