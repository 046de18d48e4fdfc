"""Research agents on Relight, to run and to copy from. They are no part of what is installed."""
