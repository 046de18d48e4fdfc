"""Where drivers' errors end and Relight's begin: clients are made here, with time limits, and errors translated."""
